"""Shows that uvicorn, hypercorn and granian serve the same, and refuse to start on a bad setting.

On each server a raw client reads a call at 250 events/s and two flat out, is cut every 12 events
and comes back with its cursor; a client leaves and comes back when the call is over, another one
never does. It is stopped (SIGTERM) with one call that has its client, one whose client is away,
one that is too long, and an idle stream, and started again. Then each server is started with a URL
of an unknown kind, an unknown setting and a directory that cannot be written to.

Run:     python -m tests.peers.servers
         (needs the test environment: hypercorn and granian beside uvicorn)
Expect:  0 lost, 0 doubled, 0 reordered on each server and in both eras; a finished call is
         replayed whole, the replay ends by itself, and its last cursor is answered with 204; at
         2026-07-28 the call of a client that left is cancelled; at the stop the idle stream ends
         within 2 s, the first call arrives whole, the second is replayed after the restart, the
         third is answered with an error, all bodies end in order; every start-up failure
         ends the server with a code that is not zero and a sentence that names the value and the
         fix; exit code 0.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.cutting import count_through_cuts, summary
from tests.support.processes import ROOT
from tests.support.session import HANDSHAKE, MODERN, RawSession, last_id
from tests.support.sse_client import Frame, Response

_APP = "tests.peers.apps:app"
_COMMANDS = {
    "uvicorn": ("uvicorn", "--factory", _APP, "--port", "{port}"),
    # With worker processes hypercorn 0.18 loses their exit code and ends with 0 for any app.
    "hypercorn": ("hypercorn", f"{_APP}()", "--workers", "0", "--bind", "127.0.0.1:{port}"),
    "granian": ("granian", "--interface", "asgi", "--factory", _APP, "--port", "{port}"),
}
_LOADS = ((600, 250.0), (1_000, 0.0), (1_000, 0.0))
_EVERY = 12
_REPLAYED, _LEFT, _DRAINED = 60, 601, 12
_NO_CONTENT = 204
_START, _LONGEST = 20.0, 120.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A configuration that must stop a server, and what the server has to say."""

    name: str
    environ: Mapping[str, str]
    says: tuple[str, ...]


def _failures(directory: Path) -> list[Failure]:
    sealed = directory / "sealed"
    sealed.mkdir(mode=0o500)
    # The superuser may write to any directory, but not to this one.
    closed = Path("/proc") if os.access(sealed, os.W_OK) else sealed
    bad_url, unknown = "mongodb://127.0.0.1/events", "resume_rotat"
    return [
        Failure("bad URL", {"PEER_URL": bad_url}, (bad_url, "sqlite+aiosqlite:///")),
        Failure("unknown setting", {"PEER_SETTING": unknown}, (unknown, "resume_rotate")),
        Failure(
            "read-only directory",
            {"PEER_DATABASE": str(closed / "events.db")},
            (str(closed / "events.db"), "directory", "write"),
        ),
    ]


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def _started(
    server: str, port: int, directory: Path, environ: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The server's process; it writes its log to `directory`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MCP_PERSIST_")}
    defaults = {"PEER_VARIANT": "ours", "PEER_DATABASE": str(directory / f"{server}.db")}
    with (directory / f"{server}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m"),
            *(part.format(port=port) for part in _COMMANDS[server]),
            cwd=ROOT,
            env=inherited | {"PYTHONPATH": str(ROOT), "COLUMNS": "1000"} | defaults | dict(environ),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), _START)


async def _accepting(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_START):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
    raise SystemExit("the server ended at once; see its log")


async def _exact(server: str, port: int, version: str) -> bool:
    sessions = [await RawSession.open(port, version) for _ in _LOADS]
    async with asyncio.timeout(_LONGEST):
        outcomes = await asyncio.gather(
            *(
                count_through_cuts(session, n, rate, _EVERY)
                for session, (n, rate) in zip(sessions, _LOADS, strict=True)
            )
        )
    print(f"{server:<10} {version}: {summary(outcomes)}", flush=True)
    return all(outcome.exact for outcome in outcomes)


def _read(log: Path) -> str:
    return log.read_text(errors="replace")


async def _logged(log: Path, text: str) -> None:
    async with asyncio.timeout(_START):
        while text not in _read(log):
            await asyncio.sleep(0.05)


async def _is_replayed(port: int, log: Path) -> bool:
    """A client of the handshake eras leaves, and is back when the call has finished."""
    session = await RawSession.open(port, HANDSHAKE)
    call = await session.call("count", n=_REPLAYED, rate=50.0)
    seen = await call.take(3)
    call.reset()
    await _logged(log, f"count {_REPLAYED} finished")
    replay = await session.get(last_id(seen))
    seen += [frame async for frame in replay.frames()]
    progress = [frame.progress for frame in seen if frame.progress is not None]
    again = await session.get(last_id(seen))
    again.reset()
    whole = progress == list(range(1, _REPLAYED + 1)) and seen[-1].is_response
    return whole and again.status == _NO_CONTENT


async def _is_cancelled(port: int, log: Path) -> bool:
    """At 2026-07-28 a client that has left has cancelled, after the grace."""
    session = await RawSession.open(port, MODERN)
    call = await session.call("count", n=_LEFT, rate=10.0)
    await call.take(3)
    call.reset()
    await _logged(log, f"count {_LEFT} cancelled")
    return True


async def _serves(server: str, directory: Path) -> bool:
    port, log = _port(), directory / f"{server}.log"
    async with _started(server, port, directory, {"MCP_PERSIST_DISCONNECT_GRACE": "1"}) as process:
        await _accepting(port, process)
        right = [await _exact(server, port, version) for version in (HANDSHAKE, MODERN)]
        replayed, cancelled = await _is_replayed(port, log), await _is_cancelled(port, log)
        print(f"{server:<10} finished call replayed: {replayed}, left call cancelled: {cancelled}")
    return all(right) and replayed and cancelled


async def _body(response: Response) -> tuple[list[Frame], float]:
    """What is left of a body that has to end in order, and when it ended."""
    return [frame async for frame in response.frames()], time.monotonic()


async def _stopped(
    port: int, process: asyncio.subprocess.Process
) -> tuple[RawSession, list[list[Frame]], bool]:
    """The frames of three calls, attached, away and too long, at a stop in their middle."""
    session = await RawSession.open(port, HANDSHAKE)
    idle = await session.get()
    calls = [await session.call("count", n=n, rate=5.0) for n in (_DRAINED, _DRAINED, _LEFT)]
    seen = [await call.take(3) for call in calls]
    calls[1].reset()
    process.terminate()
    began = time.monotonic()
    (_, ended), (rest, _), (more, _) = await asyncio.gather(*map(_body, (idle, calls[0], calls[2])))
    seen[0] += rest
    seen[2] += more
    code = await asyncio.wait_for(process.wait(), _START)
    return session, seen, ended - began < 2 and code in (0, -signal.SIGTERM)


async def shuts_down(server: str, directory: Path) -> bool:
    """Whether a stop loses nothing on this server, and says what could not be finished."""
    port, environ = _port(), {"MCP_PERSIST_DRAIN_SECONDS": "2.5"}
    async with _started(server, port, directory, environ) as process:
        await _accepting(port, process)
        session, seen, right = await _stopped(port, process)
    async with _started(server, port, directory, environ) as process:
        await _accepting(port, process)
        for frames in seen[1:]:
            rest, _ = await _body(await session.get(last_id(frames)))
            frames.extend(rest)
    progress = [[f.progress for f in frames if f.progress is not None] for frames in seen]
    whole = all(numbers == list(range(1, _DRAINED + 1)) for numbers in progress[:2])
    answers = [frames[-1].message or {} for frames in seen]
    told = ["result" in answers[0], "result" in answers[1], "error" in answers[2]]
    print(f"{server:<10} stopped: whole {whole}, answered {told}, idle stream and exit {right}")
    return whole and all(told) and right


async def _refuses(server: str, failure: Failure, directory: Path) -> bool:
    async with _started(server, _port(), directory, failure.environ) as process:
        try:
            code: int | None = await asyncio.wait_for(process.wait(), _START)
        except TimeoutError:
            code = None
    log = _read(directory / f"{server}.log")
    missing = [part for part in failure.says if part not in log]
    line = next((line for line in log.splitlines() if failure.says[0] in line), "")
    print(f"{server:<10} {failure.name}: exit {code}, missing {missing}: {line.strip()[:230]}")
    return bool(code) and not missing


async def _all() -> bool:
    right = True
    for server in _COMMANDS:
        with tempfile.TemporaryDirectory() as directory:
            right &= await _serves(server, Path(directory))
            right &= await shuts_down(server, Path(directory))
            for failure in _failures(Path(directory)):
                right &= await _refuses(server, failure, Path(directory))
    return right


def main() -> int:
    right = asyncio.run(_all())
    print("as expected" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
