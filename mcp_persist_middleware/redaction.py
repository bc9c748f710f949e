"""Loggers of others, where they would tell what is ours.

Drivers say at DEBUG what they are called with, and a response what it sends. Who sets the root
logger to DEBUG to find a fault of the application would have sessions, payloads and signed URIs in
the log. The loggers and their levels are the process's: they stay as they are, and so does all that
they tell of others.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

ENGINE = "mcp_persist"
"""What engines of ours are called in the log (`logging_name`)."""
_THREADS = "mcp-persist-sqlite"

_sending: ContextVar[bool] = ContextVar("mcp_persist_sending", default=False)


class _Hush(logging.Filter):
    """Lets nothing of ours pass that is meant for who looks into the library itself."""

    def __init__(self, logger: str, is_ours: Callable[[], bool]) -> None:
        super().__init__()
        self._is_ours = is_ours
        self._logger = logging.getLogger(logger)

    def add(self) -> None:
        """Be a filter of that logger; a second time does nothing."""
        self._logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG or not self._is_ours()


_OF_DRIVERS = _Hush("aiosqlite", lambda: threading.current_thread().name == _THREADS)
_OF_ENGINES = _Hush(f"sqlalchemy.engine.Engine.{ENGINE}", lambda: True)
_OF_RESPONSES = _Hush("sse_starlette.sse", _sending.get)


def hush_engines() -> None:
    """Rows that engines of ours have read are in no log. Statements are, without their values."""
    _OF_ENGINES.add()


def hush_driver(thread: threading.Thread) -> None:
    """What a driver is told to do in this thread, which is ours, is in no log."""
    thread.name = _THREADS
    _OF_DRIVERS.add()


@contextlib.contextmanager
def hushed_response() -> Iterator[None]:
    """What is sent meanwhile is in no log."""
    _OF_RESPONSES.add()
    before = _sending.set(True)
    try:
        yield
    finally:
        _sending.reset(before)
