"""A TCP proxy that cuts responses, slows them down, and sends requests to servers of its choice."""
