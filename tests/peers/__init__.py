"""Scripts that hold the middleware against other clients, servers and libraries."""
