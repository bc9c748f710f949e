"""A call with a key runs once, whoever repeats it and whenever."""

import asyncio
from typing import Any

import pytest

from mcp_persist_middleware.log.writer import Writer
from tests.interaction.test_hand_back import Held, Listing, answer_of, text_of
from tests.support.scripted import persisted, until
from tests.support.session import HANDSHAKE, MODERN, RawSession

_ANN, _BOB = {"authorization": "Bearer ann"}, {"authorization": "Bearer bob"}
_META = "io.github.mcp-persist/idempotency-key"


def keyed(caller: dict[str, str], key: str = "k-1") -> dict[str, str]:
    return caller | {"idempotency-key": key}


@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
@pytest.mark.parametrize("as_json", [False, True])
async def test_a_repeated_call_joins_and_then_has_the_stored_answer(
    tmp_store: str, version: str, as_json: bool
) -> None:
    app = Listing(slow=(tool := Held(as_json=as_json)))
    async with persisted(app, tmp_store, idempotency=True) as (port, _):
        session = await RawSession.open(port, version, extra=keyed(_ANN))
        params = {"name": "slow", "arguments": {"size": 1}}
        first = asyncio.create_task(session.post("tools/call", params, request_id=71))
        await until(lambda: tool.runs)
        # It is repeated while it runs, and its client has lost the first answer.
        second = asyncio.create_task(session.post("tools/call", params, request_id="b"))
        (await first).reset()
        await asyncio.sleep(0.2)
        tool.done.set()
        answer = await answer_of(await second)
        assert (answer["id"], answer["result"]["content"][0]["text"]) == ("b", "run 1")
        answer = await answer_of(await session.post("tools/call", params, request_id=73))
        assert (answer["id"], answer["result"]["content"][0]["text"]) == (73, "run 1")
        assert tool.runs == 1


async def test_the_key_may_stand_in_the_call_itself(tmp_store: str) -> None:
    app = Listing(slow=(tool := Held()))
    tool.done.set()
    async with persisted(app, tmp_store, idempotency=True) as (port, _):
        session = await RawSession.open(port, extra=_ANN)

        async def call(key: str) -> str:
            params = {"name": "slow", "arguments": {}, "_meta": {_META: key, "progressToken": 1}}
            return await text_of(await session.post("tools/call", params))

        assert [await call("a"), await call("b"), await call("a")] == ["run 1", "run 2", "run 1"]


async def test_a_key_of_another_call_is_a_conflict_and_of_another_caller_nothing(
    tmp_store: str,
) -> None:
    app = Listing(slow=(tool := Held()), exact=tool)
    tool.done.set()
    async with persisted(app, tmp_store, idempotency=True) as (port, _):
        ann = await RawSession.open(port, extra=keyed(_ANN))
        bob = await RawSession.open(port, extra=keyed(_BOB))
        assert await text_of(await ann.call("slow", size=1)) == "run 1"
        for name, size in (("slow", 2), ("exact", 1)):
            error = (await answer_of(await ann.call(name, size=size)))["error"]
            assert (error["code"], error["data"]["reason"]) == (-32602, "idempotency_conflict")
            assert error["data"]["status"] == 409
        assert tool.runs == 1
        assert await text_of(await bob.call("slow", size=2)) == "run 2"


async def test_an_answer_is_committed_before_it_is_told(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    end = Writer.end

    def noticed(writer: Writer, stream: Any, ending: Any, *, is_told: bool = False) -> None:
        told.append(is_told)
        end(writer, stream, ending, is_told=is_told)

    monkeypatch.setattr(Writer, "end", noticed)
    app = Listing(slow=(tool := Held()))
    tool.done.set()
    async with persisted(app, tmp_store, idempotency=True) as (port, _):
        session = RawSession(port, MODERN, extra=keyed(_ANN))
        assert await text_of(await session.call("slow")) == "run 1"
        session.extra = _ANN
        assert await text_of(await session.call("slow")) == "run 2"
    assert told == [False, True]


async def test_the_answer_is_there_after_a_restart_and_so_is_the_word_that_there_is_none(
    tmp_store: str,
) -> None:
    app = Listing(slow=(tool := Held()))
    tool.done.set()
    async with persisted(app, tmp_store, idempotency=True) as (port, _):
        session = RawSession(port, MODERN, extra=keyed(_ANN, "whole"))
        assert await text_of(await session.call("slow")) == "run 1"
        tool.done.clear()
        session.extra = keyed(_ANN, "cut")
        cut = asyncio.create_task(session.call("slow"))
        await until(lambda: tool.runs == 2)
    cut.cancel()
    async with persisted(app, tmp_store, idempotency=True) as (port, _):
        session = RawSession(port, MODERN, extra=keyed(_ANN, "whole"))
        assert await text_of(await session.call("slow")) == "run 1"
        session.extra = keyed(_ANN, "cut")
        error = (await answer_of(await session.call("slow")))["error"]
        assert error["message"].startswith("Interrupted")
        assert tool.runs == 2


async def test_what_is_no_key_is_refused_and_what_nobody_owns_counts_nothing(
    tmp_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Listing(slow=(tool := Held()))
    tool.done.set()
    async with persisted(app, tmp_store, idempotency=True) as (port, _):
        session = RawSession(port, MODERN, extra=keyed(_ANN, "x" * 256))
        error = (await answer_of(await session.call("slow")))["error"]
        assert "1 to 255 characters" in error["message"]
        assert tool.runs == 0
        session.extra = keyed({})
        assert await text_of(await session.call("slow")) == "run 1"
        assert await text_of(await session.call("slow")) == "run 2"
        assert caplog.text.count("MPM-JOB-07") == 1


async def test_without_the_setting_a_key_is_the_applications(tmp_store: str) -> None:
    app = Listing(slow=(tool := Held()))
    tool.done.set()
    async with persisted(app, tmp_store) as (port, _):
        session = RawSession(port, MODERN, extra=keyed(_ANN))
        assert await text_of(await session.call("slow")) == "run 1"
        assert await text_of(await session.call("slow")) == "run 2"
