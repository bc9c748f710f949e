"""What is measured, how it is compared, and what it has to be: the one place of all targets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class By(StrEnum):
    """How a value is compared with its base."""

    ADDED = "added"
    SHARE = "share"
    ITSELF = "itself"


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the report.

    Args:
        most: the target of each contender that has one, where less is better.
        least: the same where more is better.
        over_floor: the target is meant over what one bare commit takes, measured beside it.
        beats_peers: and the result has to be below the best competitor's, where one runs.
    """

    title: str
    unit: str
    by: By
    most: Mapping[str, float] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    over_floor: bool = False
    beats_peers: bool = False

    def judge(
        self, contender: str, result: float, floor: float | None, rival: float | None
    ) -> tuple[str, bool | None]:
        """The target of a contender in words, and whether a result meets it."""
        limit = self.most.get(contender, self.least.get(contender))
        if limit is None:
            return "", None
        is_least = contender in self.least
        if self.over_floor and floor is not None:
            text = f"≤ floor ({floor:.2f}) + {limit:g}"
            limit += floor
        else:
            text = f"{'≥' if is_least else '≤'} {limit:g}"
        met = result >= limit if is_least else result <= limit
        if self.beats_peers:
            text += ", < mcp-persist"
            met = met and (rival is None or result < rival)
        limits = self.least or self.most
        if len(set(limits.values())) > 1:
            text = f"{contender} {text}"
        return text, met


def _each(limit: float) -> dict[str, float]:
    names = ("sqlite", "sqlite full", "postgres", "sqlite+redis", "postgres+redis")
    return dict.fromkeys(names, limit)


_SQLITE = "sqlite"
_CALL_CPU = {_SQLITE: 450.0}

GOALS: dict[str, Goal] = {
    "call": Goal(
        "call that returns at once, added p50", "ms", By.ADDED, {_SQLITE: 0.5}, beats_peers=True
    ),
    "call-cpu": Goal("CPU per call over bare, 1 client", "µs", By.ADDED, _CALL_CPU),
    "calls": Goal(
        "16 clients calling, share of bare",
        "calls/s",
        By.SHARE,
        least={_SQLITE: 0.8, "postgres": 0.7},
    ),
    "calls-cpu": Goal("CPU per call over bare, 16 clients", "µs", By.ADDED, _CALL_CPU),
    "calls-lag": Goal("loop's lag beside 16 clients calling, p99 over bare", "ms", By.ADDED),
    "json": Goal("call answered as JSON, added p50", "ms", By.ADDED),
    "json-cpu": Goal("CPU per call answered as JSON over bare", "µs", By.ADDED),
    "modern": Goal("short call at 2026-07-28, added p50", "ms", By.ADDED),
    "modern-cpu": Goal("CPU per short call at 2026-07-28 over bare", "µs", By.ADDED),
    "event": Goal(
        "1 stream at 200/s, added p50 of an event",
        "ms",
        By.ADDED,
        {_SQLITE: 0.15, "sqlite full": 0.15},
        over_floor=True,
    ),
    "beside": Goal("1 stream at 200/s beside 100 calls/s, added p50 of an event", "ms", By.ADDED),
    "beside-p99": Goal("the same, added p99", "ms", By.ADDED),
    "some": Goal("16 streams at 20/s, added p50 of an event", "ms", By.ADDED),
    "idle-crowd": Goal("256 streams at 1/s, added p50 of an event", "ms", By.ADDED),
    "many": Goal("64 streams at 20/s, added p50 of an event", "ms", By.ADDED, {_SQLITE: 2.0}),
    "many-p99": Goal("64 streams at 20/s, added p99 of an event", "ms", By.ADDED, {_SQLITE: 10.0}),
    "many-cpu": Goal("CPU per event over bare, 64 streams at 20/s", "µs", By.ADDED),
    "many-lag": Goal(
        "loop's lag beside 64 streams at 20/s, p99 over bare", "ms", By.ADDED, {_SQLITE: 2.0}
    ),
    "one": Goal("1 stream flat out, share of bare", "events/s", By.SHARE, least={_SQLITE: 0.95}),
    "one-cpu": Goal("CPU per event over bare, 1 stream flat out", "µs", By.ADDED),
    "sixteen": Goal(
        "16 streams flat out, share of bare", "events/s", By.SHARE, least={_SQLITE: 0.8}
    ),
    "sixteen-cpu": Goal("CPU per event over bare, 16 streams flat out", "µs", By.ADDED),
    "sixteen-age": Goal(
        "16 streams flat out, p99 of an event's age", "ms", By.ITSELF, {_SQLITE: 60.0}
    ),
    "crowd": Goal("256 streams flat out, share of bare", "events/s", By.SHARE),
    "raw": Goal(
        "hand-written application, 16 streams", "events/s", By.ITSELF, least={_SQLITE: 25_000}
    ),
    "sized-2k": Goal("call answered with 2 KB of JSON, added p50", "ms", By.ADDED),
    "sized-200k": Goal("call answered with 200 KB of text, added p50", "ms", By.ADDED),
    "sized-1m": Goal("call answered with 1 MB of base64, added p50", "ms", By.ADDED),
    "sized-2k-cpu": Goal("CPU per such call over bare, 2 KB", "µs", By.ADDED),
    "sized-200k-cpu": Goal("CPU per such call over bare, 200 KB", "µs", By.ADDED),
    "sized-1m-cpu": Goal("CPU per such call over bare, 1 MB", "µs", By.ADDED),
    "disk-2k": Goal("file for an answer of 2 KB of JSON", "B", By.ITSELF),
    "disk-200k": Goal("file for an answer of 200 KB of text", "B", By.ITSELF),
    "disk-1m": Goal("file for an answer of 1 MB of base64", "B", By.ITSELF),
    "share-2k": Goal("the same, share of the file without codecs, 2 KB", "", By.SHARE),
    "share-200k": Goal("the same, 200 KB", "", By.SHARE),
    "share-1m": Goal("the same, 1 MB", "", By.SHARE),
    "encode-2k": Goal("CPU to encode an answer of 2 KB", "µs", By.ITSELF),
    "encode-200k": Goal("CPU to encode an answer of 200 KB", "µs", By.ITSELF),
    "encode-1m": Goal("CPU to encode an answer of 1 MB", "µs", By.ITSELF),
    "decode-2k": Goal("CPU to decode an answer of 2 KB", "µs", By.ITSELF),
    "decode-200k": Goal("CPU to decode an answer of 200 KB", "µs", By.ITSELF),
    "decode-1m": Goal("CPU to decode an answer of 1 MB", "µs", By.ITSELF),
    "paired-call": Goal("CPU of a call answered with 2 KB over the plain store", "µs", By.ADDED),
    "paired-event": Goal("CPU of a small event over the plain store", "µs", By.ADDED),
    "journal-note": Goal("CPU to take note of an exchange for the journal", "µs", By.ITSELF),
    "journal-row": Goal("CPU to write its row, beside the calls", "µs", By.ITSELF),
    "relayed": Goal("relayed call ÷ local call, 32 clients", "", By.SHARE, least=_each(0.7)),
    "relayed-p50": Goal("relayed call, added p50 over a local one", "ms", By.ADDED, _each(25.0)),
    "tail": Goal(
        "1 stream at 200/s read on another worker, p50 of an event's age",
        "ms",
        By.ITSELF,
        _each(5.0) | {_SQLITE: 50.0, "sqlite full": 50.0},
    ),
    "tail-p99": Goal("1 stream at 200/s read on another worker, p99", "ms", By.ITSELF),
    "tail-some": Goal("16 streams at 20/s read on another worker, p50", "ms", By.ITSELF),
    "tail-some-p99": Goal("16 streams at 20/s read on another worker, p99", "ms", By.ITSELF),
    "tail-crowd": Goal("256 streams at 1/s read on another worker, p50", "ms", By.ITSELF),
    "tail-crowd-p99": Goal("256 streams at 1/s read on another worker, p99", "ms", By.ITSELF),
    "tails": Goal("16 streams at 200/s read on another worker, p50", "ms", By.ITSELF),
    "tails-p99": Goal("16 streams at 200/s read on another worker, p99", "ms", By.ITSELF),
    "session": Goal("memory of an idle session over bare", "KiB", By.ADDED, {_SQLITE: 4.0}),
    "listener": Goal("memory of an idle GET stream over bare", "KiB", By.ADDED, {_SQLITE: 16.0}),
    "detached": Goal(
        "memory of an idle call whose client left, over one bare", "KiB", By.ADDED, {_SQLITE: 16.0}
    ),
    "detached-left": Goal(
        "memory of such a call over a bare one whose client left", "KiB", By.ADDED
    ),
    "appends": Goal(
        "log alone, 256 streams, share of executemany",
        "events/s",
        By.SHARE,
        least={_SQLITE: 0.6, "sqlite full": 0.6},
    ),
    "history-event": Goal(
        "append of 1 event among millions ÷ in an empty file", "ms", By.SHARE, {_SQLITE: 1.25}
    ),
    "history-batch": Goal("append of 256 events, the same", "ms", By.SHARE, {_SQLITE: 1.25}),
    "history-replay": Goal("replay of 1000 events, the same", "ms", By.SHARE, {_SQLITE: 1.25}),
}
