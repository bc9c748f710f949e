"""What a server pays for `import mcp_persist_middleware`: what serves, and nothing else."""

import subprocess
import sys

from mcp_persist_middleware import Persistence

_NOT_FOR_SERVING = {
    "mcp_persist_middleware.ops",
    "mcp_persist_middleware.testing",
    "mcp",
    "fastmcp",
    "fastapi",
    "asyncpg",
    "redis",
    "aiohttp",
    "rich",
    "pytest",
}


def test_an_import_warns_of_nothing_and_brings_no_demo_no_fault_proxy_and_no_sdk() -> None:
    code = "import sys, mcp_persist_middleware; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "mcp_persist_middleware.middleware" in loaded
    assert loaded & _NOT_FOR_SERVING == set()


def test_completion_shows_what_is_for_users_and_nothing_else() -> None:
    shown = {name for name in dir(Persistence("events.db")) if not name.startswith("_")}
    said = "aclose deletions drain forget health ping reports settings start subscribe"
    assert shown == set(said.split())
