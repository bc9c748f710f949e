"""A session's request on its way to the worker that is the session's home, and the reply."""
