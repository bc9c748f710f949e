"""Who lives: heartbeats, leases, the failure detector, and who reads where."""
