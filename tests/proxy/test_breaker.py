"""The circuit breaker of an upstream."""

import pytest

from mcp_persist_middleware.ops.proxy.breaker import CircuitBreaker, State


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(failures=3, open_seconds=5.0, clock=clock)


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    for _ in range(3):
        assert breaker.admits()
        breaker.failed()
    return breaker


def test_failures_in_a_row_open_it_and_it_says_until_when(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    opened(breaker)
    assert (breaker.state, breaker.admits(), breaker.retry_after) == (State.OPEN, False, 5.0)
    clock.now += 2
    assert (breaker.admits(), breaker.retry_after) == (False, 3.0)


def test_an_answer_between_failures_begins_the_count_anew(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.state is State.CLOSED


def test_one_request_tries_and_its_answer_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 5
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert [breaker.admits() for _ in range(3)] == [True, True, True]
    assert breaker.retry_after == 0


def test_a_failed_try_opens_it_for_as_long_again(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 5
    assert breaker.admits()
    breaker.failed()
    assert (breaker.admits(), breaker.retry_after) == (False, 5.0)


def test_a_try_whose_client_leaves_lets_the_next_one_try(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += 5
    assert breaker.admits()
    breaker.withdrawn()
    assert breaker.admits()
