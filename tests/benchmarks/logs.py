"""Measures of the log on its own, in this process: no server, no client."""

import sqlite3
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import library
from tests.benchmarks.contenders import OURS
from tests.benchmarks.floor import PAYLOAD, BareDriver
from tests.benchmarks.report import Taken
from tests.benchmarks.rounds import Plan

_STREAMS = 256
_REPEATS = 30
_SINGLES = 10
_REPLAYED = 1000


async def appends(plan: Plan) -> list[Taken]:
    """Appends per second of 256 streams through the writer, against `executemany` on the bare
    driver: rows of the same size, in the same batches."""
    events = plan.pick(200, 400)
    rows = []
    for contender in plan.ours:
        if (mode := contender.synchronous) is None:
            continue
        driver = BareDriver(plan.servers.directory / f"many-{mode}.db", mode)
        bare, ours = [], []
        async with library.opened(plan.servers.directory / f"log-{mode}.db", mode) as log:
            shape: list[list[tuple[bytes, int]]] = []
            log.noted = shape
            await library.append_all(log, _STREAMS, events, PAYLOAD)
            log.noted = None
            for _ in range(plan.rounds):
                bare.append(await _executemany(driver, shape))
                took = await library.append_all(log, _STREAMS, events, PAYLOAD)
                ours.append(_STREAMS * events / took)
        driver.close()
        rows.append(Taken("appends", contender, ours, bare, is_bare=False))
    return rows


async def _executemany(driver: BareDriver, shape: list[list[tuple[bytes, int]]]) -> float:
    """Events per second of new rows in batches of the given shape."""
    names: dict[bytes, bytes] = {}
    last: Counter[bytes] = Counter()
    batches = []
    for batch in shape:
        rows = []
        for stream, count in batch:
            name = names.setdefault(stream, library.record().id)
            rows += [(name, last[name] + n, 1, 0, 0, PAYLOAD) for n in range(1, count + 1)]
            last[name] += count
        batches.append(rows)
    begin = time.perf_counter()
    for rows in batches:
        await driver.commit_many(rows)
    return last.total() / (time.perf_counter() - begin)


def _stream_of_old(position: int, mark: bytes) -> bytes:
    """A stream id made long ago; ids order by their time."""
    return (1_700_000_000_000 + position * 1000).to_bytes(6, "big") + mark.ljust(10, b"\0")


_AMID = _stream_of_old(500, b"replayed")


@dataclass(frozen=True, slots=True)
class _Costs:
    """Milliseconds of one event, of one event for each of 256 streams, of a replay."""

    single: float
    batch: float
    replay: float


async def history(plan: Plan) -> list[Taken]:
    """Appending and replaying with millions of older events in a SQLite file, against none."""
    paths = [plan.servers.directory / name for name in ("empty.db", "history.db")]
    for path in paths:
        async with library.opened(path):
            pass
    _fill(paths[1], plan.pick(500_000, 2_000_000))
    taken: list[tuple[_Costs, _Costs]] = []
    async with AsyncExitStack() as stack:
        logs = [await stack.enter_async_context(library.opened(path)) for path in paths]
        streams = [library.record().id for _ in range(_STREAMS)]
        for log in logs:
            await library.begin(log, [_AMID], _REPLAYED, PAYLOAD)
            await library.begin(log, streams, 1, PAYLOAD)
        for number in range(plan.rounds + 1):
            taken.append(await _costs(logs, streams, 2 + number * _REPEATS))
    rows = []
    for goal, cost in (("event", "single"), ("batch", "batch"), ("replay", "replay")):
        empty, full = ([getattr(each[i], cost) for each in taken[1:]] for i in (0, 1))
        rows.append(Taken(f"history-{goal}", OURS["sqlite"], full, empty, is_bare=False))
    return rows


async def _costs(
    logs: list[library.Log], streams: list[bytes], number: int
) -> tuple[_Costs, _Costs]:
    """The medians of one round, the two logs taking turns at every step; the replayed stream
    lies amid the old ones."""
    single: tuple[list[float], list[float]] = ([], [])
    batch: tuple[list[float], list[float]] = ([], [])
    replay: tuple[list[float], list[float]] = ([], [])
    for step in range(number, number + _REPEATS):
        for which in (0, 1) if step % 2 else (1, 0):
            log = logs[which]
            for one in range(_SINGLES):
                alone = streams[one : one + 1]
                single[which].append(await library.append_ms(log, alone, step, PAYLOAD))
            rest = streams[_SINGLES:]
            batch[which].append(await library.append_ms(log, rest, step, PAYLOAD))
            replay[which].append(await library.replay_ms(log, _AMID, _REPLAYED))
    empty, full = (_Costs(median(single[i]), median(batch[i]), median(replay[i])) for i in (0, 1))
    return empty, full


def _fill(path: Path, events: int) -> None:
    """Put 1000 ended streams into the file, with so many events in all, by SQL alone."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.create_function("old", 1, lambda n: _stream_of_old(n, b"old"), deterministic=True)
    connection.execute("PRAGMA synchronous=off")
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?)"
    connection.execute("BEGIN")
    connection.execute(
        f"{numbers} INSERT INTO {library.PREFIX}stream (id, kind, namespace, path, session,"
        " principal, epoch, state, last_sequence, worker, created_at, ended_at, expires_at,"
        " request_ids, trace) SELECT old(x), 'p', 'default', '/mcp', 'old-' || x, 'principal', 1,"
        " 1, ?, 'worker', 1.7e9, 1.7e9, 1e10, '[1]', '' FROM n",
        (1000, events // 1000),
    )
    connection.execute(
        f"{numbers} INSERT INTO {library.PREFIX}event (stream, sequence, epoch, kind, codec,"
        " payload) SELECT s.id, n.x, 1, 0, 0, ?"
        f" FROM {library.PREFIX}stream AS s CROSS JOIN n ORDER BY s.id, n.x",
        (events // 1000, PAYLOAD),
    )
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
