"""Where jobs cannot be stored a long call stays a call, and one with a key is not run twice, nor
once without the key."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.interaction.test_hand_back import Held, Listing, text_of
from tests.support.scripted import persisted, until
from tests.support.session import MODERN, RawSession

_ANN = {"authorization": "Bearer ann"}


def lose_jobs(directory: Path) -> None:
    with closing(sqlite3.connect(directory / "events.db")) as file:
        file.execute("DROP TABLE mcp_job")
        file.commit()


async def test_a_call_that_cannot_be_handed_back_stays_a_call(
    tmp_path: Path, tmp_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=0.2) as (port, _):
        lose_jobs(tmp_path)
        session = await RawSession.open(port, extra=_ANN)
        call = asyncio.create_task(session.call("slow"))
        await until(lambda: "MPM-JOB-02" in caplog.text)
        tool.done.set()
        assert await text_of(await call) == "run 1"
        assert tool.runs == 1


async def test_a_call_whose_key_cannot_be_stored_is_not_run(
    tmp_path: Path, tmp_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Listing(slow=(tool := Held()))
    tool.done.set()
    async with persisted(app, tmp_store, idempotency=True) as (port, _):
        lose_jobs(tmp_path)
        session = RawSession(port, MODERN, extra=_ANN | {"idempotency-key": "k"})
        response = await session.call("slow")
        assert response.status == 503
        assert b"ask again" in await response.body()
        assert tool.runs == 0
        session.extra = _ANN
        assert await text_of(await session.call("slow")) == "run 1"
    assert "MPM-JOB-06" in caplog.text
