"""A SQLite store as somebody else sees it."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def direct(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as another process sees it, which waits for nobody's lock."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        yield connection
    finally:
        connection.close()
