"""One child process: lines in, lines out, what it says beside, and its end."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator

from mcp_persist_middleware.ops.proxy.stdio.guard import Guard, launched
from mcp_persist_middleware.ops.proxy.stdio.lines import Splitter
from mcp_persist_middleware.ops.proxy.stdio.options import Redaction, StdioOptions, environment
from mcp_persist_middleware.supervision import Supervisor

logger = logging.getLogger(__name__)

_PIECE = 64 * 1024
_POLL = 0.02
_LONGEST_SAID, _LINES, _SECONDS = 500, 100, 10.0


class ChildLog:
    """What children say that is no message, for the log: in short lines, so many in a while, and
    without what they were told in confidence."""

    def __init__(self, program: str, redaction: Redaction) -> None:
        self._program = os.path.basename(program)  # noqa: PTH119  # of any system
        self._redaction = redaction
        self._since, self._lines = -_SECONDS, 0

    def __call__(self, level: int, pid: int, line: bytes) -> None:
        """Tell it."""
        now = asyncio.get_running_loop().time()
        if now - self._since >= _SECONDS:
            if self._lines > _LINES:
                left_out = self._lines - _LINES
                logger.log(level, "%s said %d lines more", self._program, left_out)
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines <= _LINES:
            # Cut last: half of a secret is one still.
            text = self._redaction(line.decode(errors="replace"))[:_LONGEST_SAID]
            shown = "".join(
                char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
            )
            logger.log(level, "%s[%d]: %s", self._program, pid, shown)


class Process:
    """A running child. Make it with `started`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        options: StdioOptions,
        guard: Guard,
        said: ChildLog,
        tasks: Supervisor,
    ) -> None:
        assert process.stdin is not None
        self._process = process
        self._input = process.stdin
        self._options = options
        self._guard = guard
        self._said = said
        self._writing = asyncio.Lock()
        self._stopping: asyncio.Task[None] | None = None
        self._tasks = tasks
        self._errors = tasks.spawn(self._listen(), "mcp-persist-stdio-errors")

    @property
    def pid(self) -> int:
        """Of the child, and of its group."""
        return self._process.pid

    async def write(self, line: bytes) -> None:
        """Hand it a line.

        Raises:
            ConnectionError: it takes no more.
            TimeoutError: it has read nothing for too long.
        """
        async with self._writing:
            self._input.write(line)
            # Not `wait_for`: before Python 3.12 that may swallow a cancellation.
            async with asyncio.timeout(self._options.write_timeout):
                await self._input.drain()

    async def lines(self) -> AsyncIterator[bytes]:
        """What it writes, until it closes its output.

        Raises:
            TooLongError: a line is over the limit.
        """
        output, splitter = self._process.stdout, Splitter(self._options.max_line_bytes)
        assert output is not None
        while piece := await output.read(_PIECE):
            for line in splitter.feed(piece):
                yield line

    def garbage(self, line: bytes) -> None:
        """It has written what is no message."""
        self._said(logging.WARNING, self.pid, line)

    async def stop(self) -> str:
        """End it and all that it has begun, as the specification has it: its input is closed, then
        it is asked to end, then it is killed. How it has ended, in words. May be called twice."""
        if self._stopping is None:
            self._stopping = self._tasks.spawn(self._stop(), "mcp-persist-stdio-stop")
        await asyncio.shield(self._stopping)
        return self.ending

    @property
    def ending(self) -> str:
        """How it has ended, in words."""
        match self._process.returncode:
            case None:
                return "it closed its output"
            case code if code < 0:
                return f"by signal {-code}"
            case code:
                return f"with exit status {code}"

    async def ended(self, seconds: float) -> bool:
        """Whether it has ended, within so many seconds. Its pipes may be open still: what it has
        begun may have them."""
        until = asyncio.get_running_loop().time() + seconds
        while self._process.returncode is None:
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(_POLL)
        return True

    async def _stop(self) -> None:
        patience = self._options.stop_timeout
        try:
            with contextlib.suppress(OSError, RuntimeError):
                self._input.close()
            await self.ended(patience)
            for number in ("SIGTERM", "SIGKILL"):
                if not self._signalled(number):
                    break
                await self._gone(patience)
        finally:
            self._guard.remove(self.pid)
            self._errors.cancel()
            # Somebody's heir may hold a pipe open that nobody reads any more.
            transport = getattr(self._process, "_transport", None)
            if transport is not None:
                with contextlib.suppress(PermissionError, ProcessLookupError):
                    transport.close()

    def _signalled(self, number: str) -> bool:
        """Whether somebody of its group was there to be told."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self.pid, getattr(signal, number, 0))
            return True
        return False

    async def _gone(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        while self._signalled("") and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_POLL)

    async def _listen(self) -> None:
        errors, splitter = self._process.stderr, Splitter(_PIECE)
        assert errors is not None
        while piece := await errors.read(_PIECE):
            # An end that never comes is one here.
            for line in splitter.feed(piece + b"\n" if b"\n" not in piece else piece):
                self._said(logging.INFO, self.pid, line)


async def started(
    command: list[str], options: StdioOptions, guard: Guard, said: ChildLog, tasks: Supervisor
) -> Process:
    """A child that runs the command, in a group of its own.

    Raises:
        OSError: the system refuses.
    """
    process = await asyncio.create_subprocess_exec(
        *launched(command, os.getpid()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=options.cwd,
        env=environment(options),
        start_new_session=True,
    )
    made = Process(process, options, guard, said, tasks)
    try:
        await guard.add(process.pid)
    except BaseException:
        # Nobody else knows of it.
        tasks.spawn(made.stop(), "mcp-persist-stdio-end")
        raise
    return made
