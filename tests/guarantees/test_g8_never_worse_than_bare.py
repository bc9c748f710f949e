"""G8: whatever the application answers by itself it answers behind the middleware too.

A part of `python -m tests.peers.bare`, which has more servers, states and requests.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from mcp_persist_middleware import PersistMiddleware
from tests.peers.bare import differ
from tests.peers.bare.apps import bare
from tests.peers.bare.cases import CASES
from tests.peers.bare.generate import generated
from tests.peers.bare.hunt import Hunt
from tests.peers.bare.requests import Case
from tests.peers.bare.sites import Site
from tests.support.scripted import serving

_LONG = ("late", "a quiet", "9 MB", "without an answer", "slow tool")


class Here:
    """A server on the test's own event loop; each start is of a new application."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.port = 0
        self._make = make
        self._held = AsyncExitStack()

    async def start(self) -> None:
        self.port = await self._held.enter_async_context(serving(self._make()))

    async def kill(self) -> None:
        await self._held.aclose()


def _cases(server: str, count: int) -> list[Case]:
    known = [case for case in CASES if not case.servers or server in case.servers]
    quick = [case for case in known if not any(word in case.name for word in _LONG)]
    return [*quick, *generated(count, seed=7)]


# A session that came back is asked all that a new one is.
@pytest.mark.parametrize(("state", "odd"), [("fresh", 25), ("back", 60)])
@pytest.mark.parametrize("server", ["raw", "sdk2"])
async def test_an_odd_request_is_answered_as_by_the_bare_application(
    server: str, state: str, odd: int, tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other tests run beside it. By half a second it is measured when it runs by itself.
    monkeypatch.setattr(differ, "SLACK", 2.0)
    ours = Here(lambda: PersistMiddleware(bare(server), url=tmp_store, drain_seconds=0.1))
    alone = Here(lambda: bare(server))
    await ours.start()
    await alone.start()
    try:
        site = Site(state, alone, ours, ours)
        outcome = await Hunt(site, server, "uvicorn").run(_cases(server, odd), shrink=False)
    finally:
        await ours.kill()
        await alone.kill()
    assert [f"{it.case.name}, step {it.step}: {it.difference}" for it in outcome.found] == []
    assert outcome.requests > 150 + odd
