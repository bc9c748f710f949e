"""The client matrix: every official client against every official server, cut in every call."""
