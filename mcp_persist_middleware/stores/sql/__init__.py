"""What every SQL store shares."""
