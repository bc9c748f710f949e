"""Servers that speak on their standard input and output, as an ASGI application."""

from mcp_persist_middleware.ops.proxy.stdio.options import StdioOptions
from mcp_persist_middleware.ops.proxy.stdio.upstream import StdioUpstream

__all__ = ["StdioOptions", "StdioUpstream"]
