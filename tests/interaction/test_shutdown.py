"""What SIGTERM does to those who wait for an answer, to those who wait for nothing, and to the
streams of others in the process."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.peers import servers
from tests.support.processes import ServerProcess, mcp_server, running
from tests.support.session import RawSession, last_id
from tests.support.sse_client import Frame, Response, request

# uvicorn shuts down in order and then ends by the signal that it was sent.
_IN_ORDER = (0, -signal.SIGTERM)
_STEPS = 15


def _progress(frames: list[Frame]) -> list[int]:
    return [frame.progress for frame in frames if frame.progress is not None]


async def _started_call(session: RawSession, steps: int = _STEPS) -> tuple[Response, list[Frame]]:
    """A call of `steps` times 0.2 s that has begun, and what it has sent."""
    call = await session.call("count", n=steps, delay=0.2)
    return call, await call.take(3)


async def _rest(response: Response) -> list[Frame]:
    """Everything until the end of the body; a body that does not end in order raises."""
    return [frame async for frame in response.frames()]


@pytest.mark.parametrize("kind", ["sdk", "fastmcp"])
async def test_a_call_in_flight_at_sigterm_arrives_whole_at_its_client(
    tmp_path: Path, kind: str
) -> None:
    async with running(mcp_server(tmp_path, server=kind)) as server:
        call, seen = await _started_call(await RawSession.open(server.port))
        ending = asyncio.create_task(server.terminate())
        seen += await _rest(call)
        assert _progress(seen) == list(range(1, _STEPS + 1))
        assert "result" in seen[-1].message
        assert await ending in _IN_ORDER
        assert f"count {_STEPS} finished" in server.log
        assert not server.complaints


async def _replayed(server: ServerProcess, session: RawSession, seen: list[Frame]) -> None:
    """After a restart the client gets the rest of its call, down to the result."""
    await server.start()
    frames = seen + await _rest(await session.get(last_id(seen)))
    assert _progress(frames) == list(range(1, _STEPS + 1))
    assert "result" in frames[-1].message


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
async def test_a_call_whose_client_is_away_ends_and_is_replayed_after_the_restart(
    tmp_path: Path, version: str
) -> None:
    # At 2026-07-28 that is a cancellation, but for a server that is about to leave as well.
    async with running(mcp_server(tmp_path, settings={"disconnect_grace": 1.5})) as server:
        session = await RawSession.open(server.port, version)
        call, seen = await _started_call(session)
        call.reset()
        assert await server.terminate() in _IN_ORDER
        await _replayed(server, session, seen)


async def test_a_client_that_leaves_during_the_shutdown_has_not_cancelled(tmp_path: Path) -> None:
    async with running(mcp_server(tmp_path, settings={"disconnect_grace": 0.1})) as server:
        idle = await (await RawSession.open(server.port)).get()
        session = await RawSession.open(server.port, "2026-07-28")
        call, seen = await _started_call(session)
        ending = asyncio.create_task(server.terminate())
        await _rest(idle)
        call.reset()
        assert await ending in _IN_ORDER
        await _replayed(server, session, seen)


async def test_a_call_longer_than_drain_seconds_is_told_so_after_the_restart(
    tmp_path: Path,
) -> None:
    async with running(mcp_server(tmp_path, settings={"drain_seconds": 1})) as server:
        session = await RawSession.open(server.port)
        (here, seen), (away, before) = [await _started_call(session, 100) for _ in range(2)]
        away.reset()
        ending = asyncio.create_task(server.terminate())
        seen += await _rest(here)
        assert seen[-1].retry == 3000
        assert not any(frame.is_response for frame in seen)
        assert await ending in _IN_ORDER
        await server.start()
        for part in (seen, before):
            frames = part + await _rest(await session.get(last_id(part)))
            assert _progress(frames) == list(range(1, len(_progress(frames)) + 1))
            error = frames[-1].message["error"]
            assert error["code"] == -32000
            assert "the server was shut down before the request had ended" in error["message"]
        assert "count 100 finished" not in server.log


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_drain_at_once_and_calls_are_told_so(
    tmp_path: Path, sign: signal.Signals
) -> None:
    settings = {"drain_seconds": 60}
    async with running(mcp_server(tmp_path, settings=settings)) as server:
        session = await RawSession.open(server.port)
        (here, seen), (away, before) = [await _started_call(session, 500) for _ in range(2)]
        away.reset()
        idle = await session.get()
        os.kill(server.pid, sign)
        # Who waits for nothing leaves with the first word.
        await _rest(idle)
        ending = asyncio.create_task(server._end(sign, 20))
        seen += await _rest(here)
        assert seen[-1].retry == 3000
        await ending
        await server.start()
        for part in (seen, before):
            frames = part + await _rest(await session.get(last_id(part)))
            assert "error" in frames[-1].message
        # With the second SIGINT uvicorn tears down the lifespan as well, as it does bare.
        assert sign is signal.SIGINT or not server.complaints


async def test_240_idle_streams_and_their_shadows_end_cleanly_and_do_not_wait_for_the_drain(
    tmp_path: Path,
) -> None:
    async with running(mcp_server(tmp_path)) as server:
        gate = asyncio.Semaphore(20)

        async def opened() -> list[Response]:
            async with gate:
                session = await RawSession.open(server.port)
                # The second connection receives; the first one stays as its shadow.
                return [await session.get() for _ in range(2)]

        pairs = await asyncio.gather(*(opened() for _ in range(120)))
        streams = [stream for pair in pairs for stream in pair]
        reading = [asyncio.create_task(_rest(stream)) for stream in streams]
        began = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        bodies = await asyncio.gather(*reading)
        # Half of the drain's 8 seconds.
        assert time.monotonic() - began < 4
        assert all(frames[-1].retry == 3000 for frames in bodies)
        assert await server.exit_code() in _IN_ORDER


async def test_a_connection_that_the_server_cuts_sooner_ends_in_order_and_the_call_goes_on(
    tmp_path: Path,
) -> None:
    server = mcp_server(tmp_path, arguments=["--timeout-graceful-shutdown", "1"])
    async with running(server):
        session = await RawSession.open(server.port)
        call, seen = await _started_call(session)
        ending = asyncio.create_task(server.terminate())
        seen += await _rest(call)
        assert seen[-1].retry == 3000
        assert await ending in _IN_ORDER
        await _replayed(server, session, seen)


def _neighbours(directory: Path, *, persist: bool) -> ServerProcess:
    environ = {"TEST_PERSIST": f"sqlite+aiosqlite:///{directory / 'events.db'}"} if persist else {}
    app = "tests.support.neighbours:app()"
    return ServerProcess(app, directory / "server.log", environ=environ)


async def _chat_end(server: ServerProcess) -> tuple[Any, float]:
    """How the endpoint beside us ends at SIGTERM, and after how long."""
    chat = await request(server.port, "GET", "/chat")
    await chat.take(1)
    began = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    try:
        ending: Any = await _rest(chat)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        ending = type(error)
    return ending, time.monotonic() - began


async def test_a_neighbours_stream_ends_as_it_does_without_us_while_our_call_goes_on(
    tmp_path: Path,
) -> None:
    async with running(_neighbours(tmp_path, persist=False)) as bare:
        without, _ = await _chat_end(bare)
        await bare.exit_code()
    async with running(_neighbours(tmp_path, persist=True)) as server:
        call, seen = await _started_call(await RawSession.open(server.port))
        ending, seconds = await _chat_end(server)
        assert ending == without
        # sse-starlette looks every half second.
        assert seconds < 2.5
        assert f"count {_STEPS} finished" not in server.log
        seen += await _rest(call)
        assert "result" in seen[-1].message
        assert await server.exit_code() in _IN_ORDER


async def test_a_mounted_application_drains_when_its_parent_closes_it(tmp_path: Path) -> None:
    async with running(_neighbours(tmp_path, persist=True)) as server:
        session = await RawSession.open(server.port)
        call, seen = await _started_call(session)
        call.reset()
        assert await server.terminate() in _IN_ORDER
        assert f"count {_STEPS} finished" in server.log
        await _replayed(server, session, seen)


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
async def test_other_servers_let_calls_end_and_send_idle_clients_away(
    tmp_path: Path, server: str
) -> None:
    assert await servers.shuts_down(server, tmp_path)
