"""The hints: a wake-up may be lost, with what it tells beside, and only saves a reader's time."""
