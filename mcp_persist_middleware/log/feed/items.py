"""What a feed gives, and what may be asked of it."""

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from mcp_persist_middleware.errors import FeedError
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import EventKind, StreamKind
from mcp_persist_middleware.protocol import sse
from mcp_persist_middleware.protocol.event_id import stream_of
from mcp_persist_middleware.settings import Settings


@dataclass(frozen=True, slots=True)
class Scope:
    """Which streams are followed: one, those that belong to somebody, or all."""

    stream: bytes | None = None
    whose: Whose = Whose()

    @property
    def is_everything(self) -> bool:
        """Whether no stream is left out."""
        return self.stream is None and self.whose == Whose()

    def said(self) -> str:
        """The same for the same streams, and for no others."""
        whose = (self.whose.session, self.whose.namespace)
        return json.dumps([None if self.stream is None else self.stream.hex(), *whose])


def scope_of(stream: str | None, session: str | None, namespace: str | None) -> Scope:
    """What is meant by names.

    Raises:
        FeedError: one is the name of nothing.
    """
    if stream is None:
        if session == "":
            raise FeedError(reason="session='' is no session")
        return Scope(whose=Whose(session=session, namespace=namespace))
    if session is not None or namespace is not None:
        raise FeedError(reason="stream= is given with session= or namespace=; one stream is enough")
    if (found := stream_of(stream)) is None:
        raise FeedError(
            reason=f"{stream[:48]!r} is no stream's name (22 characters) and no event id"
        )
    return Scope(found)


class GapReason(enum.StrEnum):
    """Why a feed does not give events."""

    REMOVED = "removed"
    """They are in the store no more, or cannot be read here (their key is missing)."""
    DROPPED = "dropped"
    """Whoever follows was too far behind, and has asked for that (`on_slow="drop"`)."""


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One committed event of one stream."""

    stream: str
    """The stream's name: the first 22 characters of its event ids."""
    sequence: int
    """Its number in the stream, from 1. What comes twice has the same stream and number."""
    epoch: int
    kind: EventKind
    stream_kind: StreamKind
    namespace: str
    path: str
    session: str = field(repr=False)
    """The id that the client has; empty where there is none."""
    principal: str = field(repr=False)
    """Whose the stream is, as lists show it; empty where that is not known."""
    frame: bytes = field(repr=False)
    """The lines of the server-sent event, without `id:`."""
    _cursor: Callable[[], str] = field(repr=False, compare=False)

    @property
    def cursor(self) -> str:
        """Everything up to this event was given: `after=` goes on behind it."""
        return self._cursor()

    @property
    def data(self) -> bytes:
        """What the event says."""
        frames = sse.FrameParser(len(self.frame) + len(sse.CRLF)).feed(self.frame + sse.CRLF)
        return frames[0].data if frames else b""

    @property
    def message(self) -> Any:
        """The JSON-RPC message in it; None where it is no JSON."""
        try:
            return json.loads(self.data)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class FeedGap:
    """Events that were committed and are not given."""

    reason: GapReason
    stream: str | None
    """Of which stream; None: of streams that nobody knows any more."""
    after: int
    """The number of the last event before them, of that stream."""
    missing: int | None
    """How many; None where nobody can tell, and there may be none."""
    _cursor: Callable[[], str] = field(repr=False, compare=False)

    @property
    def cursor(self) -> str:
        """As that of an event."""
        return self._cursor()


OnSlow = Literal["block", "drop"]


@dataclass(frozen=True, slots=True)
class Terms:
    """How a feed follows."""

    horizon: float
    """A stream is committed so many seconds after its id was made, at most."""
    kept: float
    """What has ended is kept for so many seconds, at least."""
    on_slow: OnSlow = "block"
    max_behind: int = 10_000
    """A feed that may drop events does so above so many that wait."""


def terms_of(settings: Settings, on_slow: str, max_behind: int) -> Terms:
    """The terms under these settings.

    Raises:
        FeedError: they cannot be kept.
    """
    if on_slow not in get_args(OnSlow) or max_behind < 0:
        raise FeedError(
            reason=f"on_slow={on_slow!r}, max_behind={max_behind!r}; expected 'block', or 'drop' "
            "with a number of events"
        )
    # A batch that waits for another one, and each attempt of both may take as long as it may.
    horizon = 4 * settings.store_timeout + 5.0
    return Terms(horizon, settings.least_kept, cast(OnSlow, on_slow), max_behind)


FeedItem = FeedEvent | FeedGap
