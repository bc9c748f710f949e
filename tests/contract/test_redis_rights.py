"""A user of Redis who may not do all that is needed: told at the start what is lacking and how to
allow it, and done without when it is taken away later."""

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from mcp_persist_middleware.errors import StoreUnavailableError
from mcp_persist_middleware.model import RelayRequest, SessionKey, StreamRecord
from mcp_persist_middleware.stores.redis import rights, scripts
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.stores.redis.recovery import KeyIndex
from mcp_persist_middleware.stores.redis.requests import Box
from mcp_persist_middleware.stores.redis.scripts import UNNAME, ScriptCall
from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    add,
    events,
    new,
    numbers,
    record,
)
from tests.contract.redis_builders import Place, is_up, read_all
from tests.support.scripted import until
from tests.support.stores import RedisServer

pytestmark = pytest.mark.timeout(60)

_ALL = ("~*", "&*", "+@all")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of this file's own."""
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def place(tmp_path: Path, server: RedisServer) -> Place:
    """A store behind it, for the user `u`."""
    with contextlib.closing(redis.Redis(port=server.port)) as client:
        client.flushall()
    url = f"redis://u:hunter2@127.0.0.1:{server.port}"
    return Place(tmp_path, server, {"redis": url})


def allow(place: Place, *rules: str) -> None:
    """What the user may do, and nothing else."""
    with contextlib.closing(place.client) as client:
        given = ("reset", "resetchannels", "on", ">hunter2", *rules)
        client.execute_command("ACL", "SETUSER", "u", *given)


@pytest.mark.parametrize("command", sorted(rights.NEEDED))
async def test_a_command_that_is_forbidden_stops_the_start_and_is_named_with_the_fix(
    place: Place, command: str
) -> None:
    allow(place, *_ALL, f"-{command}")
    with pytest.raises(StoreUnavailableError) as raised:
        await place.make().open("one")
    said = str(raised.value)
    assert re.search(
        rf"its user 'u' may not run {command}\. .*SETUSER u \+{command.lower()}\.$", said
    )
    assert "hunter2" not in said


async def test_several_that_are_forbidden_are_told_at_once(place: Place) -> None:
    allow(place, "~*", "+@all", "-xadd", "-zrem")
    with pytest.raises(StoreUnavailableError) as raised:
        await place.make().open("one")
    assert "may not run XADD, ZREM nor use the channels mcp_*" in str(raised.value)
    assert str(raised.value).endswith("Allow it: ACL SETUSER u &mcp_* +xadd +zrem.")


@pytest.mark.parametrize(
    ("rules", "lacks", "fix"),
    [
        (("~*", "+@all"), "the channels mcp_*", "&mcp_*"),
        (("~other*", "&*", "+@all"), "the keys mcp_*", "~mcp_*"),
    ],
)
async def test_names_that_are_forbidden_are_told_with_the_fix(
    place: Place, rules: tuple[str, ...], lacks: str, fix: str
) -> None:
    allow(place, *rules)
    with pytest.raises(StoreUnavailableError) as raised:
        await place.make().open("one")
    assert lacks in str(raised.value)
    assert str(raised.value).endswith(f"ACL SETUSER u {fix}.")


async def test_what_is_said_to_be_needed_is_enough(place: Place) -> None:
    allow(place, "~mcp_*", "&mcp_*", "-@all", *(f"+{each.lower()}" for each in rights.NEEDED))
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        assert one._client.is_up
        assert await one.append([new(stream)]) == [COMMITTED]
        assert await one.append([add(stream, *events(1, 3))]) == [COMMITTED]
        buffer = one._buffers.get(stream.id)
        assert buffer is not None
        assert buffer.begun
        assert await numbers(two, stream) == [1, 2, 3]
        assert one._client.is_up
        assert two._client.is_up
    with contextlib.closing(place.client) as client:
        assert list(client.scan_iter("*try*")) == []


async def reads(log: RedisLog, stream: StreamRecord, last: int) -> None:
    """It has every event, at once or when SQL has it."""
    async with asyncio.timeout(5):
        while [n for n, _ in await read_all(log, stream)] != list(range(1, last + 1)):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("taken", ["-publish", "-xadd", "-hset", "-xrange", "resetchannels"])
async def test_what_is_taken_away_while_it_runs_costs_no_event_and_is_said_in_one_line(
    place: Place, taken: str, caplog: pytest.LogCaptureFixture
) -> None:
    allow(place, *_ALL)
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        assert await one.append([new(stream)]) == [COMMITTED]
        for number in range(1, 4):
            assert await one.append([add(stream, *events(number, 1))]) == [COMMITTED]
        with contextlib.closing(place.client) as client:
            client.execute_command("ACL", "SETUSER", "u", taken)
        for number in range(4, 9):
            assert await one.append([add(stream, *events(number, 1))]) == [COMMITTED]
            assert await numbers(one, stream) == list(range(1, number + 1))
            await reads(two, stream, number)
        logs = (two,) if taken == "-xrange" else (one,)
        await until(lambda: not any(log._client.is_up for log in logs))
        await until(lambda: any("Allow it: ACL SETUSER u" in text for text in caplog.messages))
        await asyncio.sleep(0.6)  # two more probes say nothing more
        said = [text for text in caplog.messages if "Redis" in text and "wake-ups" not in text]
        assert len(said) <= 2, said  # of each worker one
        assert all("may not" in text for text in said), said
        allow(place, *_ALL)
        await is_up(one)
        await is_up(two)
        assert await one.append([add(stream, *events(9, 1))]) == [COMMITTED]
        await reads(two, stream, 9)


async def test_what_cannot_be_taken_out_of_the_index_is_not_looked_for_again_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(place, *_ALL)
    monkeypatch.setattr(KeyIndex, "_PAGE", 2)
    async with place.worker("one") as one:
        run = one._client.run

        async def refuse(calls: Sequence[ScriptCall]) -> list[Any]:
            await asyncio.sleep(0)
            kept = [call for call in calls if call.command[1] != UNNAME(()).command[1]]
            return await run(kept) + [redis.ResponseError("no")] * (len(calls) - len(kept))

        with contextlib.closing(place.client) as client:
            client.zadd(one._keys.index, {bytes([n]) * 16: 0 for n in range(6)})
            monkeypatch.setattr(one._client, "run", refuse)
            await asyncio.wait_for(one._index.clean(one._keys), 5)
            assert client.zcard(one._keys.index) == 6
            monkeypatch.setattr(one._client, "run", run)
            await one._index.clean(one._keys)
            assert client.zcard(one._keys.index) == 0


def test_a_function_whose_message_is_refused_has_changed_nothing(place: Place) -> None:
    allow(place, "~*", "+@all")
    box = Box("mcp_a:{w:one}", "mcp_a:w:00")
    key = SessionKey("n", "p", "s")
    relayed = RelayRequest(b"L" * 16, key, "one", 1, time.time() + 60, b"c", sealed=False)
    keys = "mcp_a:{s}:h", "mcp_a:{s}:c"
    append = scripts.StreamAppend(
        keys, "mcp_a:w", 1, 1, 1, b"chunk", begins=True, drop=0, message=b""
    )
    calls = {
        "append": scripts.appending([append], 1)[0],
        "answer": box.answer(relayed.id, b"reply", 60_000, "mcp_a:w", "A", b""),
        "hint": box.hint(),
    }
    with contextlib.closing(redis.Redis(port=place.server.port, decode_responses=False)) as admin:
        # The box is open.
        admin.execute_command(*box.claim(b"n", "w", 1, 9, time.time(), 9, time.time() + 60).whole)
        calls["put"] = box.put(relayed, admin.hget(box.box, "t"), 10, 60_000)
        before = {key: admin.dump(key) for key in admin.scan_iter()}
        user = redis.Redis(port=place.server.port, username="u", password="hunter2")
        with contextlib.closing(user):
            for name, call in calls.items():
                with pytest.raises(redis.ResponseError) as raised:
                    user.execute_command(*call.whole)
                assert rights.is_denied(raised.value)
                assert {key: admin.dump(key) for key in admin.scan_iter()} == before, name


def test_every_command_that_is_used_is_tried() -> None:
    source = "".join(path.read_text() for path in Path(rights.__file__).parent.glob("*.py"))
    used = set(re.findall(r"redis\.call\('(\w+)'", source)) | set(
        re.findall(r'\(\("([A-Z]+)"', source)
    )
    used |= set(re.findall(r'query = \("([A-Z]+)"', source))
    assert used - {"INFO"} <= rights.NEEDED
    assert {"XADD", "ZRANGEBYSCORE", "SMEMBERS", "EVAL"} <= used


async def test_the_user_that_the_guide_makes_may_do_all(place: Place) -> None:
    guide = (Path(__file__).parents[2] / "examples" / "guides" / "redis.md").read_text()
    (rules,) = re.findall(r"ACL SETUSER app on >password (.+?)`", guide)
    allow(place, *rules.split())
    async with place.worker("one") as one:
        assert one._client.is_up
        assert one._client.says_who_it_is
