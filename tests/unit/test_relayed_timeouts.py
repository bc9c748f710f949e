"""An application's own time-out at a relayed request is its error, and not that it was late."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mcp_persist_middleware.model import RelayRequest, SessionKey
from mcp_persist_middleware.relay import execute
from mcp_persist_middleware.relay.envelope import BufferedResponse, Reply
from mcp_persist_middleware.relay.execute import Executor


async def stopped(*_: object) -> Reply:
    """An application that has waited for something else for too long."""
    raise TimeoutError


async def test_a_time_out_of_the_application_is_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def opened(*_: object) -> object:
        return SimpleNamespace(body=b"")

    monkeypatch.setattr(execute, "away", opened)
    held = SimpleNamespace(record=SimpleNamespace(generation=1), owner=None, site=stopped)
    sessions = SimpleNamespace(held=lambda _: held)
    executor = Executor(cast(Any, sessions), None, "here", 60)
    key = SessionKey("", "/mcp", "s")
    request = RelayRequest(b"r", key, "here", 1, 0.0, b"", sealed=False)
    reply = await executor.run(request, [], cast(Any, asyncio.Event().wait))
    assert isinstance(reply, BufferedResponse)
    assert reply.status == 500
