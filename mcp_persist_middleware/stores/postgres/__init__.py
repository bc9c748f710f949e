"""The shared store: PostgreSQL, the workers of many hosts."""
