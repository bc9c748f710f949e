"""Several connections to one session stream: the newest receives, the others wait silently."""

from dataclasses import dataclass, field

from mcp_persist_middleware.signals.local import Signal

_WAIT = 15.0


@dataclass(slots=True)
class Turns:
    """The connections to one stream, the newest last."""

    delivered: int = 0
    """The last event that was written to a client: where the next one in turn goes on."""
    queue: "list[Turn]" = field(default_factory=list)
    changed: Signal = field(default_factory=Signal)

    def take(self, *, fresh: bool, last: int) -> "Turn":
        """Become the newest. A `fresh` connection holds no cursor: requests of the server up to
        event `last` are not for it.
        """
        turn = Turn(self, no_requests_until=last if fresh else 0)
        self.queue.append(turn)
        return turn


@dataclass(slots=True, eq=False)
class Turn:
    """The place of one connection."""

    turns: Turns
    no_requests_until: int = 0

    @property
    def is_mine(self) -> bool:
        """Whether this connection receives."""
        return self.turns.queue[-1] is self

    async def wait(self) -> None:
        """Return when it may be this connection's turn again."""
        await self.turns.changed.wait(_WAIT)

    def leave(self) -> None:
        """The connection is gone; the one before it goes on."""
        self.turns.queue.remove(self)
        self.turns.changed.notify()
