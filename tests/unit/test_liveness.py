"""A worker is dead when one observer has seen it stand still for a whole lease; a store that is
away kills nobody."""

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mcp_persist_middleware.log.membership import heartbeat
from mcp_persist_middleware.log.membership.failure_detector import FailureDetector
from mcp_persist_middleware.log.membership.lease import Lease
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.model import Beat, WorkerState
from tests.support.scripted import late

LEASE = 10.0
LIVE, DRAINING, DEAD = WorkerState


class Clock:
    """A monotonic clock that stands where it is put."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Watching:
    """An observer that looks once a second."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.failure_detector = FailureDetector(LEASE, clock)

    def look(self, counter: int, state: WorkerState = LIVE, *, took: float = 0.0) -> bool:
        """Look at worker "w" and then wait for a second; whether it is dead."""
        began = self.clock.now
        self.clock.now += took
        self.failure_detector.look(began, {"w": Beat(counter, state, 0.0)})
        self.clock.now += 1.0
        return self.failure_detector.is_dead("w")


@pytest.fixture
def watching(clock: Clock) -> Watching:
    return Watching(clock)


def test_who_stands_still_for_a_lease_is_dead_and_not_before(watching: Watching) -> None:
    assert [watching.look(7) for _ in range(12)] == [False] * 10 + [True] * 2


def test_who_moves_once_in_a_lease_lives(watching: Watching) -> None:
    assert not any(watching.look(second // 9) for second in range(100))


def test_who_moves_again_lives_again(watching: Watching) -> None:
    assert [watching.look(1) for _ in range(11)][-1]
    assert not watching.look(2)


def test_the_time_that_a_look_takes_counts_for_the_worker(watching: Watching) -> None:
    watching.look(1, took=2.0)
    assert [watching.look(1) for _ in range(11)].index(True) == 9, "11 s after the first look began"


def test_an_outage_of_the_store_begins_every_observation_anew(watching: Watching) -> None:
    for _ in range(10):
        assert not watching.look(1)
    watching.failure_detector.restart()
    watching.clock.now += 3 * LEASE
    assert [watching.look(1) for _ in range(11)] == [False] * 10 + [True]


def test_an_observer_that_stood_still_itself_begins_anew(watching: Watching) -> None:
    watching.look(1)
    watching.clock.now += 60.0
    assert [watching.look(1) for _ in range(11)] == [False] * 10 + [True]


def test_a_verdict_in_the_store_holds_at_once_and_an_unknown_worker_is_not_dead(
    watching: Watching,
) -> None:
    assert not watching.failure_detector.is_dead("w")
    assert not watching.look(1, DRAINING)
    assert watching.look(2, DEAD)
    watching.failure_detector.look(watching.clock.now, {})
    assert not watching.failure_detector.is_dead("w")


def test_the_observer_knows_when_the_next_death_is_due(watching: Watching, clock: Clock) -> None:
    assert watching.failure_detector.due() == LEASE
    watching.look(1)
    watching.look(1)
    assert watching.failure_detector.due() == LEASE - 2
    clock.now += 20
    assert watching.failure_detector.due() == LEASE, "a death that was seen is not waited for"


def test_a_lease_runs_out_by_its_own_clock_and_never_comes_back(clock: Clock) -> None:
    lease = Lease(LEASE, clock)
    clock.now += 9.9
    assert lease.is_held
    lease.keep(clock.now)
    clock.now += 9.9
    assert lease.is_held
    clock.now += 0.1
    assert not lease.is_held
    lease.keep(clock.now)
    lease.fail(clock.now)
    assert not lease.is_held


def test_a_heartbeat_that_slept_on_its_way_renews_nothing(clock: Clock) -> None:
    lease, began = Lease(LEASE, clock), clock.now
    clock.now += 60
    lease.keep(began)
    assert not lease.is_held


def test_a_worker_whose_store_is_away_keeps_its_lease_while_it_is_awake(clock: Clock) -> None:
    lease = Lease(LEASE, clock)
    for _ in range(40):
        clock.now += 2.0
        lease.fail(clock.now)
        assert lease.is_held
    assert not lease.is_young
    clock.now += 60.0
    assert not lease.is_held, "asleep in the outage: it may have ended meanwhile"


def test_a_lease_that_was_taken_away_is_lost(clock: Clock) -> None:
    lease = Lease(LEASE, clock)
    lease.lose()
    assert not lease.is_held
    assert not lease.is_young


async def test_nobody_waits_for_the_end_of_a_heartbeats_thread_with_the_event_loop_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "_JOIN_SECONDS", 0.5)
    beating = heartbeat.Heartbeat(None, "w", Lease(LEASE))  # type: ignore[arg-type]
    slow = SimpleNamespace(is_alive=lambda: True, join=time.sleep)
    monkeypatch.setattr(beating, "_thread", slow)
    beating._ended.set()
    async with late() as rounds:
        await beating.aclose()
    assert max(rounds) < 0.25


def test_a_worker_of_this_host_that_has_died_is_suspect_a_twentieth_of_a_second_later(
    watching: Watching,
) -> None:
    """To ask is to try the lock of a file: of one that was there it is not asked again at once."""
    gone, asked = set[str](), list[str]()

    def is_gone(worker: str) -> bool:
        asked.append(worker)
        return worker in gone

    watching.look(1)
    peers = Peers(
        cast("Any", SimpleNamespace(is_gone=is_gone)), watching.failure_detector, watching.clock
    )
    assert not any(peers.is_suspect("w") for _ in range(100))
    assert asked == ["w"]
    gone.add("w")
    watching.clock.now += 0.051
    assert all(peers.is_suspect("w") for _ in range(3))
