"""What an error of Redis says of the server, whatever the command was."""

import re
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)

# What a server says of itself, not of the command: out of memory, a replica, loading, no disk.
# The driver has classes for some of it, and Redis 6 wraps what a script met in a text of its own.
_UNFIT_ERRORS = (ClusterDownError, MasterDownError, OutOfMemoryError, ReadOnlyError)
_UNFIT = re.compile(r"(^|-)(OOM|READONLY|LOADING|MISCONF|NOREPLICAS|CLUSTERDOWN|MASTERDOWN)\b")

_OLDEST = (6, 2)
_FIX = (
    "Set maxmemory-policy to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
)


class RedisAwayError(Exception):
    """Redis does not do it now: it cannot be reached, or is not fit to take writes."""


def is_unfit(error: RedisError) -> bool:
    """Whether a server says that it cannot now, whatever it was asked."""
    return isinstance(error, _UNFIT_ERRORS) or _UNFIT.search(str(error)) is not None


def refusals(replies: Iterable[Any]) -> Iterator[RedisError]:
    """What was refused of a pipeline, by itself or within a function."""
    for reply in replies:
        if isinstance(reply, RedisError):
            yield reply
        elif isinstance(reply, list):
            yield from [each for each in reply if isinstance(each, RedisError)]


def unsuited(server: dict[str, Any], memory: dict[str, Any]) -> tuple[str, str] | None:
    """Why a server is none for events, and the fix, from two sections of its `INFO`."""
    version = str(server.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < _OLDEST:
        return f"it is version {version}", "Redis 6.2 or newer is needed"
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        return (
            f"its maxmemory-policy is {policy!r}, so it may drop events that SQL does not have",
            _FIX,
        )
    return None


def distrust(error: BaseException | None) -> str:
    """Why the server's certificate is not trusted, if that is what an error comes from."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {error.verify_message}"
        error = error.__cause__ or error.__context__
    return ""
