"""The embedded default: one file, the processes of one host."""
