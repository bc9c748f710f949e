"""Who shares our Redis, and hears and speaks on every channel, learns and tells nothing."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from mcp_persist_middleware.log.codecs import cipher
from mcp_persist_middleware.model import Event, EventKind
from mcp_persist_middleware.stores.redis import scripts
from mcp_persist_middleware.stores.redis.messages import MessageSeal
from mcp_persist_middleware.testing.contract.builders import add, events, new, numbers, record
from tests.contract.redis_builders import Place, hold_back
from tests.contract.redis_pair import ANSWERED, workers
from tests.contract.test_redis_messages import listening
from tests.support.scripted import until

pytestmark = pytest.mark.timeout(60)
FORGED = b"data: forged\r\n"


class Neighbour:
    """A user with keys of its own, and with the channels that Redis 6 gives everybody."""

    def __init__(self, place: Place) -> None:
        with contextlib.closing(place.client) as admin:
            admin.acl_setuser(
                "neighbour",
                enabled=True,
                passwords=["+pw"],
                keys=["theirs:*"],
                channels=["*"],
                categories=["+@all", "-@dangerous", "-@admin"],
            )
        port = place.server.port
        self.client = redis.Redis(port=port, username="neighbour", password="pw")
        self._listener: Any = self.client.pubsub()
        self._listener.psubscribe("*")

    def heard(self) -> dict[bytes, list[bytes]]:
        """What was told until now, by channel."""
        found: dict[bytes, list[bytes]] = {}
        while (message := self._listener.get_message(timeout=0.3)) is not None:
            if message["type"] == "pmessage" and message["data"]:
                found.setdefault(message["channel"], []).append(message["data"])
        return found


@pytest.fixture
def neighbour(place: Place) -> Iterator[Neighbour]:
    made = Neighbour(place)
    with contextlib.closing(made.client):
        yield made


async def test_a_neighbour_reads_no_event_and_its_own_is_no_event(
    place: Place, neighbour: Neighbour
) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream, *events(1, 1))])
        next_message = await listening(two, stream.id)
        await one.append([add(stream, *events(2, 1))])
        await next_message()
        ((channel, (told,)),) = neighbour.heard().items()
        (event,) = events(2, 1)
        assert event.frame not in told
        assert event.frame in two._wakeups.heard.of(stream.id)[0]
        forged = scripts.encode([Event(3, 1, EventKind.RESPONSE, FORGED)])
        plain = scripts.message_of(3, forged, len(forged))
        for message in (plain, MessageSeal(b"its own").seal(plain, stream.id, 8192), told[:-1]):
            assert neighbour.client.publish(channel, message) == 2
        await one.append([add(stream, *events(3, 1))])
        await until(lambda: len(two._wakeups.heard.of(stream.id)) == 2)
        found = await two.read(stream.id, 0, 100, 1 << 20)
        assert [each.sequence for each in found] == [1, 2, 3]
        assert FORGED not in [each.frame for each in found]


async def test_a_neighbour_reads_no_reply_and_gives_none(
    place: Place, neighbour: Neighbour
) -> None:
    async with workers(place) as pair:
        await pair.claim()
        sent = await pair.put()
        next_message = await listening(pair.two, sent.id)
        channel = pair.two._channel(sent.id)
        neighbour.client.publish(channel, b"forged")
        await pair.claim()
        await pair.answer(sent)
        await next_message()
        assert await pair.sender.look(sent.name) == ANSWERED
        told = neighbour.heard()[channel.encode()]
        assert not [each for each in told if ANSWERED.reply in each]


def test_what_is_sealed_for_one_topic_and_store_is_nothing_in_another() -> None:
    one, two = MessageSeal(b"secret"), MessageSeal(b"secret")
    sealed = one.seal(b"content", b"topic", 100)
    assert two.open(sealed, b"topic") == b"content"
    assert one.seal(b"content", b"topic", 100) != sealed
    assert two.open(sealed, b"other") == b""
    assert MessageSeal(b"other").open(sealed, b"topic") == b""
    assert one.seal(b"content", b"topic", 6) == b""
    for damaged in (b"", sealed[:20], sealed[:-1], sealed + b"x"):
        assert two.open(damaged, b"topic") == b""


async def test_without_the_means_to_seal_nothing_is_told_and_all_is_read(
    place: Place, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cipher, "_found", False)
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream, *events(1, 1))])
        await listening(two, stream.id)
        await one.append([add(stream, *events(2, 1))])
        assert await numbers(two, stream) == [1, 2]
        assert neighbour.heard() == {}
