"""What runs in Redis for letters: one atomic function per step, all that belongs to one addressee
in one slot, every key with an end.

An addressee's *box* holds a token: the incarnation of the memory that it lies in, and a random
part. The incarnation is what the server that runs the function says of itself (`run_id` and
`master_replid`): no server has it again after a restart or a promotion, so what an older file or a
replica that was behind brings back carries the token of another incarnation; and a box that was
flushed is made anew with another random part. Every letter carries the token that it was put with.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from mcp_persist_middleware.log.redis.scripts import Call, Keys, Script
from mcp_persist_middleware.model import Letter, LetterName, SessionKey

PUT, BARRED, OTHER, CLOSED, FULL, GONE = 1, -1, 2, 3, 4, 0

# An addressee that has not looked for so long does not look (ms); a box that nobody opens is kept
# for so long, a letter so much longer than its deadline.
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
# KEYS: box, queue, letter. ARGV: the token that the sender knows or '', most, id, milliseconds,
# channel, head, content, deadline.
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
# most letters, time, milliseconds for the answer, beginning of a letter's key, milliseconds that
# the box is open and kept, until when the answer is awaited. A question that was late in the
# network claims nothing: nobody would hear it.
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
  local letter = redis.call('HMGET', key, 's', 't', 'd', 'h', 'c')
  if letter[1] == 'W' and tonumber(letter[3]) > tonumber(ARGV[5]) then
    redis.call('SADD', KEYS[3], id)
    redis.call('ZREM', KEYS[2], id)
    redis.call('PEXPIRE', key, ARGV[6])
    redis.call('HSET', key, 's', 'C', 'd', ARGV[10])
    redis.call('HDEL', key, 'h', 'c')
    local sound = letter[2] == token
    found[#found + 1] = {id, sound and letter[4] or '', sound and letter[5] or '', letter[3]}
  else
    redis.call('ZREM', KEYS[2], id)
  end
end
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[6]) then redis.call('PEXPIRE', KEYS[3], ARGV[6]) end
return found
"""
# KEYS: claimed, letters. ARGV: milliseconds, until when the answers are awaited. Says which of them
# are there.
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
# KEYS: queue, letter. ARGV: id. Not where the letter came out of another memory than it was put
# into: it may have been claimed in that one. What is withdrawn is barred from then on.
_WITHDRAW = """
local letter = redis.call('HMGET', KEYS[2], 's', 't')
if letter[1] ~= 'W' or not is_of(letter[2], incarnation()) then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], 'h', 'c')
redis.call('HSET', KEYS[2], 's', 'B')
return 1
"""
# KEYS: box, letter. ARGV: the token that it was put with or '', milliseconds. A memory that the
# posting may have been in, and that is not this one, cannot be asked.
_BAR = """
if redis.call('HGET', KEYS[2], 's') then return 0 end
if ARGV[1] ~= '' then
  if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return 0 end
  if not is_of(ARGV[1], incarnation()) then return 0 end
end
redis.call('HSET', KEYS[2], 's', 'B')
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
"""
# KEYS: letter, queue, claimed. ARGV: id, reply, milliseconds, channel, state. Whoever answers a
# letter has claimed it, whether this memory knows of that or not.
_ANSWER = """
local state = redis.call('HGET', KEYS[1], 's')
if state == 'A' or state == 'L' then return 0 end
redis.call('PUBLISH', ARGV[4], '')
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], 'h', 'c')
redis.call('HSET', KEYS[1], 's', ARGV[5], 'r', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
# KEYS: letter, box.
_LOOK = """
local letter = redis.call('HMGET', KEYS[1], 's', 't', 'r', 'd')
local state = letter[1]
if not state or state == 'B' then return {} end
if state == 'A' or state == 'L' then return {state, letter[3]} end
if not is_of(letter[2], incarnation()) then return {state, 'doubtful'} end
local box = redis.call('HMGET', KEYS[2], 't', 'u')
if state == 'W' and (box[1] ~= letter[2] or tonumber(box[2]) < now()) then
  return {state, 'stranded'}
end
return {state, 'sound', letter[4]}
"""
# KEYS: box. ARGV: channel. There is something for this addressee elsewhere.
_HINT = """
redis.call('PUBLISH', ARGV[1], '')
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'm', '1') end
return 1
"""

_put, _claim, _withdraw, _bar, _look = (
    Script(_INCARNATION + text) for text in (_PUT, _CLAIM, _WITHDRAW, _BAR, _LOOK)
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
        """A sorted set: the ids of the letters that wait."""
        return f"{self.base}:queue"

    @property
    def claimed(self) -> str:
        """A set: the ids of the letters that were claimed and have no answer."""
        return f"{self.base}:claimed"

    @property
    def letters(self) -> bytes:
        """The beginning of the key of each letter, a hash."""
        return f"{self.base}:l:".encode()

    def letter(self, letter: bytes) -> bytes:
        """The key of a letter."""
        return self.letters + letter

    # The steps.

    def put(self, letter: Letter, token: bytes, most: int, milliseconds: int) -> Call:
        """Post a letter."""
        head = json.dumps([*letter.key, letter.generation, letter.sealed])
        keys = (self.box, self.queue, self.letter(letter.id))
        rest = (self.channel, head, letter.content, letter.deadline)
        return _put(keys, token, most, letter.id, milliseconds, *rest)

    def claim(
        self,
        nonce: bytes,
        who: str,
        number: int,
        limit: int,
        now: float,
        milliseconds: int,
        deadline: float,
    ) -> Call:
        """Take letters."""
        most = (limit, now, milliseconds, self.letters, OPEN, _KEPT, deadline)
        return _claim((self.box, self.queue, self.claimed), nonce, who, number, *most)

    def renew(self, letters: Sequence[bytes], milliseconds: int, deadline: float) -> Call:
        """Say that letters are still being run."""
        return _renew((self.claimed, *map(self.letter, letters)), milliseconds, deadline)

    def withdraw(self, letter: bytes) -> Call:
        """Take a letter back."""
        return _withdraw((self.queue, self.letter(letter)), letter)

    def bar(self, letter: bytes, token: bytes, milliseconds: int) -> Call:
        """See that a letter is not posted."""
        return _bar((self.box, self.letter(letter)), token, milliseconds)

    def answer(
        self, letter: bytes, reply: bytes, milliseconds: int, channel: str, state: str
    ) -> Call:
        """Answer a letter: `A` with this reply, `L` with one that is elsewhere."""
        keys = (self.letter(letter), self.queue, self.claimed)
        return _answer(keys, letter, reply, milliseconds, channel, state)

    def look(self, letter: bytes) -> Call:
        """See where a letter is."""
        return _look((self.letter(letter), self.box))

    def hint(self) -> Call:
        """Say that there is something elsewhere."""
        return _hint((self.box,), self.channel)


def letter_of(worker: str, found: list[Any]) -> Letter:
    """A letter that was claimed; one without a head is void."""
    name, head, content, deadline = found
    if not head:
        return void(LetterName(name, worker))
    *key, generation, sealed = json.loads(head)
    return Letter(
        name, SessionKey(*key), worker, generation, float(deadline), content, bool(sealed)
    )


def void(name: LetterName) -> Letter:
    """A letter that is there to be answered only."""
    key = SessionKey("", "", "")
    return Letter(name.id, key, name.worker, 0, 0.0, b"", sealed=False, void=True)
