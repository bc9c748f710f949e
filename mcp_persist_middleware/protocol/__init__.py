"""The protocol as pure functions of bytes: nothing in this package awaits."""
