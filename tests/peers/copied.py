"""A store of a million events, with jobs and a journal, copied SQLite -> PostgreSQL -> SQLite by
processes that are killed (`kill -9`) at random moments until twenty of them are dead in each
direction, a quarter of them while they bring jobs and the journal: the checksums are the same, and
nothing is there twice. Beside the rates: what the bare COPY of PostgreSQL and the bare
`executemany` of SQLite do with the same rows.

    python -m tests.peers.copied --events 1000000 --kills 20
"""

import argparse
import asyncio
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import make_url

from mcp_persist_middleware.log.mirror import NAME
from mcp_persist_middleware.model import JobFace, JobRecord, Owner, StreamKind, StreamState
from mcp_persist_middleware.ops.copy import Progress, compare, copy, ends, records
from mcp_persist_middleware.ops.copy.place import Checkpoint
from mcp_persist_middleware.ops.copy.rows import Beside, Changes, Row
from mcp_persist_middleware.protocol import job_id
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.stores.sql.jobs import row_of
from mcp_persist_middleware.testing.contract.cases.journal import entry
from tests.support.stores import PostgresServer

_PAGE = 10_000
_FRAME = (
    b'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p",'
    b'"progress":%d,"total":100,"message":"%s"}}\r\n'
)
# What a process says as soon as it brings jobs or the journal, and how soon after it dies.
_BESIDE, _LATER = b"beside\n", 0.2
_COLUMNS = ("stream", "sequence", "epoch", "kind", "codec", "payload")


def rows_of(stream: bytes, count: int, size: int) -> Any:
    """A stream that has ended, and its events."""
    now = time.time()
    row = {
        "id": stream, "kind": StreamKind.POST.value, "namespace": "default", "path": "/mcp",
        "session": "s", "principal": "", "epoch": 1, "state": int(StreamState.COMPLETE),
        "last_sequence": count, "worker": "w", "created_at": now, "ended_at": now,
        "expires_at": now + 1e6, "request_ids": "[1]", "trace": "", "reader_until": None,
        "request": None,
    }  # fmt: skip
    text = os.urandom(size // 2).hex().encode()
    events = [(stream, n, 1, 0, 0, _FRAME % (n, text)) for n in range(1, count + 1)]
    return row, events


def job_of(number: int) -> Row:
    """A job, every other one with a key, each with a request."""
    now, text = time.time(), os.urandom(16).hex()
    keyed = {"key": f"{number:064x}", "arguments": text} if number % 2 else {}
    made = JobRecord(
        id=job_id.new(now - number), owner=Owner("default", "/mcp", "", text), account=text,
        face=JobFace.EXTENSION, worker="w", tool="slow", stream=new_stream_id(1e9 + number),
        request_id="1", created_at=now, updated_at=now, expires_at=now + 1e6,
        request=b'{"method":"tools/call","params":{"name":"%s"}}' % text.encode(), **keyed,
    )  # fmt: skip
    return row_of(made)


async def fill(url: str, events: int, each: int, size: int, beside: int) -> None:
    """A store with so many events, in streams of so many each, jobs and rows of the journal."""
    settings = ends.settings_of(url)
    await ends.make_tables(settings)
    async with ends.opened(settings) as store:
        changes = Changes()
        for n in range(events // each):
            row, made = rows_of(new_stream_id(1e9 + n), each, size)
            changes.add_stream(row, is_new=True)
            changes.add_events(made)
            if changes.is_full:
                await store.apply(changes, None)
                changes = Changes()
        changes.add_rows(Beside.JOB, [job_of(n) for n in range(beside)])
        entries = [entry(n, params=b'{"n":%d}' % n) for n in range(beside)]
        changes.add_rows(Beside.JOURNAL, [records.entry_row(each) for each in entries])
        await store.apply(changes, None)


def all_rows(path: Path) -> list[Any]:
    """Every row of the table of events."""
    with sqlite3.connect(path) as connection:
        return connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM mcp_event").fetchall()


def bare_executemany(path: Path, rows: Sequence[Any]) -> float:
    """Rows per second into a table like ours, in transactions as large as ours."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = normal")
        connection.execute(
            "CREATE TABLE e (stream BLOB, sequence BIGINT, epoch INTEGER, kind SMALLINT,"
            " codec SMALLINT, payload BLOB, PRIMARY KEY (stream, sequence)) WITHOUT ROWID"
        )
        began = time.monotonic()
        for start in range(0, len(rows), _PAGE):
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT INTO e VALUES (?, ?, ?, ?, ?, ?)", rows[start : start + _PAGE]
            )
            connection.execute("COMMIT")
        return len(rows) / (time.monotonic() - began)


async def bare_copy(url: str, rows: Sequence[Any]) -> float:
    """The same with COPY."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(plain)
    await connection.execute(
        "CREATE TABLE e (stream BYTEA, sequence BIGINT, epoch INTEGER, kind SMALLINT,"
        " codec SMALLINT, payload BYTEA, PRIMARY KEY (stream, sequence))"
    )
    began = time.monotonic()
    for start in range(0, len(rows), _PAGE):
        await connection.copy_records_to_table(
            "e", records=rows[start : start + _PAGE], columns=_COLUMNS
        )
    rate = len(rows) / (time.monotonic() - began)
    await connection.execute("DROP TABLE e")
    await connection.close()
    return rate


async def clean_copy(source: str, target: str) -> float:
    """Copy without a stop; seconds."""
    done = await copy(source, target)
    return done.seconds


async def killed_copy(
    source: str, target: str, kills: int, seconds: float, seed: int, *more: str
) -> int:
    """Copy in processes that are killed; how many of them died in the middle."""
    chance, dead = random.Random(seed), 0
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.peers.copied", "--one", source, target, *more,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        if dead < kills:
            # The last ones die later: what is beside the events comes behind all of these.
            is_late = dead >= kills - kills // 4
            while (line := await process.stdout.readline()) and is_late and line != _BESIDE:
                pass
            await asyncio.sleep(chance.uniform(0, _LATER if is_late else 0.7 * seconds / kills))
            if process.returncode is None:
                process.kill()
        _, _ = await process.communicate()
        if process.returncode == 0:
            return dead
        assert process.returncode == -9, process.returncode
        dead += 1
        print(f"  killed {dead}: {await place_of(target)}", flush=True)


async def place_of(url: str) -> str:
    """Where a copy was stopped, and what is there."""
    async with ends.maybe_opened(ends.settings_of(url)) as store:
        if store is None:
            return "nothing is there yet"
        note = (await store.meta()).get(NAME, b"").decode()
        return f"{await store.count()} streams; {note[-110:]}"


async def one(source: str, target: str, separate: bool) -> None:
    """Copy, and say so as soon as it has begun."""
    if separate:
        _apart()
    told = set[str]()

    def tell(progress: Progress) -> None:
        for word, count in (
            ("begun", progress.events),
            ("beside", progress.jobs + progress.journal),
        ):
            if count and word not in told:
                told.add(word)
                print(word, flush=True)

    await copy(source, target, report=tell)


def _apart() -> None:
    """The mechanism off: the place is kept in a transaction of its own, a moment after the rows."""
    apply = Checkpoint._apply

    async def then_the_place(self: Checkpoint, changes: Changes, then: Any) -> None:
        await apply(self, changes, self._held)
        await asyncio.sleep(0.02)
        await apply(self, Changes(), then)

    Checkpoint._apply = then_the_place  # type: ignore[method-assign]


async def main(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="mcp-copied-", dir=given.directory) as made:
        place = Path(made)
        place.chmod(0o755)
        server = PostgresServer(place / "data", {})
        server.start()
        try:
            await measure(given, place, server)
        finally:
            server.stop("immediate")


async def measure(given: argparse.Namespace, place: Path, server: PostgresServer) -> None:
    first, last = (f"sqlite+aiosqlite:///{place / name}.db" for name in ("first", "last"))
    await fill(first, given.events, given.each, given.bytes, given.beside)
    rows = all_rows(place / "first.db")
    print(f"{len(rows):,} events, {(place / 'first.db').stat().st_size / 1e6:,.0f} MB", flush=True)
    databases = [await database(server, name) for name in ("bare", "clean", "killed")]
    bare = await bare_copy(databases[0], rows), bare_executemany(place / "bare.db", rows)
    del rows
    times = [
        await clean_copy(first, databases[1]),
        await clean_copy(databases[1], f"sqlite+aiosqlite:///{place / 'clean.db'}"),
    ]
    for name, rate, seconds in zip(("COPY", "executemany"), bare, times, strict=True):
        ours = given.events / seconds
        print(f"{name}: {rate:,.0f}/s bare, {ours:,.0f}/s copied, {ours / rate:.2f}", flush=True)
    dead = []
    for pair, seconds in zip(((first, databases[2]), (databases[2], last)), times, strict=True):
        more = ["--separate"] if given.separate else []
        dead.append(await killed_copy(*pair, given.kills, seconds, given.seed, *more))
    found = await compare(first, databases[2]), await compare(first, last)
    print(f"killed {dead}; checksums {found[0].checksums} {found[1].checksums[1]}")
    for each in found:
        print(f"{each.events:,} events, {each.jobs:,} jobs, {each.journal:,} rows of the journal")
        print(f"missing {each.missing}, different {each.different}, behind {each.behind}")
    assert all(each.ok for each in found)
    assert {(each.jobs, each.journal) for each in found} == {(given.beside, given.beside)}
    # The other way round: nothing is there that was not.
    back = [await compare(*pair) for pair in ((databases[2], first), (last, first))]
    assert all(each.ok and each.jobs == each.journal == given.beside for each in back), back
    assert {*found[0].checksums, *found[1].checksums} == {found[0].checksums[0]}
    print("the same, nothing twice")


async def database(server: PostgresServer, name: str) -> str:
    """A new database."""
    plain = make_url(server.url()).set(drivername="postgresql")
    connection = await asyncpg.connect(plain.render_as_string(hide_password=False))
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return server.url(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--each", type=int, default=100, help="events of a stream")
    parser.add_argument("--bytes", type=int, default=200, help="of random text in an event")
    parser.add_argument("--beside", type=int, default=10_000, help="jobs, and rows of the journal")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", default=None)
    parser.add_argument("--one", nargs=2, metavar=("FROM", "TO"))
    parser.add_argument("--separate", action="store_true", help="the mechanism off: see what fails")
    arguments = parser.parse_args()
    if arguments.one:
        asyncio.run(one(*arguments.one, arguments.separate))
    else:
        asyncio.run(main(arguments))
