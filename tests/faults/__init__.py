"""What happens to real processes: they are killed, stopped, and cut off from their store."""
