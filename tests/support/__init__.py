"""What tests share: real server processes, and a raw client."""
