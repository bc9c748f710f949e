"""One file for each guarantee. Every test here has been seen to fail without its mechanism."""
