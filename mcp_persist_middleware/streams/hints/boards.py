"""The boards of one worker, and the listens of its own that it holds for those of other workers."""

import json
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Scope

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi import attempt
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.membership.member import Member
from mcp_persist_middleware.model import Place
from mcp_persist_middleware.protocol import hints
from mcp_persist_middleware.protocol.hints import Filter
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.streams.hints.board import Board
from mcp_persist_middleware.streams.hints.inner import InnerListen
from mcp_persist_middleware.supervision import Supervisor, Tasks, say

# What a call waits for at most (seconds), so that a hint of its own is heard.
_MOST_SECONDS = 0.25
# A listen of ours is held in one caller's name for so long; one that was refused is not tried again
# for so long.
_OLD, _TRY_AGAIN = 600.0, 30.0
_MOST = 256
_OF_THE_CLIENT = "io.modelcontextprotocol/"
_OF_THE_CALL = (b"mcp-name", b"mcp-method")


class Boards:
    """The boards, by place.

    Args:
        running: what runs the application.
    """

    def __init__(
        self, settings: Settings, log: EventLog, member: Member, tasks: Supervisor, running: Tasks
    ) -> None:
        self._settings = settings
        self._log = log
        self._member = member
        self._tasks = tasks
        self._running = running
        self._all: dict[Place, Board] = {}
        self._not_before: Recent[Place, float] = Recent(_MOST)

    def of(self, place: Place) -> Board:
        """The one of a place."""
        found = self._all.get(place)
        if found is None:
            if len(self._all) >= _MOST:
                self._all = {each: board for each, board in self._all.items() if not board.is_idle}
            seconds = self._settings.missed_hints
            found = Board(self._log, self._member, self._tasks, place, seconds)
            self._all[place] = found
        return found

    async def before_call(self, app: ASGIApp, scope: Scope, body: Body) -> None:
        """A tool is about to be called here. Where clients of other workers listen for what it may
        change, the application is listened to for them, in the name of who calls: without a
        subscriber it would let nobody know."""
        has_peers = self._member.peers.has_peers(self._member.name)
        if not (self._settings.share_hints and has_peers and body.complete):
            return
        place, now = asgi.place_of(scope), time.monotonic()
        if now < self._not_before.get(place, 0.0):
            return
        try:
            await self._look(self.of(place), place, now, app, scope, body)
        except Exception as error:  # noqa: BLE001
            # It is not what was asked for, and must not spoil that.
            say("A listen for other workers", error)

    async def _look(
        self, board: Board, place: Place, now: float, app: ASGIApp, scope: Scope, body: Body
    ) -> None:
        wanted = await board.lacking(_MOST_SECONDS)
        if board.tap is not None and (wanted or now - board.tap.began > _OLD):
            wanted = wanted.joined([board.tap.asked])
        if wanted:
            await self._tap(board, place, wanted, app, scope, body)

    async def _tap(
        self, board: Board, place: Place, asked: Filter, app: ASGIApp, scope: Scope, body: Body
    ) -> None:
        most = self._settings.max_event_bytes
        tap = InnerListen(app, *_listen(scope, body, asked), asked, board, most)
        with attempt.beside():
            tap.start(self._running)
        await tap.known(_MOST_SECONDS)
        if tap.is_over:
            self._not_before[place] = time.monotonic() + _TRY_AGAIN
        else:
            board.tap_with(tap)

    async def aclose(self) -> None:
        """The worker leaves."""
        # A call that still begins may bring another one.
        for board in list(self._all.values()):
            await board.aclose()


def _listen(scope: Scope, body: Body, asked: Filter) -> tuple[Scope, Body]:
    """A listen in the name of who makes a call."""
    made = asgi.question(scope, "POST", without=_OF_THE_CALL)
    # What says which arguments a call has says nothing of a listen.
    made["headers"] = [pair for pair in made["headers"] if not pair[0].startswith(b"mcp-param-")]
    made["headers"].append((b"mcp-method", hints.METHOD.encode()))
    told = hints.request(f"hints-{secrets.token_hex(8)}", asked, _meta(body))
    return made, Body.of(told)


def _meta(body: Body) -> dict[str, Any]:
    """What a call says of its client, less what is its own."""
    try:
        meta = json.loads(body.content)["params"]["_meta"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    told = meta if isinstance(meta, dict) else {}
    return {name: said for name, said in told.items() if name.startswith(_OF_THE_CLIENT)}
