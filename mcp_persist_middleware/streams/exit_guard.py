"""Keeps sse-starlette's process-wide exit switch away from the streams of the application inside.

sse-starlette cancels every `EventSourceResponse` of the process within half a second of SIGTERM.
The application's stream ends in our log, not at a client: cutting it loses the answer of a call
that has `drain_seconds` left. Everybody else's streams have to end as they always did, so the
process-wide settings of sse-starlette are of no use, and an answer that depends on the context is
needed.
"""

import contextvars
import functools
import inspect
import logging
from typing import Any

import anyio
from sse_starlette import EventSourceResponse

logger = logging.getLogger(__name__)

# It is as old as the class: every release since the lower bound has it, and waits for it only.
_NAME = "_listen_for_exit_signal"
_MARK = "_mcp_persist"
_shielded: contextvars.ContextVar[bool] = contextvars.ContextVar("mcp_persist", default=False)


def protect() -> None:
    """Shield every stream that the current context, or a task made in it, begins from now on."""
    _shielded.set(True)


def install() -> bool:
    """Let `EventSourceResponse` ask its context whether the exit switch is meant for it.

    One method of one class is wrapped, once in a process and for good; outside of a covered
    context it does what it did. When the method is not there, or not of a kind that is known,
    nothing is touched: calls in flight then end with SIGTERM, with an error in the log.

    Returns:
        Whether covered streams are shielded.
    """
    found = inspect.getattr_static(EventSourceResponse, _NAME, None)
    is_static = isinstance(found, staticmethod)
    listen: Any = found.__func__ if isinstance(found, staticmethod) else found
    if hasattr(listen, _MARK):
        return True
    if not inspect.iscoroutinefunction(listen):
        logger.warning(
            "MPM-CONFIG-11: This sse-starlette is not known; calls in flight end with SIGTERM"
        )
        return False

    @functools.wraps(listen)
    async def asked(*args: Any, **kwargs: Any) -> Any:
        if _shielded.get():
            # Whoever covers a stream ends it: its task is cancelled.
            await anyio.sleep_forever()
        return await listen(*args, **kwargs)

    setattr(asked, _MARK, True)
    setattr(EventSourceResponse, _NAME, staticmethod(asked) if is_static else asked)
    return True
