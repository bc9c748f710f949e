"""What many ask for at the same moment is done together: group commit (DeWitt et al., 1984) for
everything that costs more by the step than by the piece."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mcp_persist_middleware.supervision import Tasks

Item = TypeVar("Item")
Result = TypeVar("Result")

# So many steps are on their way at once, with so many pieces each; what comes meanwhile waits.
_AT_ONCE, _MOST = 2, 128


@dataclass(slots=True)
class _Piece(Generic[Item, Result]):
    """What somebody asks for."""

    item: Item
    result: asyncio.Future[Result]
    until: float
    """It is not begun later (the event loop's clock)."""
    certain: bool


class Grouped(Generic[Item, Result]):
    """Gathers pieces, in their order, for as long as others are on their way.

    Args:
        step: does some together, within a time; the result of each, or its error.
        tasks: own what is on its way.
        seconds: nobody waits longer; what has waited for so long is not begun any more.
        late: what is raised then.
    """

    def __init__(
        self,
        step: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        tasks: Tasks,
        seconds: float,
        late: Callable[[], Exception],
    ) -> None:
        self._step = step
        self._tasks = tasks
        self._seconds = seconds
        self._late = late
        self._waiting: deque[_Piece[Item, Result]] = deque()
        self._steps = 0

    async def run(self, item: Item, *, certain: bool = False) -> Result:
        """The result of one. What was begun is done to its end even when whoever asks is
        cancelled.

        Args:
            certain: it is begun even then.

        Raises:
            Exception: what the step, or the piece in it, has raised, or that it is late.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Result] = loop.create_future()
        self._waiting.append(_Piece(item, result, loop.time() + self._seconds, certain))
        if self._steps < _AT_ONCE:
            self._begin()
        try:
            async with asyncio.timeout(self._seconds) as waited:
                return await result
        except TimeoutError:
            if not waited.expired():
                raise
            raise self._late() from None

    def _begin(self) -> None:
        self._steps += 1
        # Nobody's own context: it goes on for those who come later.
        step = self._tasks.begin(self._run(), context=contextvars.Context())
        # Also of one that is cancelled before it has begun.
        step.add_done_callback(self._ended)

    async def _run(self) -> None:
        while group := self._next():
            await self._do(group)

    def _ended(self, step: "asyncio.Task[None]") -> None:
        self._steps -= 1
        if step.cancelled():
            # With its event loop, and so are those who wait.
            for piece in self._waiting:
                piece.result.cancel()
            self._waiting.clear()
        elif self._waiting:
            # Who was woken by the last result asks again before its step is known to have ended.
            self._begin()

    def _next(self) -> "list[_Piece[Item, Result]]":
        """Those whose turn it is."""
        group: list[_Piece[Item, Result]] = []
        now = asyncio.get_running_loop().time()
        while self._waiting and len(group) < _MOST:
            piece = self._waiting.popleft()
            if now < piece.until and (piece.certain or not piece.result.cancelled()):
                group.append(piece)
        return group

    async def _do(self, group: "list[_Piece[Item, Result]]") -> None:
        found: Sequence[Result | Exception]
        try:
            found = await self._step([piece.item for piece in group])
        except asyncio.CancelledError:
            for piece in group:
                piece.result.cancel()
            raise
        except Exception as error:  # noqa: BLE001
            found = [error] * len(group)
        for piece, value in zip(group, found, strict=True):
            result = piece.result
            if result.done():
                continue
            if isinstance(value, Exception):
                result.set_exception(value)
            else:
                result.set_result(value)


def tried(work: Callable[..., Result], *arguments: Any) -> Result | Exception:
    """What a piece of a step returns, or raises."""
    try:
        return work(*arguments)
    except Exception as error:  # noqa: BLE001
        return error
