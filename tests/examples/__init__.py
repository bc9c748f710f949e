"""Every file below `examples/` runs, and does what it is there to show."""
