"""A stream that is open before anybody waits for it is delivered without a wait."""

import asyncio
from typing import Any, cast

from mcp_persist_middleware.asgi.client import Client, stay
from mcp_persist_middleware.streams import serve
from mcp_persist_middleware.streams.opening import Opening
from mcp_persist_middleware.streams.state import Opened


class Running:
    """An exchange whose stream was opened before it ran."""

    def __init__(self) -> None:
        self.opening = Opening()


async def test_a_stream_that_is_open_already_is_not_waited_for() -> None:
    running, nothing = Running(), cast(Any, None)
    opened = Opened(nothing, [])
    running.opening.found(opened)
    running.opening.announce()
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await serve.answer(nothing, cast(Any, running), Client(stay), nothing) is opened
    assert loop.time() - began < serve._UNWATCHED / 2
