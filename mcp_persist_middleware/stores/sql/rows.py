"""From rows to what they mean. A row that a newer version wrote, or that is damaged, is an error of
its own stream, session or relayed request, and of nothing else."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import UnreadableRowError
from mcp_persist_middleware.model import (
    Event,
    EventKind,
    Owner,
    StreamKind,
    StreamRecord,
    StreamState,
    WorkerState,
)

logger = logging.getLogger(__name__)

PagedRow = tuple[int, int, int, int, bytes]
"""Sequence, epoch, kind, codec, payload."""


class RowPage(NamedTuple):
    """Events of a stream, and the rows between them whose kind this version does not know."""

    events: list[Event]
    lost: list[PagedRow]


def page_of(rows: Iterable[PagedRow]) -> RowPage:
    """What is in rows of the event table."""
    events: list[Event] = []
    lost: list[PagedRow] = []
    for row in rows:
        sequence, epoch, kind, code, payload = row
        try:
            events.append(Event(sequence, epoch, EventKind(kind), payload, code))
        except ValueError:
            lost.append(row)
    return RowPage(events, lost)


def named(columns: Iterable[str], values: Iterable[Any]) -> SimpleNamespace:
    """A row of a driver, its columns as attributes."""
    return SimpleNamespace(**dict(zip(columns, values, strict=True)))


@contextlib.contextmanager
def reading(store: str, what: str) -> Iterator[None]:
    """Around the use of one row of a store; `what` is what it is a row of.

    Raises:
        UnreadableRowError: the row has something that this version does not know.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        telemetry.unreadable.add(1, {"what": what})
        # What is in the row may be secret.
        reason = type(error).__name__ if isinstance(error, UnicodeError) else str(error)[:100]
        raise UnreadableRowError(url=store, what=what, reason=reason) from error


def record_of(row: Any) -> StreamRecord:
    """The record in a row of the stream table.

    Raises:
        ValueError: it is of another version.
    """
    return StreamRecord(
        id=row.id,
        kind=StreamKind(row.kind),
        owner=Owner(row.namespace, row.path, row.session, row.principal),
        epoch=row.epoch,
        state=StreamState(row.state),
        last_sequence=row.last_sequence,
        worker=row.worker,
        created_at=row.created_at,
        ended_at=row.ended_at,
        expires_at=row.expires_at,
        request_ids=row.request_ids,
        trace=row.trace,
        request=row.request,
    )


def note_damage(what: str) -> None:
    """A part of the store is damaged, and is stepped over."""
    telemetry.unreadable.add(1, {"what": "damaged"})
    logger.error(
        "MPM-STORE-13: The store is damaged: %s cannot be removed, and are left behind. Check its "
        "disk, and "
        "restore it from a copy or let it be made anew",
        what,
    )


def state_of(value: int) -> WorkerState:
    """A worker's state. One that this version does not know is not that of a dead worker: if it
    is dead all the same, its counter stands still."""
    try:
        return WorkerState(value)
    except ValueError:
        return WorkerState.LIVE
