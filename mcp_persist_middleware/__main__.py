"""`python -m mcp_persist_middleware` is the command line."""

import sys

from mcp_persist_middleware.ops.cli import main

if __name__ == "__main__":
    sys.exit(main())
