"""The files of a database, and which of this process's connections are open to them.

SQLite finds its files by their names, once, when a connection needs them. After somebody deleted or
replaced one, an old connection goes on in files without a name, and a new one makes others: what
is committed there is lost, or the last of the old ones to close takes the new ones' log away
(https://www.sqlite.org/howtocorrupt.html). So nobody connects anew before all that was open is
closed.
"""

import contextlib
import os
import sqlite3
import weakref
from pathlib import Path

# Of the database, its write-ahead log, and what those who use that share.
_DATABASE, _LOG, _SHARED = "", "-wal", "-shm"
_Inode = tuple[int, int]


class Files:
    """The files at one path, as they were when this process connected. Any thread may look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # As text: they are looked at before and after each commit.
        self._paths = {part: f"{path}{part}" for part in (_DATABASE, _LOG, _SHARED)}
        self._known: dict[str, _Inode] = {}
        self._open: weakref.WeakSet[sqlite3.Connection] = weakref.WeakSet()
        self.connection_class = _counted(self._open)
        """For connections that are counted as long as they are open."""

    def create(self) -> None:
        """Make an empty database that only its owner may read, if there is none; SQLite gives the
        files beside it the same mode.

        Raises:
            OSError: it cannot be made.
        """
        # One that is there is not opened: to close it would take all of this process's locks
        # from it (https://www.sqlite.org/lockingv3.html#how_to_corrupt).
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    def connect(self) -> sqlite3.Connection:
        """A connection of this thread's own, which only reads and waits for nobody.

        Raises:
            FileNotFoundError: the files are not where they were.
        """
        if not self.are_in_place:
            raise FileNotFoundError(f"{self.path} was deleted or replaced")
        uri = self.path.absolute().as_uri() + "?mode=rw"
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=0, factory=self.connection_class
        )
        connection.execute("PRAGMA query_only = ON")
        return connection

    def settle(self) -> None:
        """The files that are there now are those that count. Called again when SQLite has made
        all of them; one that is not there is not missed."""
        found = {part: self._inode(part) for part in self._paths}
        self._known = {part: inode for part, inode in found.items() if inode is not None}

    @property
    def are_in_place(self) -> bool:
        """Whether each of them is where it was."""
        return bool(self._known) and all(
            self._inode(part) == inode for part, inode in self._known.items()
        )

    @property
    def can_be_saved(self) -> bool:
        """Whether the log was deleted and nobody has made another: all that is in it may still
        be written into the database."""
        known, found = self._known, self._inode(_LOG)
        is_there = _DATABASE in known and self._inode(_DATABASE) == known[_DATABASE]
        return is_there and _LOG in known and found in (None, known[_LOG])

    @property
    def are_in_use(self) -> bool:
        """Whether a connection of this process is open."""
        return len(self._open) > 0

    def close(self) -> None:
        """Close what is still open and nobody has any more: the driver loses a connection whose
        opening is cancelled. Its threads have ended."""
        for connection in list(self._open):
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _inode(self, part: str) -> _Inode | None:
        try:
            found = os.stat(self._paths[part])  # noqa: PTH116
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino


def _counted(connections: "weakref.WeakSet[sqlite3.Connection]") -> type[sqlite3.Connection]:
    class CountedConnection(sqlite3.Connection):
        def __init__(self, *arguments: object, **named: object) -> None:
            super().__init__(*arguments, **named)  # type: ignore[arg-type]
            connections.add(self)

        def close(self) -> None:
            super().close()
            connections.discard(self)

    return CountedConnection
