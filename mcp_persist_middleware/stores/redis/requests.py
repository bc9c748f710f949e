"""What runs in Redis for relayed requests: one atomic function per step, all that belongs to one
addressee in one slot, every key with an end.

An addressee's *box* holds a token: the incarnation of the memory that it lies in, and a random
part. The incarnation is what the server that runs the function says of itself (`run_id` and
`master_replid`): no server has it again after a restart or a promotion, so what an older file or a
replica that was behind brings back carries the token of another incarnation; and a box that was
flushed is made anew with another random part. Every relayed request carries the token that it was
put with.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from mcp_persist_middleware.model import RelayRequest, RelayRequestId, SessionKey
from mcp_persist_middleware.stores.redis.scripts import Keys, Script, ScriptCall

PUT, TOMBSTONED, OTHER, CLOSED, FULL, GONE = 1, -1, 2, 3, 4, 0

# An addressee that has not looked for so long does not look (ms); a box that nobody opens is kept
# for so long, a relayed request so much longer than its deadline.
OPEN, _KEPT, GRACE = 5_000, 3_600_000, 20_000

_INCARNATION = """
local function incarnation()
  local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
  local run, line = string.match(info, 'run_id:(%x+)'), string.match(info, 'master_replid:(%x+)')
  local both = (run or '') .. '-' .. (line or '')
  if not string.find(both, '[1-9a-f]') then error('it does not say which server it is') end
  return both
end
local function is_of(token, incarnation)
  return token and string.sub(token, 1, #incarnation + 1) == incarnation .. ':'
end
local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
"""
# KEYS: box, queue, relayed request. ARGV: the token that the sender knows or '', most, id,
# milliseconds, channel, head, content, deadline.
_PUT = """
local state = redis.call('HGET', KEYS[3], 's')
if state == 'B' then return {-1} end
if state then return {1} end
local box = redis.call('HMGET', KEYS[1], 't', 'u')
if not is_of(box[1], incarnation()) then return {0} end
if box[1] ~= ARGV[1] then return {2, box[1]} end
if tonumber(box[2]) < now() then return {3} end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[2]) then return {4} end
redis.call('PUBLISH', ARGV[5], '')
redis.call('ZADD', KEYS[2], 0, ARGV[3])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
redis.call('HSET', KEYS[3], 's', 'W', 't', ARGV[1], 'h', ARGV[6], 'c', ARGV[7], 'd', ARGV[8])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
return {1}
"""
# KEYS: box, queue, claimed. ARGV: random part of a new token, who asks, number of the question,
# most relayed requests, time, milliseconds for the answer, beginning of a relayed request's key,
# milliseconds that the box is open and kept, until when the answer is awaited. A question that was
# late in the network claims nothing: nobody would hear it.
_CLAIM = """
local box = redis.call('HMGET', KEYS[1], 't', ARGV[2], 'm')
if box[2] and tonumber(box[2]) >= tonumber(ARGV[3]) then return {0} end
local own, token = incarnation(), box[1]
if not is_of(token, own) then
  token = own .. ':' .. ARGV[1]
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], 't', token, 'u', now() + tonumber(ARGV[8]), ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[9])
local found = {box[3] and 1 or 0}
redis.call('HDEL', KEYS[1], 'm')
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, tonumber(ARGV[4]) - 1)) do
  local key = ARGV[7] .. id
  local request = redis.call('HMGET', key, 's', 't', 'd', 'h', 'c')
  if request[1] == 'W' and tonumber(request[3]) > tonumber(ARGV[5]) then
    redis.call('SADD', KEYS[3], id)
    redis.call('ZREM', KEYS[2], id)
    redis.call('PEXPIRE', key, ARGV[6])
    redis.call('HSET', key, 's', 'C', 'd', ARGV[10])
    redis.call('HDEL', key, 'h', 'c')
    local sound = request[2] == token
    found[#found + 1] = {id, sound and request[4] or '', sound and request[5] or '', request[3]}
  else
    redis.call('ZREM', KEYS[2], id)
  end
end
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[6]) then redis.call('PEXPIRE', KEYS[3], ARGV[6]) end
return found
"""
# KEYS: claimed, relayed requests. ARGV: milliseconds, until when the answers are awaited. Says
# which of them are there.
_RENEW = """
local found = {}
for i = 2, #KEYS do
  if redis.call('HGET', KEYS[i], 's') == 'C' then
    redis.call('HSET', KEYS[i], 'd', ARGV[2])
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
    found[#found + 1] = i - 1
  end
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return found
"""
# KEYS: queue, relayed request. ARGV: id. Not where the relayed request came out of another memory
# than it was put into: it may have been claimed in that one. What is withdrawn is tombstoned.
_WITHDRAW = """
local request = redis.call('HMGET', KEYS[2], 's', 't')
if request[1] ~= 'W' or not is_of(request[2], incarnation()) then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], 'h', 'c')
redis.call('HSET', KEYS[2], 's', 'B')
return 1
"""
# KEYS: box, relayed request. ARGV: the token that it was put with or '', milliseconds. A memory
# that it may have been put into, and that is not this one, cannot be asked.
_TOMBSTONE = """
if redis.call('HGET', KEYS[2], 's') then return 0 end
if ARGV[1] ~= '' then
  if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return 0 end
  if not is_of(ARGV[1], incarnation()) then return 0 end
end
redis.call('HSET', KEYS[2], 's', 'B')
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
"""
# KEYS: relayed request, queue, claimed. ARGV: id, reply, milliseconds, channel, state, what is told
# with the wake-up: it is true wherever it is heard. Whoever answers a relayed request has claimed
# it, whether this memory knows of that or not.
_ANSWER = """
local state = redis.call('HGET', KEYS[1], 's')
if state == 'A' or state == 'L' then return 0 end
redis.call('PUBLISH', ARGV[4], ARGV[6])
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], 'h', 'c')
redis.call('HSET', KEYS[1], 's', ARGV[5], 'r', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
# KEYS: relayed request, box.
_LOOK = """
local request = redis.call('HMGET', KEYS[1], 's', 't', 'r', 'd')
local state = request[1]
if not state or state == 'B' then return {} end
if state == 'A' or state == 'L' then return {state, request[3]} end
if not is_of(request[2], incarnation()) then return {state, 'unknown'} end
local box = redis.call('HMGET', KEYS[2], 't', 'u')
if state == 'W' and (box[1] ~= request[2] or tonumber(box[2]) < now()) then
  return {state, 'undeliverable'}
end
return {state, 'known', request[4]}
"""
# KEYS: box. ARGV: channel. There is something for this addressee elsewhere.
_HINT = """
redis.call('PUBLISH', ARGV[1], '')
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'm', '1') end
return 1
"""

_put, _claim, _withdraw, _tombstone, _look = (
    Script(_INCARNATION + text) for text in (_PUT, _CLAIM, _WITHDRAW, _TOMBSTONE, _LOOK)
)
_answer, _hint, _renew = Script(_ANSWER), Script(_HINT), Script(_RENEW)


class Box(NamedTuple):
    """The keys of one addressee, in one slot of a cluster."""

    base: str
    channel: str
    """Where it is woken."""

    @classmethod
    def of(cls, keys: Keys, worker: str, topic: bytes) -> "Box":
        """That of a worker."""
        return cls(f"{keys.base}:{{w:{worker}}}", keys.channel(topic))

    @property
    def box(self) -> str:
        """A hash: token, until when it is open, numbers of questions, hint."""
        return f"{self.base}:box"

    @property
    def queue(self) -> str:
        """A sorted set: the ids of the relayed requests that wait."""
        return f"{self.base}:queue"

    @property
    def claimed(self) -> str:
        """A set: the ids of the relayed requests that were claimed and have no answer."""
        return f"{self.base}:claimed"

    @property
    def requests(self) -> bytes:
        """The beginning of the key of each relayed request, a hash."""
        return f"{self.base}:l:".encode()

    def request(self, request: bytes) -> bytes:
        """The key of a relayed request."""
        return self.requests + request

    # The steps.

    def put(self, request: RelayRequest, token: bytes, most: int, milliseconds: int) -> ScriptCall:
        """Enqueue a relayed request."""
        head = json.dumps([*request.key, request.generation, request.sealed])
        keys = (self.box, self.queue, self.request(request.id))
        rest = (self.channel, head, request.content, request.deadline)
        return _put(keys, token, most, request.id, milliseconds, *rest)

    def claim(
        self,
        nonce: bytes,
        who: str,
        number: int,
        limit: int,
        now: float,
        milliseconds: int,
        deadline: float,
    ) -> ScriptCall:
        """Take relayed requests."""
        most = (limit, now, milliseconds, self.requests, OPEN, _KEPT, deadline)
        return _claim((self.box, self.queue, self.claimed), nonce, who, number, *most)

    def renew(self, requests: Sequence[bytes], milliseconds: int, deadline: float) -> ScriptCall:
        """Say that relayed requests are still being run."""
        return _renew((self.claimed, *map(self.request, requests)), milliseconds, deadline)

    def head(self, request: bytes) -> ScriptCall:
        """What a relayed request that waits is, without its content."""
        return ScriptCall(("HGET", self.request(request), "h"))

    def withdraw(self, request: bytes) -> ScriptCall:
        """Take a relayed request back."""
        return _withdraw((self.queue, self.request(request)), request)

    def tombstone(self, request: bytes, token: bytes, milliseconds: int) -> ScriptCall:
        """See that a relayed request is not enqueued any more."""
        return _tombstone((self.box, self.request(request)), token, milliseconds)

    def answer(
        self,
        request: bytes,
        reply: bytes,
        milliseconds: int,
        channel: str,
        state: str,
        message: bytes,
    ) -> ScriptCall:
        """Answer a relayed request: `A` with this reply, `L` with one that is elsewhere. The
        message goes with the wake-up."""
        keys = (self.request(request), self.queue, self.claimed)
        return _answer(keys, request, reply, milliseconds, channel, state, message)

    def look(self, request: bytes) -> ScriptCall:
        """See where a relayed request is."""
        return _look((self.request(request), self.box))

    def hint(self) -> ScriptCall:
        """Say that there is something elsewhere."""
        return _hint((self.box,), self.channel)


def relay_request_of(worker: str, found: list[Any]) -> RelayRequest:
    """A relayed request that was claimed; one without a head is void."""
    name, head, content, deadline = found
    if not head:
        return not_executable(RelayRequestId(name, worker))
    *key, generation, sealed = json.loads(head)
    return RelayRequest(
        name, SessionKey(*key), worker, generation, float(deadline), content, bool(sealed)
    )


def session_of(head: bytes) -> SessionKey:
    """Whose a relayed request is that waits."""
    return SessionKey(*json.loads(head)[:3])


def not_executable(name: RelayRequestId) -> RelayRequest:
    """A relayed request that is there to be answered only."""
    key = SessionKey("", "", "")
    return RelayRequest(name.id, key, name.worker, 0, 0.0, b"", sealed=False, not_executable=True)
