"""A store that is only looked at, as `tasks.state` asks a log."""

from mcp_persist_middleware.log.base import Answers
from mcp_persist_middleware.log.codecs.chain import Bound, Chain
from mcp_persist_middleware.model import Event, StreamRecord
from mcp_persist_middleware.stores.sql.inspection import Inspection


class InspectedLog:
    """What of a log tells what has become of a job.

    Args:
        now: the time in the store.
    """

    def __init__(self, inspection: Inspection, chain: Chain, now: float) -> None:
        self._inspection = inspection
        self._chain = chain
        self._now = now

    def now(self) -> float:
        """The time when it was begun to look."""
        return self._now

    async def find(self, stream: bytes) -> StreamRecord | None:
        """A stream."""
        return await self._inspection.stream(stream)

    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        """Events after a number, those that can be read here."""
        wanted: list[int] = []
        size = 0
        for head in await self._inspection.heads(stream, after, max_events):
            size += head.size
            if wanted and size > max_bytes:
                break
            wanted.append(head.sequence)
        found = await self._inspection.events(stream, wanted) if wanted else []
        return [e for event in found if (e := self._clear(stream, event)) is not None]

    async def answers(self, stream: bytes, after: int = 0) -> Answers:
        """What it has answered; an answer that cannot be read here is an empty one."""
        found = await self._inspection.answers(stream, after)
        events = [self._clear(stream, e) or e._replace(frame=b"", codec=0) for e in found.events]
        return Answers(found.last, events)

    def _clear(self, stream: bytes, event: Event) -> Event | None:
        bound = Bound.of_event(stream, event.epoch, event.sequence, event.kind)
        try:
            frame = self._chain.decode(event.codec, event.frame, bound)
        except ValueError:
            return None
        return event._replace(frame=frame, codec=0)
