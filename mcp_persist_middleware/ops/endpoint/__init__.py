"""An MCP endpoint as a client sees it: what it speaks is found out by asking. No tool is called,
and every session that begins here is ended."""
