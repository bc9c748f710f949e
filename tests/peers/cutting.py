"""A raw client that resets its connection every few events and comes back with its cursor."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from tests.support.session import RawSession
from tests.support.sse_client import Frame, Response

_QUIET = 5.0
_BUSY = 409
_PATIENCE = 10.0


@dataclass(slots=True)
class Outcome:
    """What one call's client has seen over all its connections."""

    expected: int
    progress: list[int] = field(default_factory=list)
    responses: int = 0
    connections: int = 1
    note: str = ""

    @property
    def lost(self) -> int:
        """Progress values that never came, and the result if it did not."""
        return len(set(range(1, self.expected + 1)) - set(self.progress)) + (not self.responses)

    @property
    def doubled(self) -> int:
        """Events that came more than once."""
        again = len(self.progress) - len(set(self.progress))
        return again + max(0, self.responses - 1)

    @property
    def reordered(self) -> int:
        """Events that came behind a later one."""
        return sum(b < a for a, b in itertools.pairwise(self.progress))

    @property
    def exact(self) -> bool:
        """Each event and the result exactly once and in order."""
        return not (self.lost or self.doubled or self.reordered)


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line about several calls."""
    notes = sorted({outcome.note for outcome in outcomes if outcome.note})
    parts = [
        f"{sum(outcome.expected for outcome in outcomes)} events",
        f"{sum(outcome.connections for outcome in outcomes)} connections",
        f"lost {sum(outcome.lost for outcome in outcomes)}",
        f"doubled {sum(outcome.doubled for outcome in outcomes)}",
        f"reordered {sum(outcome.reordered for outcome in outcomes)}",
        f"results {sum(outcome.responses for outcome in outcomes)}/{len(outcomes)}",
    ]
    return ", ".join(parts + notes)


async def count_through_cuts(session: RawSession, n: int, rate: float, every: int) -> Outcome:
    """Call `count` and reset the connection after every `every` events until the result is here.

    A peer may be silent for good where it has lost an event: the client comes back once more
    then, and gives up when that brings nothing either.
    """
    outcome = Outcome(n)
    response = await session.call("count", n=n, rate=rate)
    cursor: str | None = None
    fruitless = 0
    while not outcome.responses:
        if response.status != 200 or fruitless > 1:
            outcome.note = f"gave up, status {response.status}, {fruitless} fruitless connections"
            response.reset()
            break
        before = len(outcome.progress)
        async with aclosing(_until_quiet(response)) as frames:
            async for frame in frames:
                cursor = frame.id or cursor
                _count(outcome, frame)
                if outcome.responses or len(outcome.progress) - before >= every:
                    break
        fruitless = fruitless + 1 if len(outcome.progress) == before else 0
        response.reset()
        if not outcome.responses:
            response = await _resume(session, cursor)
            outcome.connections += 1
    return outcome


def _count(outcome: Outcome, frame: Frame) -> None:
    if (value := frame.progress) is not None:
        outcome.progress.append(value)
    outcome.responses += frame.is_response


async def _until_quiet(response: Response) -> AsyncGenerator[Frame, None]:
    try:
        async with aclosing(response.frames(_QUIET)) as frames:
            async for frame in frames:
                yield frame
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
        return


async def _resume(session: RawSession, cursor: str | None) -> Response:
    """A server may need a moment to see that the old connection is gone."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            response = await session.get(cursor)
            if response.status != _BUSY:
                return response
            response.reset()
            await asyncio.sleep(0.005)
