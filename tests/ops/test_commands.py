"""`copy`, `export`, `import` and `backup` on the command line: what they say and how they end."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware.model import JobRecord
from mcp_persist_middleware.ops.cli import main
from mcp_persist_middleware.testing.contract.builders import events, new, record
from mcp_persist_middleware.testing.contract.cases.jobs import BOUNDS, job
from tests.ops.filled import fill, worker


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with something in it, in the directory where the commands run."""
    monkeypatch.chdir(tmp_path)

    async def make() -> None:
        async with worker({"url": "old.db"}) as log:
            await fill(log)

    asyncio.run(make())
    return "old.db"


def test_copy_says_what_it_did_and_that_both_are_the_same(
    old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["copy", old, "new.db", "--dry-run"]) == 0
    assert "6 streams, 33 events" in capsys.readouterr().out
    assert not Path("new.db").exists()
    assert main(["copy", old, "new.db", "--verify"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Copied 6 streams, 33 events")
    assert "They are the same. Checksum" in said.out
    assert said.err.split("\n")[:2] == ["copy", "catch up"]
    assert main(["migrate", old, "new.db", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["streams"] == 0


def test_copy_finds_what_differs(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["copy", old, "new.db"]) == 0

    async def serve() -> None:
        async with worker({"url": "new.db"}):
            pass
        async with worker({"url": old}) as log:
            await log.append([new(record(), *events(1, 2))])

    asyncio.run(serve())
    capsys.readouterr()
    assert main(["copy", old, "new.db", "--verify"]) == 1
    said = capsys.readouterr().out
    assert "A server is or was on TO: nothing was copied." in said
    assert "1 streams, sessions, tasks or rows of the journal are missing in TO." in said


def test_a_task_that_has_gone_on_since_is_said_to_have(
    old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def make() -> JobRecord:
        async with worker({"url": old}) as log:
            assert log.jobs is not None
            await log.jobs.create(made := job(log), *BOUNDS)
            return made

    async def go_on(made: JobRecord) -> None:
        async with worker({"url": "new.db"}), worker({"url": old}) as log:
            assert log.jobs is not None
            assert await log.jobs.change(dataclasses.replace(made, round=2))

    made = asyncio.run(make())
    assert main(["copy", old, "new.db"]) == 0
    asyncio.run(go_on(made))
    capsys.readouterr()
    assert main(["copy", old, "new.db", "--verify"]) == 0
    said = capsys.readouterr().out
    assert "They are the same" not in said
    assert "1 streams or tasks have gone on in FROM." in said
    assert "TO has all that FROM has." in said


WRONG: list[Any] = [
    pytest.param(["copy", "none.db", "new.db"], "there is no store at", id="no store"),
    pytest.param(["copy", "old.db", "old.db"], "are the same store", id="the same"),
    pytest.param(["copy", "old.db", "no/new.db"], "does not exist", id="no directory"),
    pytest.param(["copy", "old.db", "new.db", "--set-to", "x"], "NAME=VALUE", id="no setting"),
    pytest.param(["copy", "old.db", "nowhere:app"], "nowhere", id="no application"),
    pytest.param(["import", "--url", "new.db", "none"], "cannot be read", id="no file"),
    pytest.param(["import", "--url", "new.db", "old.db"], "Line 1 of the export", id="no export"),
    pytest.param(["export", "--url", "old.db", "old.db"], "cannot be written", id="there"),
    pytest.param(["backup", "--url", "old.db", "old.db"], "is there already", id="backup there"),
]


@pytest.mark.parametrize(("command", "said"), WRONG)
def test_what_cannot_run_says_why_in_a_sentence(
    command: list[str], said: str, old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_export_import_and_backup_say_what_they_did(
    old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--url", old, "all.jsonl"]) == 0
    assert capsys.readouterr().out.startswith(
        "Exported 2 sessions, 6 streams, 33 events and 0 tasks"
    )
    assert Path("all.jsonl").stat().st_mode & 0o777 == 0o600
    assert main(["import", "--url", "new.db", "all.jsonl"]) == 0
    assert main(["import", "--url", "new.db", "all.jsonl", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "Imported 2 sessions, 6 streams, 33 events and 0 tasks; 0 were there already."
    )
    assert json.loads(out[out.index("{") :])["skipped"] == 8
    assert main(["backup", "--url", old, "events.backup"]) == 0
    assert capsys.readouterr().out.startswith("Wrote events.backup")
