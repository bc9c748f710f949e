"""That all connections of a worker have left is told the store, in the end and in order."""

import asyncio
from typing import Any, cast

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.model import SessionKey, SessionStreamState
from mcp_persist_middleware.streams import subscribers
from mcp_persist_middleware.streams.subscribers import SessionSubscribers

KEY = SessionKey("", "/mcp", "s")


class Sessions:
    """A registry that fails as often as it is told to, and whose answers may be held back."""

    def __init__(self) -> None:
        self.failures = 0
        self.gates: list[asyncio.Future[None]] = []
        self.holds = False
        self.turn, self.worker = 0, ""

    async def stream_state(self, _: SessionKey) -> SessionStreamState:
        return SessionStreamState(self.turn, self.worker, b"x", 0)

    async def activate(self, _: SessionKey, turn: int, worker: str) -> bool:
        self.turn, self.worker = turn + 1, worker
        return True

    async def checkpoint(self, _: SessionKey, turn: int, worker: str, *__: object) -> bool:
        if self.failures:
            self.failures -= 1
            raise StoreError(url="store", reason="it is away")
        if self.holds:
            self.gates.append(asyncio.get_running_loop().create_future())
            await self.gates[-1]
        self.worker = worker
        return turn == self.turn


def connected(sessions: Sessions) -> SessionSubscribers:
    """The connections of one worker."""
    return SessionSubscribers(cast(Any, sessions), cast(Any, None), "here", is_down=lambda: False)


async def until(seconds: float, sessions: Sessions) -> None:
    """Wait until nobody holds the turn."""
    async with asyncio.timeout(seconds):
        while sessions.worker:
            await asyncio.sleep(0.01)


async def test_a_store_that_stumbles_as_the_last_one_leaves_is_told_again() -> None:
    sessions = Sessions()
    all_here = connected(sessions)
    turns = all_here.of(KEY)
    one = await turns.take()
    sessions.failures = 1
    one.leave()
    await until(3, sessions)


class Pauses:
    """What waits for no time, and keeps for how long it should have. The store is back then."""

    def __init__(self, sessions: Sessions, most: int) -> None:
        self.seconds: list[float | None] = []
        self._sessions, self._most = sessions, most

    def notify(self) -> None:
        """Nobody waits."""

    async def wait(self, timeout: float | None = None) -> None:
        self.seconds.append(timeout)
        if len(self.seconds) == self._most:
            self._sessions.failures = 0


async def test_a_store_that_is_away_for_long_is_asked_seldom() -> None:
    sessions = Sessions()
    all_here = connected(sessions)
    turns = all_here.of(KEY)
    one = await turns.take()
    sessions.failures = 1000
    turns.changed = pauses = cast(Any, Pauses(sessions, 7))
    one.leave()
    await until(3, sessions)
    assert pauses.seconds == [1, 2, 4, 8, 16, 30, 30]


async def test_that_all_have_left_is_the_last_word(monkeypatch: Any) -> None:
    monkeypatch.setattr(subscribers, "_NOTE", 0.0)
    sessions = Sessions()
    sessions.holds = True
    all_here = connected(sessions)
    turns = all_here.of(KEY)
    one = await turns.take()
    one.note(b"x", 1)
    await asyncio.sleep(0.01)
    one.leave()
    await asyncio.sleep(0.01)
    # The store does the later one first, where both are on their way.
    for _ in range(2):
        for gate in reversed(sessions.gates):
            if not gate.done():
                gate.set_result(None)
                await asyncio.sleep(0.01)
    await until(1, sessions)
