"""No child is left behind: what ends the children of a proxy that can do so no more."""

import asyncio
import contextlib
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_PLAIN = ("-I", "-S")
"""A Python that looks at nothing of the user's, and starts in a few milliseconds."""


class Guard:
    """Tells a process beside this one (watch.py) which groups of children there are.

    On Windows there is none: a closed input is all that tells a child there.
    """

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()

    async def add(self, group: int) -> None:
        """A child has begun."""
        self._groups.add(group)
        if sys.platform == "win32" or not sys.executable:
            return
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, *_PLAIN, str(_HERE / "watch.py")),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
                for each in self._groups - {group}:
                    self._tell("+", each)
            self._tell("+", group)

    def remove(self, group: int) -> None:
        """It has ended, with all that it began."""
        self._groups.discard(group)
        self._tell("-", group)

    async def aclose(self) -> None:
        """No child is left."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 5)

    def _tell(self, sign: str, group: int) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                self._process.stdin.write(f"{sign}{group}\n".encode())


def launched(command: list[str], parent: int) -> list[str]:
    """The command, so that it ends with this process where the system can see to it (Linux)."""
    if sys.platform != "linux" or not sys.executable:
        return command
    return [sys.executable, *_PLAIN, str(_HERE / "launch.py"), str(parent), *command]
