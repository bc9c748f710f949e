"""Loggers for what may happen to every request: a storm is one event, and one line."""

import asyncio
import contextvars
import logging
from dataclasses import dataclass
from weakref import WeakKeyDictionary

_SECONDS = 5.0


@dataclass(slots=True)
class _Repeats:
    at: float
    """When it was last told."""
    left_out: int = 0
    latest: logging.LogRecord | None = None
    """The last one that was left out."""


class Rarely(logging.Filter):
    """Lets a line pass at most once in so many seconds, whatever it is filled in with. Of those
    that it holds back the last one follows at the end of that time, with their number: whoever
    reads of a state that comes and goes reads of the one that is. An error with its traceback, and
    what is meant for who looks into the library itself, always passes.

    Each event loop is told for itself: what runs on another one is another worker's.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        super().__init__()
        self._seconds = seconds
        self._told: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Repeats]] = (
            WeakKeyDictionary()
        )

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO or record.exc_info:
            return True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return True
        text, now = str(record.msg), loop.time()
        lines = self._told.setdefault(loop, {})
        line = lines.get(text)
        if line is None or now - line.at >= self._seconds:
            lines[text] = _Repeats(now)
            if line is not None and line.left_out:
                record.msg = f"{text} ({line.left_out} more like it before)"
            return True
        if line.latest is None:
            # A context of its own: that of a request would live as long.
            left, context = line.at + self._seconds - now, contextvars.Context()
            loop.call_later(left, self._follow, line, context=context)
        else:
            line.left_out += 1
        line.latest = record
        return False

    def _follow(self, line: _Repeats) -> None:
        record, line.latest, line.at = line.latest, None, -self._seconds
        if record is not None:
            logging.getLogger(record.name).handle(record)


def logger(name: str) -> logging.Logger:
    """The logger of a module that speaks of single requests, streams and sessions."""
    found = logging.getLogger(name)
    found.addFilter(Rarely())
    return found
