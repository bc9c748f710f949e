"""Which of the processes on one SQLite file are gone: each holds a lock on a file of its own,
and the operating system lets go of it the moment the process is gone. A lock that is held says
nothing: a process that was stopped holds it too."""

import contextlib
import glob
from pathlib import Path

from filelock import FileLock, Timeout


class WorkerLocks:
    """The lock files beside a database, `<database>-worker-<id>`.

    A lock belongs to the open file, so two event loops of one process tell each other apart.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._held: FileLock | None = None

    def acquire(self, worker: str) -> None:
        """Be here under this id; clears away the files of the dead.

        Raises:
            OSError: the file cannot be made, or nothing can be locked where it is.
        """
        for path in self._found():
            _remove_if_dead(path)
        path = self._file(worker)
        lock = _lock(path)
        try:
            lock.acquire()
            while not path.exists():
                # Somebody cleared it away between its making and its locking. Only we make it.
                lock.release()
                lock.acquire()
        except NotImplementedError as error:
            raise OSError(str(error)) from error
        self._held = lock

    def release(self) -> None:
        """Be gone; a second call does nothing."""
        held, self._held = self._held, None
        if held is not None:
            _remove(held)

    @property
    def has_others(self) -> bool:
        """Whether another one is on this file."""
        mine = self._held.lock_file if self._held is not None else ""
        return any(not _remove_if_dead(path) for path in self._found() if str(path) != mine)

    def is_held(self, worker: str) -> bool:
        """Whether the process with this id is on this host, be it stopped or not."""
        path = self._file(worker)
        return path.exists() and not _remove_if_dead(path)

    def _found(self) -> list[Path]:
        return list(self._database.parent.glob(glob.escape(self._database.name) + "-worker-*"))

    def _file(self, worker: str) -> Path:
        return self._database.with_name(f"{self._database.name}-worker-{worker}")


def _lock(path: Path) -> FileLock:
    # The heartbeat's thread asks too, and ours is let go of wherever the event loop ends.
    return FileLock(str(path), mode=0o600, thread_local=False)


def _remove_if_dead(path: Path) -> bool:
    """Whether nobody holds the lock; then the file goes."""
    lock = _lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    _remove(lock)
    return True


def _remove(lock: FileLock) -> None:
    """Let go of a lock, and of its file before anybody else can have it."""
    # Windows takes no open file's name away: there the release does.
    with contextlib.suppress(PermissionError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
