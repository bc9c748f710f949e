"""What every store has to do, told once for all of them."""
