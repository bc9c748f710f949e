"""A client of `tests.peers.deployed`; runs with any Python SDK.

`python -m tests.peers.deployed_client NAME URL` connects, then reads one call a line as JSON
(`[tool, arguments]`) and prints its outcome as a line of JSON.
"""

import asyncio
import json
import sys
from typing import Any

from tests.matrix.clients import CLIENTS, CallTool

_PATIENCE = 25.0


async def _call(call_tool: CallTool, tool: str, given: dict[str, Any]) -> dict[str, Any]:
    progress: list[int] = []

    async def seen(value: float, _total: float | None, _message: str | None) -> None:
        progress.append(int(value))
        print(json.dumps({"progress": int(value)}), flush=True)

    result, error = "", ""
    try:
        async with asyncio.timeout(_PATIENCE):
            answer = await call_tool(tool, given, seen)
        failed = getattr(answer, "is_error", getattr(answer, "isError", False))
        text = answer.content[0].text
        result, error = ("", text) if failed else (text, "")
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    for _ in range(100):  # callbacks may run in tasks of their own
        if len(progress) >= given.get("n", 0) or error:
            break
        await asyncio.sleep(0.01)
    return {"result": result, "error": error, "seen": progress}


async def main() -> None:
    """One session, calls as they are asked for."""
    name, url = sys.argv[1:]
    async with CLIENTS[name](url) as call_tool:
        print(json.dumps({"connected": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            tool, given = json.loads(line)
            print(json.dumps(await _call(call_tool, tool, given)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
