"""What the proxy is shown to do in front of servers that are not ours; run by hand."""
