"""The boards of a worker that leaves are all closed, whatever comes meanwhile."""

import asyncio
from typing import Any, cast

from mcp_persist_middleware.model import Place
from mcp_persist_middleware.streams.hints.boards import Boards


class Board:
    """One that takes a round to close."""

    is_idle = True

    def __init__(self) -> None:
        self.is_closed = False

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.is_closed = True


async def test_a_call_at_a_new_place_keeps_no_board_from_closing() -> None:
    nothing = cast(Any, None)
    boards = Boards(nothing, nothing, nothing, nothing, nothing)
    all_of_them = {Place("", f"/{n}"): Board() for n in range(3)}
    boards._all = cast(Any, dict(all_of_them))
    closing = asyncio.create_task(boards.aclose())
    await asyncio.sleep(0)
    boards._all[Place("", "/new")] = cast(Any, Board())
    await closing
    assert all(board.is_closed for board in all_of_them.values())
