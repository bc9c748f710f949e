"""What many ask for at the same moment is done together: group commit (DeWitt et al., 1984) for
everything that costs more by the step than by the piece."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from mcp_persist_middleware.supervision import Tasks

Item = TypeVar("Item")
Result = TypeVar("Result")

# So many steps are on their way at once, with so many pieces each; what comes meanwhile waits.
_AT_ONCE, _MOST = 2, 128


class Grouped(Generic[Item, Result]):
    """Gathers pieces, in their order, for as long as others are on their way.

    Args:
        step: does some together, within a time; the result of each, or its error.
        tasks: own what is on its way.
    """

    def __init__(
        self,
        step: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        tasks: Tasks,
    ) -> None:
        self._step = step
        self._tasks = tasks
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._steps = 0

    async def run(self, item: Item) -> Result:
        """The result of one. It is done to its end even when whoever asks is cancelled.

        Raises:
            Exception: what the step, or the piece in it, has raised.
        """
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if self._steps < _AT_ONCE:
            self._steps += 1
            self._tasks.begin(self._run())
        return await result

    async def _run(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), _MOST)
                await self._do([self._waiting.popleft() for _ in range(count)])
        finally:
            self._steps -= 1

    async def _do(self, group: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        found: Sequence[Result | Exception]
        try:
            found = await self._step([item for item, _ in group])
        except asyncio.CancelledError:
            # With its event loop.
            for _, result in group:
                result.cancel()
            raise
        except Exception as error:  # noqa: BLE001
            found = [error] * len(group)
        for (_, result), value in zip(group, found, strict=True):
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
