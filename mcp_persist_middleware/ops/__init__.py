"""Everything an operator runs; nothing of the library imports it."""
