"""The format of an export, version 1: a JSON object on each line, UTF-8.

- first `{"format": "mcp-persist-export", "version": 1, "store": …}`
- `{"session": {…}}` for each session: the columns of the registry; `initialize` is the body of the
  client's request as text
- `{"stream": {…}}` for each stream, in the order of their ids, which is that of their age: `id` is
  32 hexadecimal digits, `state` "open", "complete" or "failed", `request_ids` the JSON-RPC ids that
  it answers, `request` the body that may be run again or null
- behind it `{"event": {"stream": …, "sequence": …, "epoch": …, "kind": …, "frame": …}}` for each of
  its events, in order: `kind` is "noise", "message", "request" or "response", `frame` the lines of
  the server-sent event without its `id:`
- then `{"job": {…}}` for each job, the newest first: `id` is 48 hexadecimal digits, `stream` the id
  of its stream, `request` the body that the application may be asked with again or null, `inputs`
  what its client has answered so far
- last `{"end": {"sessions": …, "streams": …, "events": …, "jobs": …, "checksum": …}}`: what came
  before it, and a BLAKE2b of 16 bytes over those lines

Bytes that are no UTF-8 stand as `{"base64": …}` where a text would. Times are seconds since the
Unix epoch by the store's clock. Nothing is compressed or encrypted.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from sqlalchemy import Table

from mcp_persist_middleware.errors import PersistError
from mcp_persist_middleware.model import JOB_ID_BYTES, EventKind, JobFace, StreamState
from mcp_persist_middleware.ops.copy.rows import EventRow, Row
from mcp_persist_middleware.stores.sql.schema import tables

FORMAT: Final = "mcp-persist-export"
VERSION: Final = 1

Line = tuple[str, dict[str, Any]]
"""What it is (`session`, `stream`, `event`, `job`), and its fields."""

_TABLES = tables("")
_STATES = {int(state): state.name.lower() for state in StreamState}
_KINDS = {int(kind): kind.name.lower() for kind in EventKind}
_STREAM_NUMBERS = {name: number for number, name in _STATES.items()}
_EVENT_NUMBERS = {name: number for number, name in _KINDS.items()}


class ExportFileError(PersistError):
    """Line {number} of the export cannot be imported: {reason}."""

    code = "MPM-COPY-02"


class Totals:
    """Counts lines, and rolls a checksum over them."""

    def __init__(self) -> None:
        self.counts = {"session": 0, "stream": 0, "event": 0, "job": 0}
        self._rolling = hashlib.blake2b(digest_size=16, usedforsecurity=False)

    def add(self, what: str, line: bytes) -> None:
        """Count a line."""
        if what in self.counts:
            self.counts[what] += 1
        self._rolling.update(line)

    def end(self) -> dict[str, Any]:
        """What the last line says."""
        counted = {f"{what}s": count for what, count in self.counts.items()}
        return {**counted, "checksum": self._rolling.hexdigest()}


def line(what: str, fields: object) -> bytes:
    """A line, with its end."""
    return json.dumps({what: fields}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def head(store: str) -> bytes:
    """The first line."""
    fields = {"format": FORMAT, "version": VERSION, "store": store}
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def session_fields(row: Row, initialize: bytes) -> dict[str, Any]:
    """A session as it stands in a line."""
    left = {name: value for name, value in row.items() if name not in ("segments", "turn_worker")}
    return left | {
        "initialize": _text(initialize),
        "subscriptions": json.loads(row["subscriptions"]),
        "read_stream": row["read_stream"].hex(),
    }


def session_row(fields: dict[str, Any]) -> Row:
    """A session as a row; its `initialize` in the clear."""
    return _columns(_TABLES.session, fields | {"segments": "", "turn_worker": ""}) | {
        "initialize": _bytes(fields["initialize"]),
        "subscriptions": json.dumps(fields["subscriptions"]),
        "read_stream": bytes.fromhex(fields["read_stream"]),
    }


def stream_fields(row: Row, request: bytes | None) -> dict[str, Any]:
    """A stream as it stands in a line."""
    left = {name: value for name, value in row.items() if name != "reader_until"}
    return left | {
        "id": row["id"].hex(),
        "state": _STATES.get(row["state"], row["state"]),
        "request_ids": json.loads(row["request_ids"]),
        "request": None if request is None else _text(request),
    }


def stream_row(fields: dict[str, Any]) -> Row:
    """A stream as a row; its request in the clear."""
    state, request = fields["state"], fields["request"]
    return _columns(_TABLES.stream, fields) | {
        "id": _stream_id(fields["id"]),
        "state": _STREAM_NUMBERS.get(state, state),
        "request_ids": json.dumps(fields["request_ids"]),
        "request": None if request is None else _bytes(request),
        "reader_until": None,
    }


def event_fields(event: EventRow, frame: bytes) -> dict[str, Any]:
    """An event as it stands in a line."""
    stream, sequence, epoch, kind, _, _ = event
    return {
        "stream": stream.hex(),
        "sequence": sequence,
        "epoch": epoch,
        "kind": _KINDS.get(kind, kind),
        "frame": _text(frame),
    }


def event_row(fields: dict[str, Any]) -> EventRow:
    """An event as a row, in the clear."""
    kind = _EVENT_NUMBERS.get(fields["kind"], fields["kind"])
    numbers = int(fields["sequence"]), int(fields["epoch"]), int(kind)
    return _stream_id(fields["stream"]), *numbers, 0, _bytes(fields["frame"])


def job_fields(row: Row) -> dict[str, Any]:
    """A job as it stands in a line; the row is in the clear."""
    request = row["request"]
    return row | {
        "id": row["id"].hex(),
        "stream": row["stream"].hex(),
        "request": None if request is None else _text(request),
        "inputs": _text(row["inputs"]),
    }


def job_row(fields: dict[str, Any]) -> Row:
    """A job as a row, in the clear."""
    request = fields["request"]
    return _columns(_TABLES.job, fields) | {
        "id": _id(fields["id"], JOB_ID_BYTES),
        "stream": _stream_id(fields["stream"]),
        "face": str(JobFace(fields["face"])),
        "request": None if request is None else _bytes(request),
        "inputs": _bytes(fields["inputs"]),
    }


def parsed(given: Iterable[bytes]) -> Iterator[tuple[int, Line]]:
    """The lines of an export with their numbers, each as it is read.

    Raises:
        ExportFileError: it is none, or is damaged, or its end is missing.
    """
    totals, number = Totals(), 0
    for number, raw in enumerate(given, 1):
        found = _object(raw, number)
        if number == 1:
            if found.get("format") != FORMAT or found.get("version") != VERSION:
                reason = f"expected {FORMAT!r}, version {VERSION}, in the first line"
                raise ExportFileError(number=number, reason=reason)
            totals.add("head", raw)
            continue
        ((what, fields),) = found.items() if len(found) == 1 else (("", None),)
        if what == "end":
            if fields != totals.end():
                raise ExportFileError(number=number, reason="lines before it are not as they were")
            return
        if what not in totals.counts or not isinstance(fields, dict):
            raise ExportFileError(number=number, reason="it is no session, stream, event or job")
        totals.add(what, raw)
        yield number, (what, fields)
    raise ExportFileError(number=number + 1, reason="it is missing: the file was cut")


def _object(raw: bytes, number: int) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ExportFileError(number=number, reason="it is no JSON object")
    return found


def _columns(table: Table, fields: dict[str, Any]) -> Row:
    """What of a line has a column; an older version may not have had all that may be empty."""
    return {
        column.name: fields.get(column.name) if column.nullable else fields[column.name]
        for column in table.columns
    }


def _stream_id(text: str) -> bytes:
    return _id(text, 16)


def _id(text: str, size: int) -> bytes:
    id_ = bytes.fromhex(text)
    if len(id_) != size:
        raise ValueError(f"expected an id of {2 * size} hexadecimal digits")
    return id_


def _text(raw: bytes) -> str | dict[str, str]:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _bytes(text: str | dict[str, str]) -> bytes:
    if isinstance(text, str):
        return text.encode()
    try:
        return base64.b64decode(text["base64"], validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
