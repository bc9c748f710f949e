"""Whether two stores hold the same beside their streams."""

from collections.abc import AsyncIterator

from mcp_persist_middleware.ops.copy.beside import rows_of
from mcp_persist_middleware.ops.copy.codecs import Decoder
from mcp_persist_middleware.ops.copy.comparison import Comparison
from mcp_persist_middleware.ops.copy.rows import Beside, Row, is_kept, key_of
from mcp_persist_middleware.ops.copy.store import Readable
from mcp_persist_middleware.protocol import job_id

Decoders = tuple[Decoder, Decoder]

# Of a job these may change, and its revision counts that.
_CHANGES = {"worker", "stream", "updated_at", "expires_at", "round", "inputs", "revision"}


async def compare_beside(
    source: Readable, target: Readable, found: Comparison, readers: Decoders
) -> None:
    """Compare what has not expired, as far as the target has tables for it."""
    kept = target.kept()
    async for row, other in _pairs(source, target, Beside.SESSION):
        found.sessions += 1
        if other is None:
            found.note("missing", f"session {row['id']}")
        elif not _is_same_session(row, other, readers):
            found.note("different", f"session {row['id']}")
    if Beside.JOB in kept:
        async for row, other in _pairs(source, target, Beside.JOB):
            found.jobs += 1
            if (verdict := _of_job(row, other, readers)) != "":
                found.note(verdict, f"task {job_id.name(row['id'])}")
    if Beside.JOURNAL in kept:
        await _compare_journal(source, target, found, readers)


async def _pairs(
    source: Readable, target: Readable, table: Beside
) -> AsyncIterator[tuple[Row, Row | None]]:
    """Each row, and that of the same key in the target."""
    async for rows in rows_of(source, table):
        now = await source.now()
        there = await target.find_rows(table, [table.key_of(row) for row in rows])
        for row in rows:
            if is_kept(row, now):
                yield row, there.get(table.key_of(row))


def _is_same_session(row: Row, other: Row, readers: Decoders) -> bool:
    """Whether a session is the same one there, whatever was done with it since."""
    if row["deleted"] or other["deleted"]:
        return bool(other["deleted"])
    names = ("principal", "version")
    bodies = [_body(one, reader) for one, reader in zip((row, other), readers, strict=True)]
    return all(row[name] == other[name] for name in names) and bodies[0] == bodies[1]


def _body(row: Row, reader: Decoder) -> bytes:
    try:
        return reader.initialize(key_of(row), row["initialize"])
    except ValueError:
        return bytes(row["initialize"])


def _of_job(row: Row, other: Row | None, readers: Decoders) -> str:
    """What is to be said of a job; nothing where it is the same."""
    if other is None:
        return "missing"
    ours, theirs = (_job(one, reader) for one, reader in zip((row, other), readers, strict=True))
    age = row["revision"] - other["revision"]
    names = row.keys() - (_CHANGES if age else set())
    if any(ours[name] != theirs[name] for name in names):
        return "different"
    return "" if not age else "behind" if age > 0 else "ahead"


def _job(row: Row, reader: Decoder) -> Row:
    try:
        return reader.job(row)
    except ValueError:
        return row


async def _compare_journal(
    source: Readable, target: Readable, found: Comparison, readers: Decoders
) -> None:
    # The newest come first: what lacks behind the last one that is there, retention has taken.
    lacking: list[str] = []
    has_any = False
    async for row, other in _pairs(source, target, Beside.JOURNAL):
        found.journal += 1
        name = f"row {row['id']} of the journal"
        if other is None:
            lacking.append(name)
            continue
        _missing(found, lacking)
        has_any = True
        if any(row[each] != other[each] for each in row.keys() - {"params"}) or (
            _params(row, readers[0]) != _params(other, readers[1])
        ):
            found.note("different", name)
    if not has_any:
        _missing(found, lacking)


def _missing(found: Comparison, names: list[str]) -> None:
    for name in names:
        found.note("missing", name)
    names.clear()


def _params(row: Row, reader: Decoder) -> bytes:
    try:
        return reader.params(row)
    except ValueError:
        return bytes(row["params"])
