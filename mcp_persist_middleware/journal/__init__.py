"""The journal: a row for each exchange that has ended, in every era, written beside requests."""
