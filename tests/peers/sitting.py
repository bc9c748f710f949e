"""One sitting of a new user, with nothing but what the guides say: a server on SQLite with callers,
`doctor`, `tail -f`, `copy --follow` to PostgreSQL while calls run, the switch, `copy --verify`,
encryption on, keys rotated twice, somebody's data erased, export and import, a backup.

Each command runs as a process of its own; what it printed is shown, and has to be what is expected.

Run:     python -m tests.peers.sitting
Expect:  every call of both callers has its result and each progress event once, in two sessions
         that live through it all; exit code 0.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from tests.support.processes import ROOT
from tests.support.stores import PostgresServer, free_port

README = ROOT / "README.md"
_LINE = 'app.add_middleware(PersistMiddleware, url="events.db")  # the line'
_OWN_LINE = """

def user_of(connection):
    return connection.headers.get("x-authenticated-user")


app.add_middleware(PersistMiddleware, principal=user_of, health_path="/healthz")
"""
_STEPS = 10
_SECONDS = 180.0


def server_py() -> str:
    """The README's server, with the store from the environment and a name for each caller."""
    (block,) = re.findall(r"```python\n(# server\.py\n.*?)```", README.read_text(), re.DOTALL)
    assert _LINE in block
    return str(block).replace(_LINE, _OWN_LINE).replace("sleep(1)", "sleep(0.1)")


@dataclass
class Said:
    """What a command said in the end."""

    code: int
    out: str
    err: str


@dataclass
class Shell:
    """A directory, and the variables that are exported in it."""

    place: Path
    environ: dict[str, str] = field(default_factory=dict)

    async def begin(self, *command: str) -> asyncio.subprocess.Process:
        """Begin a command of ours."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MCP_PERSIST_")}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command),
            cwd=self.place,
            env=inherited | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"} | self.environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, line: str, *, code: int = 0, expect: str = "") -> Said:
        """Run one as it is typed, show it, and look at what it said."""
        process = await self.begin("mcp_persist_middleware", *line.split())
        return await self.end(process, line, code=code, expect=expect)

    async def end(
        self,
        process: asyncio.subprocess.Process,
        line: str,
        *,
        code: int = 0,
        expect: str = "",
        seen: bytes = b"",
    ) -> Said:
        """Wait for its end; `seen` was read of it before."""
        async with asyncio.timeout(_SECONDS):
            out, err = await process.communicate()
        said = Said(process.returncode or 0, (seen + out).decode(), err.decode())
        shown = "\n".join(f"    {each.rstrip()}" for each in (said.out + said.err).splitlines())
        print(f"$ mcp-persist-middleware {line}\n{shown}", flush=True)
        assert said.code == code, f"exit code {said.code}, not {code}"
        flat = " ".join((said.out + said.err).split())
        assert re.search(expect, flat), f"expected {expect!r}"
        return said


class Server:
    """`uvicorn server:app` on one port, as often as it is started."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self.port = free_port()
        self.is_there = asyncio.Event()
        """Who calls an official client while nobody listens has lost it: calls begin when it is
        there, and those that are under way go on."""
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[bytes] | None = None

    async def start(self) -> None:
        """Until it is ready."""
        words = ("uvicorn", "server:app", "--port", str(self.port), "--log-level", "warning")
        self._process = await self._shell.begin(*words)
        assert self._process.stderr is not None
        self._log = asyncio.create_task(self._process.stderr.read())
        async with asyncio.timeout(_SECONDS), httpx2.AsyncClient() as client:
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    found = await client.get(f"http://127.0.0.1:{self.port}/healthz/ready")
                    if found.status_code == 200:
                        self.is_there.set()
                        return
                assert self._process.returncode is None, (await self._log).decode()
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """SIGTERM; what it has warned of is shown."""
        assert self._process is not None
        assert self._log is not None
        self.is_there.clear()
        # What has just been sent has begun.
        await asyncio.sleep(0.3)
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_SECONDS):
            await self._process.wait()
            for line in (await self._log).decode().splitlines():
                print(f"    [server] {line}", flush=True)

    async def kill(self) -> None:
        """At the end of all."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Caller:
    """Somebody who calls a tool again and again in one session, and notes what was wrong."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self._server = server
        self.calls = 0
        self.faults: list[str] = []
        self.longest = 0.0
        self._is_over = False

    async def run(self) -> None:
        """Until it is told to stop."""
        given = {"x-authenticated-user": self.name}
        url = f"http://127.0.0.1:{self._server.port}/mcp"
        async with (
            httpx2.AsyncClient(headers=given, timeout=httpx2.Timeout(30, read=300)) as http,
            streamable_http_client(url, http_client=http) as (read, write, *_),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            while not self._is_over:
                await self._server.is_there.wait()
                await self._call(session)

    async def _call(self, session: ClientSession) -> None:
        seen: list[int] = []
        begin = time.monotonic()

        async def progress(value: float, *_: Any) -> None:
            seen.append(int(value))

        try:
            async with asyncio.timeout(_SECONDS):
                found = await session.call_tool("count", {"n": _STEPS}, progress_callback=progress)
            text = getattr(found.content[0], "text", "")
        except Exception as error:
            self.faults.append(f"{self.name}: {type(error).__name__}: {error}")
            return
        self.calls += 1
        self.longest = max(self.longest, time.monotonic() - begin)
        if (text, seen) != (f"counted {_STEPS}", list(range(1, _STEPS + 1))):
            self.faults.append(f"{self.name}: {text!r} {seen}")

    def stop(self) -> None:
        """After the call that is under way."""
        self._is_over = True


@contextlib.asynccontextmanager
async def callers(server: Server, *names: str) -> AsyncIterator[Mapping[str, Caller]]:
    """They call meanwhile."""
    made = {name: Caller(name, server) for name in names}
    async with asyncio.TaskGroup() as group:
        for each in made.values():
            group.create_task(each.run())
        try:
            yield made
        finally:
            for each in made.values():
                each.stop()


async def some_calls(made: Mapping[str, Caller], count: int = 3) -> None:
    """Wait until each has made some more."""
    goals = {name: each.calls + count for name, each in made.items()}
    async with asyncio.timeout(_SECONDS):
        while any(each.calls < goals[name] for name, each in made.items()):
            await asyncio.sleep(0.05)


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


async def sitting(place: Path, postgres: str, parts: Sequence[str]) -> list[str]:
    """The parts of it, in their order; what was wrong with the calls."""
    (place / "server.py").write_text(server_py())
    shell = Shell(place, {"MCP_PERSIST_URL": "events.db"})
    server = Server(shell)
    await server.start()
    try:
        async with callers(server, "ann", "bob") as made:
            await some_calls(made)
            for part in parts:
                await PARTS[part](Sitting(shell, server, made, postgres))
        await server.stop()
        for each in made.values():
            print(f"{each.name}: {each.calls} calls, the longest took {each.longest:.1f} s")
        return [fault for each in made.values() for fault in each.faults]
    finally:
        await server.kill()


async def look(now: "Sitting") -> None:
    """Is all well, and what is being said?"""
    shell = now.shell
    await shell.run("doctor", expect="workers ok 1 alive .* Nothing to do")
    await shell.run("doctor --app server:app", code=1, expect="eras ok 2026-07-28.*request state")
    await shell.run("stats", expect="Workers 1 .* default")
    await shell.run("sessions list", expect=r"2025-11-25 [0-9a-f]{16}")
    tail = await shell.begin("mcp_persist_middleware", "tail", "-f", "-n", "0")
    assert tail.stdout is not None
    seen = b""
    async with asyncio.timeout(_SECONDS):
        while b"response" not in seen:
            seen += await tail.stdout.readline()
    tail.send_signal(signal.SIGINT)
    line = "tail -f -n 0"
    await shell.end(tail, line, code=130, expect="noise .* response", seen=seen)


async def move(now: "Sitting") -> None:
    """To PostgreSQL, while calls run."""
    shell, server, made, postgres = now.shell, now.server, now.made, now.postgres
    line = f"copy --follow --verify events.db {postgres}"
    copy = await shell.begin("mcp_persist_middleware", *line.split())
    assert copy.stderr is not None
    async with asyncio.timeout(_SECONDS):
        while (said := (await copy.stderr.readline()).decode().strip()) != "follow":
            assert copy.returncode is None, said
    await some_calls(made)
    begin = time.monotonic()
    await server.stop()
    stopped = time.monotonic() - begin
    done = await shell.end(copy, line, expect=r"No server is on FROM any more.* They are the same")
    assert not re.search(r" 0 events", done.out)
    shell.environ["MCP_PERSIST_URL"] = postgres
    await server.start()
    print(
        f"    [switched: {time.monotonic() - begin:.1f} s without a server, {stopped:.1f} of them"
        " for its last calls]",
        flush=True,
    )
    await some_calls(made)
    await shell.run(
        f"copy --verify events.db {postgres}",
        expect="A server is or was on TO: nothing was copied.*TO has all that FROM has",
    )
    await shell.run("doctor", expect="Nothing to do")


async def encrypt(now: "Sitting") -> None:
    """On, and the key changed for another."""
    shell, server, made = now.shell, now.server, now.made
    keys = shell.place / "keys"
    old, new = f"2026-11:{new_key()}", f"2026-12:{new_key()}"
    keys.write_text(f"{old}\n")
    keys.chmod(0o600)
    shell.environ["MCP_PERSIST_ENCRYPTION_KEYS"] = "file:keys"
    await restart(server, made)
    await shell.run("keys check", code=1, expect=r"\(none\) [\d,]+ old .*2026-11 [\d,]+ current")
    await shell.run("keys rotate", expect="Events")
    await shell.run("keys check", expect=r"2026-11 [\d,]+ current$")
    # Behind the current one on every worker first, then in front.
    for given in (f"{old}\n{new}\n", f"{new}\n{old}\n"):
        keys.write_text(given)
        await restart(server, made)
    await shell.run("keys rotate", expect="Events")
    await shell.run("keys check", expect=r"2026-12 [\d,]+ current$")
    keys.write_text(f"{new}\n")
    await restart(server, made)
    await shell.run("doctor", expect="keys ok 2026-12 is the current one.*Nothing to do")


async def restart(server: Server, made: Mapping[str, Caller]) -> None:
    await server.stop()
    await server.start()
    await some_calls(made, 2)


async def erase(now: "Sitting") -> None:
    """What is Ann's, while she and Bob go on."""
    shell, made = now.shell, now.made
    streams = json.loads((await shell.run("streams list --json --limit 10000")).out)
    await shell.run("purge --principal ann --dry-run", expect=r"Nothing was removed.*Streams [1-9]")
    said = await shell.run("purge --principal ann", expect=r"Streams [1-9]")
    gone = int(re.findall(r"Streams +([\d,]+)", said.out)[0].replace(",", ""))
    assert gone < len(streams)
    await shell.run("deletions", expect="forgotten")
    made["ann"].stop()
    await some_calls({"bob": made["bob"]})


async def transfer(now: "Sitting") -> None:
    """To a file, and into other stores; and back up one."""
    shell = now.shell
    await shell.run("export everything.jsonl", expect=r"Exported \d+ sessions, [\d,]+ streams")
    text = (shell.place / "everything.jsonl").read_text()
    assert f"counted {_STEPS}" in text
    other = Shell(shell.place, {"MCP_PERSIST_URL": "other.db"})
    done = await other.run("import everything.jsonl", expect="Imported .* 0 were there already")
    counts = [each.replace(",", "") for each in re.findall(r"\d[\d,]*", done.out)][:3]
    await other.run("import everything.jsonl", expect="Imported 0 sessions, 0 streams and 0 events")
    await other.run(
        "import --renew everything.jsonl", expect=re.escape(done.out.partition(" and ")[0].strip())
    )
    await other.run("backup events.backup", expect="Wrote events.backup")
    with sqlite3.connect(shell.place / "events.backup") as raw:
        assert raw.execute("SELECT count(*) FROM mcp_stream").fetchone()[0] == 2 * int(counts[1])


@dataclass(frozen=True, slots=True)
class Sitting:
    """What a part has to do with."""

    shell: Shell
    server: Server
    made: Mapping[str, Caller]
    postgres: str


PARTS = {part.__name__: part for part in (look, move, encrypt, erase, transfer)}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.peers.sitting", description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="instead of all")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mcp-sitting-") as name:
        place = Path(name)
        place.chmod(0o755)
        postgres = PostgresServer(place / "data")
        postgres.start()
        try:
            (work := place / "work").mkdir()
            url = postgres.url().replace("+asyncpg", "")
            faults = asyncio.run(sitting(work, url, given.part or list(PARTS)))
        finally:
            postgres.stop("immediate")
    print(*faults, sep="\n")
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
