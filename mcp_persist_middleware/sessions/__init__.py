"""Sessions outlive the process that made them."""
