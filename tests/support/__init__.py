"""What tests share: real server processes, a raw client and a connection-cutting relay."""
