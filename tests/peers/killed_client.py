"""A client of `tests.peers.killed`; runs with either Python SDK.

`python -m tests.peers.killed_client NAME URL PATIENCE` prints one line of JSON for each progress
event of a call that never ends by itself, one for its end, and one for the call after it, which
it makes when it is told to by a line.
"""

import asyncio
import json
import sys
import time
from typing import Any

from tests.matrix.clients import CLIENTS, CallTool


def _print(**line: Any) -> None:
    print(json.dumps(line), flush=True)


async def _call(call_tool: CallTool, name: str, n: int, patience: float) -> None:
    async def progress(value: float, _total: float | None, _message: str | None) -> None:
        _print(progress=int(value), of=name)

    began, result, error = time.monotonic(), "", ""
    try:
        async with asyncio.timeout(patience):
            answer = await call_tool("count", {"n": n, "delay": 0.05}, progress)
            failed = getattr(answer, "is_error", getattr(answer, "isError", False))
            result, error = ("", answer.content[0].text) if failed else (answer.content[0].text, "")
    except TimeoutError:
        error = f"no end in {patience:g} s"
    except Exception as raised:
        error = str(raised)
    _print(ended=name, result=result, error=error, seconds=time.monotonic() - began)


async def main() -> None:
    """Both calls, in one session."""
    name, url, patience = sys.argv[1], sys.argv[2], float(sys.argv[3])
    async with CLIENTS[name](url) as call_tool:
        await _call(call_tool, "first", 100_000, patience)
        await asyncio.to_thread(sys.stdin.readline)
        await _call(call_tool, "second", 3, patience)


if __name__ == "__main__":
    asyncio.run(main())
