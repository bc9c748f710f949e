"""What a user of Redis has to be allowed, tried before anything depends on it: each command that is
used anywhere, on keys and a channel of ours that nobody else knows.

An ACL is judged command by command, inside of scripts too. A script that is refused half-way has
done its first half; so nothing runs for a user who lacks something.
"""

import contextlib
import json
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.exceptions import NoPermissionError, RedisError

from mcp_persist_middleware.stores.redis.scripts import Keys, Script, ScriptCall

# Servers word it in their own ways where a script was refused.
_DENIED = re.compile(r"NOPERM|ACL failure|executing the script can't")
_UNKNOWN = re.compile(r"unknown (redis )?command", re.IGNORECASE)
# ARGV: commands. Those that are refused, with the reason.
_TRY = Script("""
local refused = {}
for _, command in ipairs(cjson.decode(ARGV[1])) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply.err then refused[#refused + 1] = {command[1], reply.err} end
end
return refused
""")
# Each on a hash `h`, a stream `x`, a sorted set `z`, a set `s` or a channel `c`, in this order:
# what a later one needs, an earlier one has made, and nothing is left.
_TRIES: tuple[tuple[str, ...], ...] = (
    ("HSET", "h", "f", "1"),
    ("HSETNX", "h", "f", "1"),
    ("HGET", "h", "f"),
    ("HMGET", "h", "f"),
    ("HDEL", "h", "g"),
    ("EXISTS", "h"),
    ("PERSIST", "h"),
    ("PTTL", "h"),
    ("XADD", "x", "*", "c", ""),
    ("XRANGE", "x", "-", "+", "COUNT", "1"),
    ("XTRIM", "x", "MINID", "0"),
    ("ZADD", "z", "0", "m"),
    ("ZCARD", "z"),
    ("ZSCORE", "z", "m"),
    ("ZRANGE", "z", "0", "0"),
    ("ZRANGEBYSCORE", "z", "0", "0", "LIMIT", "0", "1"),
    ("ZREM", "z", "n"),
    ("SADD", "s", "m"),
    ("SMEMBERS", "s"),
    ("SREM", "s", "n"),
    ("PEXPIRE", "h", "1000"),
    ("PEXPIRE", "x", "1000"),
    ("PEXPIRE", "z", "1000"),
    ("PEXPIRE", "s", "1000"),
    ("PUBLISH", "c", ""),
    ("PING",),
    ("TIME",),
    ("UNLINK", "h", "x"),
    ("DEL", "z", "s"),
)
_ALSO = {"EVAL", "EVALSHA", "SUBSCRIBE", "UNSUBSCRIBE"}
NEEDED = {command[0] for command in _TRIES} | _ALSO
"""All of them. `INFO` may be forbidden."""


class Rights:
    """The tries of one client.

    Args:
        keys: the names of all that is ours.
        prefix: what all those names begin with.
        user: whose rights are tried.
    """

    def __init__(self, keys: Callable[[], Keys], prefix: str, user: str) -> None:
        self._keys = keys
        self._prefix = prefix
        self._user = user
        self._name = secrets.token_hex(8)

    @property
    def channel(self) -> str:
        """One that is listened to for a moment."""
        return self._keys().channel(self._name.encode())

    def calls(self) -> list[ScriptCall]:
        """What is to be run in one pipeline."""
        base = f"{self._keys().base}:{{try:{self._name}}}:"
        names = {kind: base + kind for kind in "hxzs"} | {"c": self.channel}
        tries = json.dumps([[c, *(names.get(a, a) for a in rest)] for c, *rest in _TRIES])
        keys = [base + kind for kind in "hxzs"]
        return [ScriptCall(("EVAL", "return {}", 1, keys[0])), _TRY(keys, tries)]

    def refused(self, replies: Sequence[Any]) -> list[tuple[str, str]]:
        """The commands that were refused, each with what the server says of it."""
        found: list[tuple[str, str]] = []
        for name, reply in zip(("EVAL", "EVALSHA"), replies, strict=False):
            if isinstance(reply, Exception):
                found.append((name, _text(reply)))
            elif isinstance(reply, list):
                found += [(each.decode(), text.decode(errors="replace")) for each, text in reply]
        return found

    def judged(self, refused: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
        """What an administrator is told, the fault and the fix; None when nothing is lacking."""
        keys = channels = False
        commands, unknown = dict[str, None](), dict[str, None]()
        for name, text in refused:
            if _UNKNOWN.search(text):
                unknown[name] = None
            elif not is_denied(text):
                continue
            elif "channel" in text:
                channels = True
            elif re.search(r"\bkeys?\b", text):
                keys = True
            else:
                commands[name] = None
        if unknown:
            return f"it does not know {', '.join(unknown)}", "Use a Redis that has them"
        lacking = [f"run {', '.join(commands)}"] if commands else []
        lacking += [f"use the {what} {self._prefix}*" for what in self._places(keys, channels)]
        if not lacking:
            return None
        rules = [f"~{self._prefix}*"] * keys + [f"&{self._prefix}*"] * channels
        rules += [f"+{name.lower()}" for name in commands]
        return (
            f"its user {self._user!r} may not {' nor '.join(lacking)}",
            f"Allow it: ACL SETUSER {self._user} {' '.join(rules)}",
        )

    @staticmethod
    def _places(keys: bool, channels: bool) -> list[str]:  # noqa: FBT001
        return ["keys"] * keys + ["channels"] * channels


async def listened(client: Any, channel: str) -> list[tuple[str, str]]:
    """What is refused on a connection that listens, with what the server says of it; the client is
    closed, and the caller has a time limit."""
    pubsub, asked = client.pubsub(), "SUBSCRIBE"
    try:
        await pubsub.subscribe(channel)
        await _next(pubsub)
        asked = "UNSUBSCRIBE"
        await pubsub.unsubscribe(channel)
        await _next(pubsub)
    except NoPermissionError as error:
        return [(asked, _text(error))]
    finally:
        with contextlib.suppress(RedisError, OSError):
            await pubsub.aclose()
            await client.aclose()
    return []


async def _next(pubsub: Any) -> None:
    """The next thing that is heard."""
    while await pubsub.get_message(timeout=None) is None:
        pass


def is_denied(error: Exception | str) -> bool:
    """Whether a server says that this user may not."""
    return isinstance(error, NoPermissionError) or _DENIED.search(_text(error)) is not None


def _text(error: Exception | str) -> str:
    # The driver takes the word away that says what it is.
    return f"NOPERM {error}" if isinstance(error, NoPermissionError) else str(error)
