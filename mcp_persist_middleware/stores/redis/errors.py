"""What an error of Redis says of the server, whatever the command was."""

import re
import ssl

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


class RedisAwayError(Exception):
    """Redis does not do it now: it cannot be reached, or is not fit to take writes."""


def is_unfit(error: RedisError) -> bool:
    """Whether a server says that it cannot now, whatever it was asked."""
    return isinstance(error, _UNFIT_ERRORS) or _UNFIT.search(str(error)) is not None


def distrust(error: BaseException | None) -> str:
    """Why the server's certificate is not trusted, if that is what an error comes from."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {error.verify_message}"
        error = error.__cause__ or error.__context__
    return ""
