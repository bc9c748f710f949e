"""What else stands in a URL: libpq's parameters, and those that providers and other drivers put
there. Each is the driver's, means something that the driver says in another way, or is left out."""

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl"}
# May be missing.
_MAYBE = {"passfile", "servicefile"}
# Of the driver's own constructor; everything else that is not named here is libpq's or a setting
# of the server's.
_ARGUMENTS = ("prepared_statement_cache_size", "statement_cache_size")
_SSL_MODES = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
_OTHERS = "it is another driver's"
_SOCKET = "a connection is given up after store_timeout"
_LEFT_OUT = {
    "channel_binding": "the driver has none; sslmode=verify-full makes sure who answers",
    "gssencmode": "the driver has none; sslmode encrypts",
    "gssdelegation": "the driver has none",
    "requirepeer": "the driver does not look who owns a socket",
    "require_auth": "the driver answers what the server asks; sslmode=verify-full makes sure who "
    "asks",
    "scram_client_key": "the driver has none; give the password",
    "scram_server_key": "the driver has none; give the password",
    "hostaddr": "the host's name is looked up",
    "load_balance_hosts": "the first host that takes writes is used",
    "client_encoding": "it is UTF8 always",
    "replication": "no stream of changes is read",
    "sslcompression": "there is none",
    "sslsni": "the host's name is sent always",
    "sslcertmode": "a certificate is sent where sslcert names one",
    "sslkeylogfile": "no keys are written",
    "keepalives": _SOCKET,
    "keepalives_idle": _SOCKET,
    "keepalives_interval": _SOCKET,
    "keepalives_count": _SOCKET,
    "tcp_user_timeout": _SOCKET,
    "min_protocol_version": "the protocol is 3.0",
    "max_protocol_version": "the protocol is 3.0",
    "tty": "it is nothing",
    "pgbouncer": "a pool has to be in session mode",
    **dict.fromkeys(("connection_limit", "pool_timeout", "pool_size", "max_overflow"), _OTHERS),
    **dict.fromkeys(("schema", "currentSchema", "socket_timeout", "sslaccept"), _OTHERS),
    **dict.fromkeys(("uselibpqcompat", "supa", "workaround", "prepareThreshold"), _OTHERS),
    **dict.fromkeys(("sslfactory", "ssl_cert_reqs", "asyncpg", "async_fallback"), _OTHERS),
}


@dataclass(slots=True)
class Options:
    """What a URL's query asks for, as the driver takes it."""

    libpq: dict[str, Any]
    """What is told to the driver in a URL of its own, and the server's settings."""
    arguments: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """What the driver cannot do, with a word on what is so instead."""

    def say(self, name: str) -> None:
        """One line for all that is left out."""
        if self.left_out:
            named = "; ".join(f"{key}: {why}" for key, why in sorted(self.left_out.items()))
            logger.warning("MPM-CONFIG-12: Of the URL of %s this is left out: %s.", name, named)


def options(query: Mapping[str, Any], timeout: float) -> Options:
    """Sort a query out.

    Args:
        timeout: of a connection; `connect_timeout` may shorten it.

    Raises:
        ValueError: a value is wrong, or asks for what the driver cannot do and nobody may be
            without; the text says what to do.
    """
    given = {name: v if isinstance(v, str) else v[-1] for name, v in query.items()}
    found = Options(given, {"timeout": timeout})
    for name in _ARGUMENTS:
        if name in given:
            found.arguments[name] = _whole(name, given.pop(name))
    _tls(given, found)
    _time(given, found, timeout)
    if name := given.pop("fallback_application_name", None):
        given.setdefault("application_name", name)
    _leave_out(given, found)
    _files(given)
    return found


def _time(given: dict[str, Any], found: Options, timeout: float) -> None:
    """The sooner of two limits."""
    seconds = _whole("connect_timeout", given.pop("connect_timeout", "0"))
    if 0 < seconds < timeout:
        found.arguments["timeout"] = float(seconds)
    elif seconds > timeout:
        found.left_out["connect_timeout"] = f"store_timeout allows {timeout:g} s"


def _leave_out(given: dict[str, Any], found: Options) -> None:
    if given.get("gssencmode") == "require":
        raise ValueError("gssencmode=require cannot be had: encrypt by sslmode, and leave it out")
    for name in _LEFT_OUT.keys() & given.keys():
        # What asks for nothing is nothing to speak of.
        if given.pop(name) not in ("", "disable", "false", "0"):
            found.left_out[name] = _LEFT_OUT[name]


def _files(given: dict[str, Any]) -> None:
    for name in sorted(given.keys() & (_FILES | _MAYBE)):
        given[name] = str(Path(given[name]).expanduser())
        if name in _FILES and not Path(given[name]).is_file():
            raise ValueError(f"{name} must be a file; there is none at {given[name]}")


def _tls(given: dict[str, Any], found: Options) -> None:
    """Other words for libpq's own, and the system's authorities."""
    asked = given.pop("ssl", None)
    if given.pop("requiressl", "0") == "1":
        asked = "require"
    if asked is not None:
        given.setdefault("sslmode", asked)
    if (mode := given.get("sslmode")) is not None:
        given["sslmode"] = _SSL_MODES.get(mode, "require" if mode == "no-verify" else mode)
    if given.get("sslrootcert") == "system":
        if given.setdefault("sslmode", "verify-full") != "verify-full":
            raise ValueError("sslrootcert=system is for sslmode=verify-full only")
        del given["sslrootcert"], given["sslmode"]
        found.arguments["ssl"] = ssl.create_default_context()


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} must be a whole number") from None
