"""Shows what official clients see of a server that is killed with -9 in the middle of a call.

Each client calls a tool that reports progress; after its third event the server is killed, and
started again a second later. The call has to end; when the server is back the client calls again.
Each client is also shown against a bare server.

Run:     python -m tests.peers.killed [--cache DIRECTORY] [--only WORD] [NAME=VALUE …]
         (needs node 20 and npm; SDKs are installed into the cache directory once; NAME=VALUE is a
         setting of the middleware)
Expect:  with the middleware every call ends with an error within 12 s of the kill, its progress is
         a gap-free prefix, and the next call succeeds, in the same session where there is one;
         exit code 0.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_persist_middleware.testing import FaultProxy
from tests.matrix.environments import prepare, versions
from tests.peers.typescript import install_clients
from tests.support.processes import ROOT, ServerProcess, mcp_server, running

_BEFORE = 3
_OUTAGE = 1.0
_LIMIT = 12.0
_PATIENCE = 20.0
_LONGEST = 90.0


@dataclass(frozen=True, slots=True)
class Peer:
    """One official client in one mode."""

    name: str
    environment: str
    """The Python environment, or "npm"."""
    arguments: tuple[str, ...]
    has_session: bool = True


PEERS = (
    Peer("Python 1.x ClientSession", "v1", ("ClientSession 1.x",)),
    Peer("Python 2.x ClientSession", "v2", ("ClientSession 2.x",)),
    Peer("Python 2.x Client, 2026-07-28", "v2", ("mcp.Client 2.x",), has_session=False),
    Peer("TypeScript sdk 1.x", "npm", ("sdk1.mjs", "legacy")),
    Peer("TypeScript client 2.x", "npm", ("client2.mjs", "legacy")),
    Peer("TypeScript client 2.x, 2026-07-28", "npm", ("client2.mjs", "auto"), has_session=False),
)


@dataclass(slots=True)
class Story:
    """What one client saw."""

    progress: list[int] = field(default_factory=list)
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    killed_at: float = 0.0
    ended_after: float = 0.0
    """Seconds from the kill to the end of the call."""
    sessions: set[str | None] = field(default_factory=set)
    """The session ids that its tool calls named."""

    def faults(self, peer: Peer) -> list[str]:
        """What is not as it should be."""
        first, second = self.ends.get("first", {}), self.ends.get("second", {})
        right = {
            "the call did not end with an error": bool(first.get("error")),
            "it took too long": self.ended_after <= _LIMIT,
            "progress is no gap-free prefix": self.progress
            == list(range(1, len(self.progress) + 1)),
            "the next call failed": second.get("result") == "counted 3",
            "another session": len(self.sessions) == 1
            and (None in self.sessions) != peer.has_session,
        }
        return [what for what, is_right in right.items() if not is_right]

    def __str__(self) -> str:
        first, second = self.ends.get("first", {}), self.ends.get("second", {})
        told = first.get("error") or first.get("result") or "nothing"
        after = second.get("result") or second.get("error") or "nothing"
        return (
            f"progress 1..{len(self.progress)}, then after {self.ended_after:.1f} s: {told[:110]!r}"
            f"; the next call: {after[:60]!r}"
        )


def _command(peer: Peer, url: str, cache: Path) -> list[str]:
    if peer.environment == "npm":
        script, mode = peer.arguments
        return ["node", str(cache / "npm" / script), url, mode, str(_PATIENCE)]
    python = prepare(cache / "envs", "v1") if peer.environment == "v1" else sys.executable
    return [python, "-m", "tests.peers.killed_client", *peer.arguments, url, str(_PATIENCE)]


async def _told(peer: Peer, server: ServerProcess, proxy: FaultProxy, cache: Path) -> Story:
    url, story = f"http://127.0.0.1:{proxy.port}/mcp", Story()
    process = await asyncio.create_subprocess_exec(
        *_command(peer, url, cache),
        cwd=ROOT,
        env=os.environ | {"STORY": "killed"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    restarting: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(_LONGEST):
            async for raw in process.stdout:
                line = json.loads(raw)
                if line.get("of") == "first":
                    story.progress.append(line["progress"])
                    if len(story.progress) == _BEFORE:
                        await server.kill()
                        story.killed_at = time.monotonic()
                        restarting = asyncio.create_task(_restart(server))
                elif "ended" in line:
                    story.ends[line["ended"]] = line
                    if line["ended"] == "first":
                        story.ended_after = time.monotonic() - story.killed_at
                        if restarting is not None:
                            await restarting
                        process.stdin.write(b"go\n")
    finally:
        if restarting is not None:
            await restarting
        if process.returncode is None:
            process.kill()
        await process.wait()
    calls = [e.request for e in proxy.exchanges if e.request.rpc_method == "tools/call"]
    story.sessions = {request.headers.get("mcp-session-id") for request in calls}
    return story


async def _restart(server: ServerProcess) -> None:
    await asyncio.sleep(_OUTAGE)
    await server.start()


async def _play(peer: Peer, cache: Path, settings: dict[str, str], *, persist: bool) -> Story:
    with tempfile.TemporaryDirectory() as directory:
        server = mcp_server(Path(directory), persist=persist, settings=settings)
        async with running(server), FaultProxy(server.port) as proxy:
            return await _told(peer, server, proxy, cache)


async def _all(cache: Path, only: str, settings: dict[str, str]) -> bool:
    right = True
    for peer in PEERS:
        if only not in peer.name:
            continue
        bare, ours = await asyncio.gather(
            _play(peer, cache, {}, persist=False),
            _play(peer, cache, settings, persist=True),
        )
        faults = ours.faults(peer)
        print(peer.name)
        print(f"  without: {bare}")
        print(f"  with:    {ours}")
        print(f"           {'; '.join(faults) or 'as expected'}", flush=True)
        right &= not faults
    return right


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.peers.killed", description=__doc__)
    default = Path.home() / ".cache" / "mcp-persist-middleware-peers"
    parser.add_argument("--cache", type=Path, default=default)
    parser.add_argument("--only", default="", help="clients whose name contains this")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    given = parser.parse_args()
    settings = dict(setting.split("=", 1) for setting in given.settings)
    if any(given.only in peer.name and peer.environment == "npm" for peer in PEERS):
        install_clients(given.cache / "npm")
    if given.only in PEERS[0].name:
        print(versions(prepare(given.cache / "envs", "v1")), "and", versions(sys.executable))
    return 0 if asyncio.run(_all(given.cache, given.only, settings)) else 1


if __name__ == "__main__":
    sys.exit(main())
