"""Files of a SQLite store are deleted while it is used, and then its process is killed."""

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.processes import ROOT


@pytest.mark.parametrize("deleted", ["", "-wal", "-wal -shm", " -wal -shm"])
async def test_what_is_committed_after_files_were_deleted_survives_the_process(
    tmp_path: Path, deleted: str
) -> None:
    """What was committed before as well, where the database itself is still there."""
    path = tmp_path / "events.db"
    command = (sys.executable, "-m", "tests.faults.vanishing", str(path))
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            before = [(await process.stdout.readline()).strip().decode() for _ in range(40)]
            for part in deleted.split(" "):
                path.with_name(path.name + part).unlink()
            after = [(await process.stdout.readline()).strip().decode() for _ in range(60)]
    finally:
        process.kill()
        await process.wait()
    with closing(sqlite3.connect(path)) as file:
        kept = {row[0].hex() for row in file.execute("SELECT id FROM mcp_stream")}
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    # What was on its way when the database was deleted went with it.
    late = after[10:] if "" in deleted.split(" ") else before + after
    assert [stream for stream in late if stream not in kept] == []
