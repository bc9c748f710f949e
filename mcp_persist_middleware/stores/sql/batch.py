"""What a batch of writes is in every dialect."""

from typing import NamedTuple

from mcp_persist_middleware.model import Ending, StreamRecord, StreamWrite

UNFIT = (OverflowError, ValueError)
"""What a value raises that no column takes, whatever the driver."""


class Trace(NamedTuple):
    """What is in the store of an entry; None where it says nothing of that."""

    stream: bytes
    epoch: int
    state: int | None
    first: int
    """The first of its events."""
    last: int
    number: int
    """How many they are."""
    worker: str | None


def trace_of(entry: StreamWrite) -> Trace | None:
    """What shows that an entry is in the store already, after a call whose answer was lost; None
    when nothing does, and it is to be done again."""
    if not (entry.events or entry.create or entry.ending or entry.worker is not None):
        return None
    state = int(entry.ending.state) if entry.ending else None
    # Where there are none, none are between these two.
    first, last = (entry.events[0].sequence, entry.events[-1].sequence) if entry.events else (0, -1)
    return Trace(entry.id, entry.epoch, state, first, last, len(entry.events), entry.worker)


def stream_row(record: StreamRecord, ending: Ending | None = None) -> tuple[object, ...]:
    """The row of a new stream, in the order of the table's columns; of one that ends as it begins,
    with its end."""
    owner, end = record.owner, ending or record
    return (
        record.id,
        record.kind.value,
        owner.namespace,
        owner.path,
        owner.session,
        owner.principal,
        record.epoch,
        int(end.state),
        end.last_sequence,
        record.worker,
        record.created_at,
        end.ended_at,
        end.expires_at,
        record.request_ids,
        record.trace,
        None,
        None if ending else record.request,
    )
