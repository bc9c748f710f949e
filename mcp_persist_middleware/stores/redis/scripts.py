"""What runs in Redis, one atomic function per stream, and the shape of what lies there.

Of a stream there are two keys in one slot: a hash with its epoch and its last number, and a Redis
stream of chunks. A chunk is all the events of one append; its entry id is the number of its last
event, so that the first chunk above a cursor is found by XRANGE.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mcp_persist_middleware.model import Event, EventKind, HighWater
from mcp_persist_middleware.stores.redis.messages import MessageSeal

_KINDS = {int(kind): kind for kind in EventKind}
# Of the one byte of an event: its kind below, its codec above.
_KIND, _CODEC = 15, 4
DONE, FENCED, LOST = 1, 0, -1
FENCE_MS = 3_600_000
"""How long a fence stays."""

# KEYS: hash and chunks of each stream. ARGV: a channel that nobody listens to, and for each stream:
# epoch, first, last, chunk, whether it may begin here (SQL has all before `first`), number up to
# which chunks may go, channel, and what is told there with the wake-up. What becomes of one stream
# is not the others' affair.
# What it begins anew it begins further on: a command that was late in the network cannot take
# the place of what came after it.
# Here and everywhere: what may be refused by itself, a channel above all, comes before what changes
# anything that counts. A message wakes nobody before the function is over; one that tells what was
# written is sent when it is written.
_APPEND = """
local function append(head, chunks, n)
  local epoch, first = tonumber(ARGV[n]), tonumber(ARGV[n + 1])
  local last, chunk = ARGV[n + 2], ARGV[n + 3]
  local known = redis.call('HMGET', head, 'epoch', 'last', 'fence')
  local anew = true
  if known[1] then
    local held, at = tonumber(known[1]), tonumber(known[2])
    if held > epoch then return 0 end
    if held == epoch then
      if at == tonumber(last) then
        local there = redis.call('XRANGE', chunks, last, last)
        if there[1] and there[1][2][2] == chunk then return 1 end
      end
      anew = known[3] or at ~= first - 1
      if anew and at >= first then return -1 end
    end
  end
  if anew and ARGV[n + 4] == '0' then return -1 end
  if anew then
    redis.call('PERSIST', head)
    redis.call('HDEL', head, 'fence')
    redis.call('DEL', chunks)
  elseif ARGV[n + 5] ~= '0' then
    redis.call('XTRIM', chunks, 'MINID', ARGV[n + 5])
  end
  redis.call('XADD', chunks, last .. '-0', 'c', chunk)
  redis.call('HSET', head, 'epoch', ARGV[n], 'last', last)
  redis.call('PUBLISH', ARGV[n + 6], ARGV[n + 7])
  return 1
end
redis.call('PUBLISH', ARGV[1], '')
local done = {}
for i = 1, #KEYS, 2 do
  local ok, found = pcall(append, KEYS[i], KEYS[i + 1], 2 + (i - 1) / 2 * 8)
  if not ok and type(found) ~= 'table' then found = {err = found} end
  done[#done + 1] = found
end
return done
"""
# KEYS: hash. ARGV: the epoch that begins. Whoever holds an older one appends nothing more.
_FENCE = """
local held = redis.call('HGET', KEYS[1], 'epoch')
if held and tonumber(held) > tonumber(ARGV[1]) then return 0 end
redis.call('HSETNX', KEYS[1], 'last', '0')
redis.call('PERSIST', KEYS[1])
if held ~= ARGV[1] then redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'fence', '1') end
return 1
"""
# KEYS: hash, chunks. ARGV: epoch, milliseconds. SQL has it all; the fence stays for a while. Not
# where the new epoch has begun here already: this was late, and what is there is alive.
_BURY = """
local known = redis.call('HMGET', KEYS[1], 'epoch', 'fence')
if known[1] ~= ARGV[1] or not known[2] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'last', '0')
return 1
"""
# KEYS: hash, chunks. ARGV: epoch, last. SQL has it all, and nothing has come for a while.
_SETTLE = """
local known = redis.call('HMGET', KEYS[1], 'epoch', 'last')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
"""
# KEYS: hash, chunks. ARGV: epoch. It has ended in this epoch. Not where a later one has begun
# since: this was late, and what is there is alive.
_LEAVE = """
local held = redis.call('HGET', KEYS[1], 'epoch')
if held and tonumber(held) > tonumber(ARGV[1]) then return 0 end
redis.call('UNLINK', KEYS[1], KEYS[2])
return 1
"""
# KEYS: the index. ARGV: a stream, and when that had ended. Not where it was named again since.
_UNNAME = """
local at = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not at or tonumber(at) > tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """A command of a pipeline; `whole` is for a server that does not know its script yet."""

    command: tuple[Any, ...]
    whole: tuple[Any, ...] = ()


class Script:
    """A function that runs in Redis."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 (Redis names it so)

    def __call__(self, keys: Sequence[str | bytes], *arguments: Any) -> ScriptCall:
        rest = (len(keys), *keys, *arguments)
        return ScriptCall(("EVALSHA", self._sha, *rest), ("EVAL", self._text, *rest))


NEVER = (1 << 31) - 1
"""The epoch after the last one: whoever it fences writes in Redis no more."""
_append = Script(_APPEND)
FENCE, BURY, SETTLE = Script(_FENCE), Script(_BURY), Script(_SETTLE)
LEAVE, UNNAME = Script(_LEAVE), Script(_UNNAME)


class Keys:
    """The names of all that belongs to one SQL store. Another store's are other names, so two
    stores on one Redis never meet, and a Redis that knows another store is as good as empty."""

    def __init__(self, prefix: str, secret: bytes) -> None:
        store = hashlib.blake2b(b"redis", key=secret[:64], digest_size=12).hexdigest()
        self.base = f"{prefix}{store}"
        self.index = f"{self.base}:tails"
        """The streams that have keys, each with the time when that was last known."""
        self.seal = MessageSeal(secret)
        """Keeps what wake-ups tell among those of this store."""

    def of(self, stream: bytes) -> tuple[str, str]:
        """The hash and the chunks of a stream, in one slot of a cluster."""
        tagged = f"{self.base}:{{{stream.hex()}}}"
        return f"{tagged}:h", f"{tagged}:c"

    def channel(self, topic: bytes) -> str:
        """Where wake-ups for a topic are published."""
        return f"{self.base}:w:{topic.hex()}"


class StreamAppend(NamedTuple):
    """The next chunk of one stream."""

    keys: tuple[str, str]
    """Its hash and its chunks."""
    channel: str
    epoch: int
    first: int
    last: int
    chunk: bytes
    begins: bool
    """Whether SQL has all before it."""
    drop: int
    """Chunks up to this number may go."""
    message: bytes
    """What the wake-up tells."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As the function takes them."""
        begins = int(self.begins)
        numbers = self.epoch, self.first, self.last
        return *numbers, self.chunk, begins, self.drop, self.channel, self.message


def appending(appends: Sequence[StreamAppend], together: int) -> list[ScriptCall]:
    """The calls that append, each to so many streams at most."""
    calls = []
    for n in range(0, len(appends), together):
        group = appends[n : n + together]
        arguments = [value for each in group for value in each.arguments]
        names = [key for each in group for key in each.keys]
        calls.append(_append(names, f"{group[0].channel}?", *arguments))
    return calls


def appended(replies: Sequence[Any], count: int, together: int) -> list[Any]:
    """What became of each of so many streams: `DONE`, `FENCED`, `LOST` or an error."""
    found: list[Any] = []
    for reply in replies:
        left = min(together, count - len(found))
        found += [reply] * left if isinstance(reply, Exception) else reply
    return found


def ended(keys: Keys, stream: bytes, epoch: int, now: float) -> list[ScriptCall]:
    """What removes a stream that has ended in this epoch, by now (the clock of the index)."""
    return [LEAVE(keys.of(stream), epoch), UNNAME([keys.index], stream, now)]


def erased(keys: Keys, stream: bytes) -> list[ScriptCall]:
    """What leaves nothing of a stream but, for a while, a fence before whoever still writes it."""
    head, chunks = keys.of(stream)
    return [
        FENCE([head], NEVER),
        BURY([head, chunks], NEVER, FENCE_MS),
        ScriptCall(("ZREM", keys.index, stream)),
    ]


def encode(events: Sequence[Event]) -> bytes:
    """A chunk of consecutive events of one epoch."""
    count = len(events)
    sizes = [len(event.frame) for event in events]
    head = struct.pack(f">II{count}I", events[0].epoch, count, *sizes)
    kinds = bytes([event.kind | event.codec << _CODEC for event in events])
    return b"".join((head, kinds, *[event.frame for event in events]))


def message_of(last: int, chunk: bytes, most: int) -> bytes:
    """What a wake-up tells of a chunk: of one with more than so many bytes its number alone."""
    if len(chunk) > most:
        (epoch,) = struct.unpack_from(">I", chunk)
        chunk = struct.pack(">II", epoch, 0)
    return b"%d:%s" % (last, chunk)


def high_water_of(message: bytes) -> HighWater | None:
    """How far a stream is with the chunk of which a wake-up tells."""
    entry, chunk = chunk_of(message)
    try:
        (epoch,) = struct.unpack_from(">I", chunk)
        return HighWater(epoch, int(entry))
    except (ValueError, struct.error):
        return None


def chunk_of(message: bytes) -> tuple[bytes, bytes]:
    """What a chunk that came with a wake-up is in Redis: the id of its entry, and its bytes."""
    entry, _, chunk = message.partition(b":")
    return entry, chunk


def decode(entry: bytes, chunk: bytes) -> list[Event]:
    """The events of a chunk; `entry` is its id."""
    last = int(entry.partition(b"-")[0])
    epoch, count = struct.unpack_from(">II", chunk)
    sizes = struct.unpack_from(f">{count}I", chunk, 8)
    kinds = 8 + 4 * count
    at = kinds + count
    events = []
    for n, size in enumerate(sizes):
        frame = chunk[at : at + size]
        # Of a kind that this version does not know: as in SQL, a gap.
        code = chunk[kinds + n]
        if (kind := _KINDS.get(code & _KIND)) is not None:
            events.append(Event(last - count + 1 + n, epoch, kind, frame, code >> _CODEC))
        at += size
    return events
