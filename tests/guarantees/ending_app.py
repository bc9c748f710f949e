"""A server whose calls end in every way but the right one; `uvicorn --factory`, `TEST_PERSIST`
names its store."""

import asyncio
import json
import os
import sys
from typing import Any

from mcp_persist_middleware import PersistMiddleware
from tests.support.scripted import Call, Message, Receive, Scripted, Send


async def _begin(call: Call) -> None:
    await call.head()
    await call.progress(1)
    print(f"begun {call.request['id']!r}", file=sys.stderr, flush=True)


async def hang(call: Call) -> None:
    """One event, and then nothing."""
    await _begin(call)
    await asyncio.Event().wait()


async def raises(call: Call) -> None:
    """One event, then an exception."""
    await _begin(call)
    raise RuntimeError("in the middle")


async def returns(call: Call) -> None:
    """One event, and the application returns without an end of its body."""
    await _begin(call)


async def closes(call: Call) -> None:
    """One event, and an orderly end of the body."""
    await _begin(call)
    await call.end()


async def lingers(call: Call) -> None:
    """The same, and the application does not return."""
    await closes(call)
    await asyncio.Event().wait()


async def answers(call: Call) -> None:
    """As it should be."""
    await _begin(call)
    await call.result()


TOOLS = {tool.__name__: tool for tool in (hang, raises, returns, closes, lingers, answers)}


class Batches(Scripted):
    """`Scripted`, and batches of 2025-03-26: of their requests those for `answers` are answered, in
    one stream; what becomes of the others says the tool of the last one."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def look() -> Message:
            return first

        if scope["type"] != "http" or scope["method"] != "POST":
            await super().__call__(scope, receive, send)
            return
        first = await receive()
        loaded: Any = json.loads(first["body"])
        if not isinstance(loaded, list):
            await super().__call__(scope, look, send)
            return
        requests = [Call(each, scope, receive, send) for each in loaded if "id" in each]
        await requests[0].head()
        for call in requests:
            print(f"run {call.request['id']!r}", file=sys.stderr, flush=True)
            if call.request["params"]["name"] == "answers":
                result = {"content": [{"type": "text", "text": "done"}]}
                await call.emit({"id": call.request["id"], "result": result})
        match requests[-1].request["params"]["name"]:
            case "hang":
                print("begun batch", file=sys.stderr, flush=True)
                await asyncio.Event().wait()
            case "raises":
                raise RuntimeError("in the middle")
            case "returns":
                return
        await requests[-1].end()


def app() -> PersistMiddleware:
    """One worker."""
    return PersistMiddleware(Batches(**TOOLS), url=os.environ["TEST_PERSIST"])
