"""Redis fails while requests cross from worker to worker: each is run at most once and answered
once, with what it did or with an error, and the service goes on by itself."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.multiworker.stateful_app import workers
from tests.multiworker.test_relay import on, value
from tests.support.redis_faults import die_and_forget, forget, lose_connections
from tests.support.session import RawSession
from tests.support.stores import STORES, RedisServer, Store

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that may be hurt."""
    made = RedisServer(tmp_path / "redis")
    made.start()
    yield made
    made.stop(signal.SIGKILL)


@pytest.mark.parametrize("below", ["sqlite", "postgres"])
@pytest.mark.parametrize("fault", [forget, die_and_forget, lose_connections])
async def test_no_request_is_run_twice_nor_after_it_was_refused(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    server: RedisServer,
    below: str,
    fault: Callable[[RedisServer], Awaitable[None]],
) -> None:
    store = STORES[below](tmp_path, request.getfixturevalue)
    store = Store(f"{below}+redis", store.settings | {"redis": server.url()})
    answers: dict[str, object] = {}
    async with workers(tmp_path, store=store) as (one, two):
        sessions = [on(await RawSession.open(one.port), two) for _ in range(6)]
        over = time.monotonic() + 30

        async def calls(session: RawSession, who: int) -> None:
            for number in range(390):
                if hurt.done() and number > after.setdefault(who, number + 10):
                    break
                assert time.monotonic() < over
                name = f"{who}.{number}"
                answers[name] = await value(await session.call("work", n=name))

        after: dict[int, int] = {}

        async def hurting() -> None:
            await asyncio.sleep(0.5)
            await fault(server)

        hurt = asyncio.create_task(hurting())
        await asyncio.gather(*(calls(each, n) for n, each in enumerate(sessions)))
        ran = Counter(
            line.split()[1] for line in (one.log + two.log).splitlines() if line.startswith("work ")
        )
    assert set(ran.values()) == {1}
    done = {name for name, answer in answers.items() if answer in range(1, 400)}
    assert done <= set(ran)
    # What is refused with a status was not run; what is not known ends with an error.
    assert not {name for name, answer in answers.items() if answer in (404, 503)} & set(ran)
    # An error is honest, and rare.
    assert len(answers) - len(done) <= 0.2 * len(answers)
    with contextlib.closing(redis.Redis(port=server.port)) as client:
        assert any(client.scan_iter("*{w:*"))
