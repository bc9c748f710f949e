"""The hints: a wake-up carries no data, may be lost, and only saves a reader's time."""
