"""Processes that are there at once: forked from one that has imported what servers need.

To import the SDK, SQLAlchemy and the drivers takes a processor more than a second, and the tests
start servers by the hundred. A fork is a process as any other: it has its own id, threads, event
loop and random numbers, runs what `python -m MODULE ARGUMENTS` runs, and can be stopped and killed.

`python -m tests.support.forks FD` is the process that they come from. It listens on the socket of
that number, and has one thread. A connection asks for one process and hears of its id and its
end; the process ends with its connection, and all of them with the standard input.
"""

import asyncio
import gc
import importlib
import json
import multiprocessing.process
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
AVAILABLE = hasattr(os, "pidfd_open")
_WARM = (
    "aiosqlite",
    "asyncpg",
    "redis.asyncio",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "uvicorn.lifespan.on",
    "uvicorn.main",
    "uvicorn.protocols.http.h11_impl",
    "mcp.server.mcpserver",
    "mcp_persist_middleware",
    "tests.faults.app",
    "tests.multiworker.listening_app",
    "tests.support.servers",
)
_MOST = 1 << 20


class Fork:
    """One process; what `asyncio.subprocess.Process` can, as far as servers need it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int
    ) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._writer = writer
        self._ending = asyncio.create_task(self._end(reader))

    async def wait(self) -> int:
        """Its exit status; the negative number of the signal that ended it."""
        return await asyncio.shield(self._ending)

    def send_signal(self, sign: int) -> None:
        """Unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sign)

    def kill(self) -> None:
        """Take it away without a warning."""
        self.send_signal(signal.SIGKILL)

    async def _end(self, reader: asyncio.StreamReader) -> int:
        self.returncode = int(await reader.readline())
        self._writer.close()
        return self.returncode


class Forks:
    """The process that the others come from, started when the first one is asked for."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="mcp-forks-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()
        self._directory.cleanup()

    async def fork(
        self, module: str, arguments: Sequence[str], environ: Mapping[str, str], log: Path
    ) -> Fork:
        """`python -m module arguments` in that environment; what it prints is added to `log`.

        Raises:
            ConnectionError: the process that it should come from has ended.
        """
        reader, writer = await asyncio.open_unix_connection(self.address)
        asked = {"module": module, "arguments": list(arguments), "log": str(log.absolute())}
        writer.write(json.dumps(asked | {"environ": dict(environ)}).encode() + b"\n")
        if not (answer := await reader.readline()):
            said = (Path(self._directory.name) / "log").read_text(errors="replace")
            raise ConnectionError(f"it has ended:\n{said}")
        return Fork(reader, writer, int(answer))

    def command(self, module: str) -> str:
        """What a shell begins `python -m module` with, to have it from here."""
        program = Path(__file__).with_name("forked.py")
        return f'"{sys.executable}" -I -S "{program}" "{self.address}" {module}'

    @property
    def address(self) -> str:
        """Where it listens; it is started if it is not there yet."""
        if self._process is None:
            self._start()
        return self._socket

    @property
    def _socket(self) -> str:
        return f"{self._directory.name}/socket"

    def _start(self) -> None:
        with (
            socket.socket(socket.AF_UNIX) as stream_state,
            (Path(self._directory.name) / "log").open("ab") as log,
        ):
            stream_state.bind(self._socket)
            # Whoever asks while it imports is heard when it has.
            stream_state.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forks", str(stream_state.fileno())],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                pass_fds=[stream_state.fileno()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )


class _Serving:
    """In the process that the others come from."""

    def __init__(self, stream_state: socket.socket) -> None:
        self._listening = stream_state
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(stream_state, selectors.EVENT_READ)
        self._waiting.register(sys.stdin, selectors.EVENT_READ)
        self._pids: dict[socket.socket, int] = {}

    def run(self) -> "tuple[bytes, list[int]] | None":
        """In a new process what it shall run, and its streams if it was given some; None at the
        end."""
        while True:
            for key, _ in self._waiting.select():
                if key.fileobj is sys.stdin:
                    return self._close()
                if key.fileobj is self._listening:
                    connection, _ = self._listening.accept()
                    if (asked := self._fork(connection)) is not None:
                        return asked
                elif isinstance(key.fileobj, int):
                    self._ended(key.fileobj, key.data)
                elif pid := self._pids.get(key.data):
                    # Nobody is left who could end it.
                    self._waiting.unregister(key.data)
                    os.kill(pid, signal.SIGKILL)

    def _fork(self, connection: socket.socket) -> "tuple[bytes, list[int]] | None":
        first, streams, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("rb") as file:
            asked = first + file.readline(_MOST)
        if not (pid := os.fork()):
            for key in list(self._waiting.get_map().values()):
                if isinstance(key.fileobj, int):
                    os.close(key.fileobj)
            for each in (self._listening, connection, *self._pids):
                each.close()
            self._waiting.close()
            return asked, streams
        for each in streams:
            os.close(each)
        connection.sendall(b"%d\n" % pid)
        self._pids[connection] = pid
        self._waiting.register(connection, selectors.EVENT_READ, connection)
        self._waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, connection)
        return None

    def _ended(self, watched: int, connection: socket.socket) -> None:
        self._waiting.unregister(watched)
        os.close(watched)
        with suppress(KeyError):
            self._waiting.unregister(connection)
        _, status = os.waitpid(self._pids.pop(connection), 0)
        with suppress(OSError), connection:
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))

    def _close(self) -> None:
        for pid in self._pids.values():
            os.kill(pid, signal.SIGKILL)


def _become(asked: bytes, streams: list[int]) -> None:
    """Run that, as if Python had been started for it."""
    given = json.loads(asked)
    if not streams:
        log = os.open(given["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        streams = [os.open(os.devnull, os.O_RDONLY), log, os.dup(log)]
    for number, each in enumerate(streams):
        os.dup2(each, number)
        os.close(each)
    os.chdir(given.get("directory", "."))
    # Where those begin that it spawns.
    multiprocessing.process.ORIGINAL_DIR = os.getcwd()  # noqa: PTH109
    os.environ.clear()
    os.environ.update(given["environ"])
    sys.path[1:1] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.argv = [given["module"], *given["arguments"]]
    runpy.run_module(given["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    # The collector would write to what is shared, and have it copied into each of them.
    gc.disable()
    for name in _WARM:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    todo = _Serving(socket.socket(fileno=int(sys.argv[1]))).run()
    if todo is not None:
        _become(*todo)
