"""What differs between two answers, in words that `named` can speak about."""

import json
import os
import re
from dataclasses import dataclass

from tests.peers.bare.wire import Answer

SLACK = 0.45
"""Seconds that ours may be later than bare, with a core of its own, before it counts."""
# `connection` is the server's own affair; whether the connection lives on is looked at.
_DROPPED = ("date", "server", "connection", "mcp-session-id")
_LINE = re.compile(r"\r\n|\n|\r")
_SHOWN = 160


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same."""

    what: str
    bare: str
    ours: str

    @property
    def kind(self) -> str:
        """The same for differences that probably have one cause."""
        if self.what == "status":
            return f"status {self.bare} -> {self.ours}"
        return self.what if self.what != "end" else f"end {self.bare} -> {self.ours}"

    def __str__(self) -> str:
        return f"{self.what}: bare {self.bare[:_SHOWN]} | ours {self.ours[:_SHOWN]}"


@dataclass(frozen=True, slots=True)
class Frame:
    """A block of an event stream."""

    ids: tuple[str, ...]
    event: str
    data: str | None
    retry: str
    comments: tuple[str, ...]


def slack() -> float:
    """The same on this machine now: where many share its cores everything takes longer."""
    return SLACK * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def frames(body: bytes) -> list[Frame]:
    """An event stream's blocks; one that has no end yet is left out."""
    found: list[Frame] = []
    lines: list[str] = []
    for line in _LINE.split(body.decode("utf-8", "replace")):
        if line:
            lines.append(line)
        elif lines:
            found.append(_frame(lines))
            lines = []
    return found


def _frame(lines: list[str]) -> Frame:
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name, []).append(value.removeprefix(" "))
    data = "\n".join(fields["data"]) if "data" in fields else None
    event, retry = fields.get("event", ["message"])[-1], fields.get("retry", [""])[-1]
    return Frame(tuple(fields.get("id", ())), event, data, retry, tuple(fields.get("", ())))


def differences(bare: Answer, ours: Answer) -> list[Difference]:
    """All of them; session ids have the same name on both sides already."""
    if not (bare.is_reached and ours.is_reached):
        return [Difference("server", bare.end, ours.end)]
    found = [
        Difference(what, str(one), str(other))
        for what, one, other in (
            ("status", bare.status, ours.status),
            ("interim", bare.interim, ours.interim),
            ("end", bare.end, ours.end),
        )
        if one != other
    ]
    if bare.end == ours.end == "complete" and bare.kept != ours.kept:
        found.append(Difference("connection", _life(bare), _life(ours)))
    # Another status explains all that comes with it.
    if bare.status == ours.status != 0:
        found += _headers(bare, ours)
        found += _streams(bare, ours) if bare.is_stream and ours.is_stream else _body(bare, ours)
    return found + _times(bare, ours)


def _life(answer: Answer) -> str:
    return "lives on" if answer.kept else "ends"


def _headers(bare: Answer, ours: Answer) -> list[Difference]:
    names = {name for name, _ in (*bare.headers, *ours.headers)} - set(_DROPPED)
    found = []
    if bool(bare.header("mcp-session-id")) != bool(ours.header("mcp-session-id")):
        has, lacks = "a session id", "none"
        pair = (has, lacks) if bare.header("mcp-session-id") else (lacks, has)
        found.append(Difference("header mcp-session-id", *pair))
    for name in sorted(names):
        one = [value for key, value in bare.headers if key == name]
        other = [value for key, value in ours.headers if key == name]
        if sorted(one) != sorted(other):
            found.append(Difference(f"header {name}", str(one), str(other)))
    return found


def _body(bare: Answer, ours: Answer) -> list[Difference]:
    packed = bare.header("content-encoding") != ours.header("content-encoding")
    if bare.body == ours.body or packed:
        return []
    return [Difference("body", _shown(bare.body), _shown(ours.body))]


def _shown(body: bytes) -> str:
    return f"{len(body)} bytes {body[:120]!r}"


def _streams(bare: Answer, ours: Answer) -> list[Difference]:
    one, other = frames(bare.body), frames(ours.body)
    found = []
    told = [[(f.event, f.data) for f in side if f.data] for side in (one, other)]
    if told[0] != told[1]:
        found.append(Difference("payloads", _told(told[0]), _told(told[1])))
    for what, sides in (
        ("event ids", [[i for f in side for i in f.ids] for side in (one, other)]),
        ("retry", [[f.retry for f in side if f.retry] for side in (one, other)]),
        ("empty events", [[f.event for f in side if f.data == ""] for side in (one, other)]),
        ("comments", [[c for f in side for c in f.comments] for side in (one, other)]),
    ):
        if sides[0] != sides[1]:
            found.append(Difference(what, str(sides[0]), str(sides[1])))
    return found


def _told(events: list[tuple[str, str | None]]) -> str:
    return f"{len(events)} {json.dumps(events)}"


def _times(bare: Answer, ours: Answer) -> list[Difference]:
    found = []
    quiet = [max(side.first, side.silence) for side in (bare, ours)]
    pairs = [("later head", bare.first, ours.first), ("longer silence", *quiet)]
    if bare.end == ours.end == "complete":
        pairs.append(("later end", bare.total, ours.total))
    for what, one, other in pairs:
        if other > one + slack() and bare.end == ours.end:
            found.append(Difference(what, f"{one:.2f} s", f"{other:.2f} s"))
    return found
