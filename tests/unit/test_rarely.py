"""What happens to every request is said once, and not for every request."""

import asyncio
import logging

import pytest

from mcp_persist_middleware import rarely
from tests.support.scripted import until

SECONDS = 0.2


@pytest.fixture
def logger(request: pytest.FixtureRequest) -> logging.Logger:
    """A logger of this test's own."""
    made = logging.getLogger(request.node.name)
    made.addFilter(rarely.Rarely(SECONDS))
    return made


async def test_a_storm_is_one_line_and_the_last_of_it_follows_with_their_number(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(1000):
        logger.warning("Stream %d goes on without the log", n)
        logger.warning("Another line")
    assert caplog.messages == ["Stream 0 goes on without the log", "Another line"]
    await until(lambda: len(caplog.messages) == 4)
    assert sorted(caplog.messages[2:]) == [
        "Another line (998 more like it before)",
        "Stream 999 goes on without the log (998 more like it before)",
    ]
    await asyncio.sleep(2 * SECONDS)
    logger.warning("Another line")
    assert caplog.messages[4:] == ["Another line"]


async def test_of_what_comes_and_goes_the_last_state_is_told(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    for state in ("away", "back", "away", "back", "away"):
        logger.warning("Redis is %s.", state)
    await until(lambda: len(caplog.messages) == 2)
    assert caplog.messages[0] == "Redis is away."
    assert caplog.messages[1].startswith("Redis is away. (3 more")


async def test_tracebacks_and_what_is_for_debugging_always_pass(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        logger.debug("A detail")
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            logger.exception("An error")
    assert caplog.messages == ["A detail", "An error"] * 3


def test_each_event_loop_is_told_for_itself_and_none_is_kept(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    async def storm() -> None:
        for _ in range(10):
            logger.warning("A line")

    for _ in range(3):
        asyncio.run(storm())
    assert caplog.messages == ["A line"] * 3
    (flood,) = logger.filters
    assert isinstance(flood, rarely.Rarely)
    assert len(flood._told) <= 1
