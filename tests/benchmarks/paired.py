"""What a setting costs beside the plain store, in one process that serves both in turn: the
processor's time, all threads together. Of each the least of many rounds counts: what else a machine
does only adds to it."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import Any

from mcp_persist_middleware import Persistence, PersistMiddleware
from tests.benchmarks import texts
from tests.benchmarks.contenders import OURS, Contender
from tests.benchmarks.report import Taken
from tests.benchmarks.rounds import Plan

# What is written beside the calls is written by then (seconds).
_BESIDE = 0.6
_EVENTS = 100
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"accept", b"application/json, text/event-stream"),
    (b"mcp-protocol-version", b"2025-11-25"),
]
_SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/mcp",
    "root_path": "",
    "query_string": b"",
    "scheme": "http",
    "http_version": "1.1",
    "headers": _HEADERS,
    "asgi": {"version": "3.0"},
}


async def paired_calls(plan: Plan) -> list[Taken]:
    """Calls that are answered with 2 KB, and calls of many small events."""
    count, rows = plan.pick(100, 200), []
    others = [each for each in plan.ours if each.settings and each.store == "sqlite"]
    for goal, tool, each in (("paired-call", "answer", count), ("paired-event", "burst", 8)):
        taken = await _taken(plan, [OURS["sqlite"], *others], tool, each)
        plain, unit = taken[OURS["sqlite"]], each * (_EVENTS if tool == "burst" else 1)
        for contender in others:
            least, base = [min(taken[contender]) / unit], [min(plain) / unit]
            rows.append(Taken(goal, contender, least, base, is_bare=False))
    return rows


async def _taken(
    plan: Plan, contenders: list[Contender], tool: str, count: int
) -> dict[Contender, list[float]]:
    """Microseconds of the processor for so many calls, round by round."""
    taken: dict[Contender, list[float]] = {each: [] for each in contenders}
    async with AsyncExitStack() as stack:
        apps = []
        for contender in contenders:
            path = plan.servers.directory / f"paired-{tool}-{len(apps)}.db"
            persistence = Persistence(str(path), **contender.settings)
            await stack.enter_async_context(persistence)
            apps.append((contender, PersistMiddleware(_app, persistence=persistence)))
        for number in range(8 * plan.rounds + 1):
            turned = number % len(apps)
            for contender, app in apps[turned:] + apps[:turned]:
                began = time.process_time()
                for _ in range(count):
                    await _call(app, tool)
                await asyncio.sleep(_BESIDE)
                if number:
                    taken[contender].append((time.process_time() - began) * 1e6)
    return taken


async def _call(app: Any, tool: str) -> None:
    params = {"name": tool, "arguments": {}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    request, over = (
        [{"type": "http.request", "body": json.dumps(message).encode()}],
        asyncio.Event(),
    )
    bodies: list[bytes] = []

    async def receive() -> dict[str, Any]:
        if request:
            return request.pop()
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        bodies.append(message.get("body", b""))

    await app({**_SCOPE}, receive, send)
    over.set()
    told = b"".join(bodies)
    # What is not logged costs less, and is not what is measured.
    assert b'"result"' in told
    assert b"\nid: " in b"\n" + told


async def _app(scope: Any, receive: Any, send: Any) -> None:
    call = json.loads((await receive())["body"])
    if call["method"] != "tools/call":
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    head = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    if call["params"]["name"] == "burst":
        for number in range(_EVENTS):
            params = {"progressToken": 1, "progress": number, "message": "one more of many"}
            await _emit(send, {"method": "notifications/progress", "params": params})
    content = [{"type": "text", "text": texts.text("2k")}]
    await _emit(send, {"id": call["id"], "result": {"content": content}})
    await send({"type": "http.response.body", "body": b""})


async def _emit(send: Any, message: dict[str, Any]) -> None:
    data = json.dumps({"jsonrpc": "2.0", **message}).encode()
    body = b"event: message\r\ndata: " + data + b"\r\n\r\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})
