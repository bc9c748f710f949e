"""An official client with a clock, in front of an official server that is killed and begun again: a
tool that takes longer than the clock is had in a few calls, and runs once."""

import importlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.processes import ServerProcess, mcp_server, running
from tests.support.scripted import until

_CLOCK, _HAND_BACK = 2.5, 0.8
_ANN = {"authorization": "Bearer ann"}


@asynccontextmanager
async def modern(url: str) -> AsyncIterator[Any]:
    """Speaks 2026-07-28: no session, and whoever leaves has cancelled."""
    mcp: Any = importlib.import_module("mcp")
    transport: Any = importlib.import_module("mcp.client.streamable_http")
    async with httpx2.AsyncClient(headers=_ANN, timeout=30) as http:
        streams = transport.streamable_http_client(url, http_client=http)
        async with mcp.Client(streams, read_timeout_seconds=_CLOCK) as client:
            yield client


@asynccontextmanager
async def handshake(url: str) -> AsyncIterator[Any]:
    """Speaks 2025-11-25, with a session of its own each time."""
    mcp: Any = importlib.import_module("mcp")
    transport: Any = importlib.import_module("mcp.client.streamable_http")
    async with (
        httpx2.AsyncClient(headers=_ANN, timeout=30) as http,
        transport.streamable_http_client(url, http_client=http) as (read, write, *_),
        mcp.ClientSession(read, write, read_timeout_seconds=_CLOCK) as session,
    ):
        await session.initialize()
        yield session


async def call(connect: Any, server: ServerProcess, **arguments: Any) -> str:
    async with connect(server.url) as client:
        result = await client.call_tool("slow", arguments)
        assert not result.is_error
        return str(result.content[0].text)


def running_jobs(directory: Path) -> int:
    """How many have no answer in the store yet."""
    joined = "mcp_job JOIN mcp_stream ON mcp_stream.id = mcp_job.stream"
    with closing(sqlite3.connect(directory / "events.db")) as file:
        (count,) = file.execute(f"SELECT count(*) FROM {joined} WHERE state = 0").fetchone()
    return int(count)


@pytest.mark.parametrize("connect", [modern, handshake])
async def test_a_tool_that_outlasts_the_clock_is_had_and_runs_once(
    tmp_path: Path, connect: Any
) -> None:
    settings = {"hand_back": _HAND_BACK}
    server = mcp_server(tmp_path, settings=settings)
    async with running(server):
        told = [await call(connect, server, seconds=5.2) for _ in range(2)]
        assert all('call "slow" again' in each for each in told)
        # A changed argument runs anew.
        assert "slept 0.1" in await call(connect, server, seconds=0.1)
        await until(lambda: "tool slow 5.2 finished" in server.log and not running_jobs(tmp_path))
        await server.kill()
        await server.start()
        assert "slept 5.2" in await call(connect, server, seconds=5.2)
        assert server.log.count("tool slow 5.2 started") == 1
