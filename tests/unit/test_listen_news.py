"""What is told on a listen while its client is sent something is sent behind that, at once."""

import asyncio
from typing import Any, cast

from mcp_persist_middleware.protocol.hints import Hint
from mcp_persist_middleware.streams.hints.serve import ListenStream


class Running:
    """An application that goes on."""

    is_over = False


def listening() -> ListenStream:
    """A listen that nobody but its own news wakes."""
    nothing: Any = None
    return ListenStream(nothing, nothing, cast(Any, Running()), 1, nothing, None)


async def test_a_hint_that_comes_while_another_is_sent_is_not_left_waiting() -> None:
    listen = listening()
    bodies = listen._bodies()
    listen.tell(Hint("notifications/resources/updated", "a://1"))
    assert b"a://1" in await anext(bodies)
    listen.tell(Hint("notifications/resources/updated", "a://2"))
    async with asyncio.timeout(2):
        assert b"a://2" in await anext(bodies)


async def test_a_task_that_changes_while_its_last_change_is_sent_is_not_left_waiting() -> None:
    listen = listening()
    bodies = listen._bodies()
    listen.tell_of("task", b"notifications/tasks", b'{"status":"working"}')
    assert b"working" in await anext(bodies)
    listen.tell_of("task", b"notifications/tasks", b'{"status":"completed"}')
    async with asyncio.timeout(2):
        assert b"completed" in await anext(bodies)
