"""Which of the processes on one SQLite file are gone: each holds a lock on a file of its own,
and the operating system lets go of it the moment the process is gone. A lock that is held says
nothing: a process that was stopped holds it too."""

import contextlib
import fcntl
import os
from pathlib import Path


class WorkerLocks:
    """The lock files beside a database, `<database>-worker-<id>`.

    `flock` belongs to the open file, so two event loops of one process tell each other apart.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._held: int | None = None
        self._mine: Path | None = None

    def acquire(self, worker: str) -> None:
        """Be here under this id; clears away the files of the dead."""
        for path in self._database.parent.glob(self._file("*").name):
            _remove_if_dead(path)
        self._mine = self._file(worker)
        while self._held is None:
            self._held = _lock(self._mine)

    def release(self) -> None:
        """Be gone; a second call does nothing."""
        if self._held is not None and self._mine is not None:
            self._mine.unlink(missing_ok=True)
            os.close(self._held)
            self._held = self._mine = None

    @property
    def has_others(self) -> bool:
        """Whether another one is on this file."""
        found = self._database.parent.glob(self._file("*").name)
        return any(not _remove_if_dead(path) for path in found if path != self._mine)

    def is_held(self, worker: str) -> bool:
        """Whether the process with this id is on this host, be it stopped or not."""
        path = self._file(worker)
        return path.exists() and not _remove_if_dead(path)

    def _file(self, worker: str) -> Path:
        return self._database.with_name(f"{self._database.name}-worker-{worker}")


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock; None when somebody cleared the file away between its
    making and its locking."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    os.close(descriptor)
    return None


def _remove_if_dead(path: Path) -> bool:
    """Whether nobody holds the lock; then the file goes."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return True
    finally:
        os.close(descriptor)
