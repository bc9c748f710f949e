"""From arguments, environment and defaults to values that fit together."""

import difflib
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcp_persist_middleware.errors import (
    ConfigurationError,
    InvalidSettingError,
    UnknownSettingError,
)
from mcp_persist_middleware.settings.checks import checked, parsed

if TYPE_CHECKING:
    from mcp_persist_middleware.settings.values import Settings

logger = logging.getLogger(__name__)

PREFIX = "MCP_PERSIST_"
# Of these one is given.
_STORES = ("url", "engine", "log")
# A variable of that name is somebody else's, or a level of logging.
_NOT_IN_ENVIRONMENT = ("log",)
# What was a setting once. In the environment it would be passed over, and what it promised with it.
_REMOVED = {
    "redis_durability": "it is no setting any more: with redis= an event counts as committed when "
    "Redis has it; leave this out, and redis= too where the store has to have each event first"
}
# Of this project's own tests.
_TESTS = PREFIX + "TEST_"


def merged(
    known: Mapping[str, Any], given: Mapping[str, Any], environ: Mapping[str, str]
) -> dict[str, Any]:
    """The values that are no defaults, each checked.

    Args:
        known: the fields of `Settings`, by name.
    """
    _refuse_removed(given, environ)
    for name in given:
        if name not in known:
            raise _unknown(name, known)
    values: dict[str, Any] = {}
    for name, spec in known.items():
        variable = PREFIX + name.upper()
        if name in given:
            values[name] = checked(name, given[name], spec, "argument")
        elif variable in environ and name not in _NOT_IN_ENVIRONMENT:
            values[name] = checked(name, parsed(environ[variable], spec), spec, variable)
    _warn_of_strangers(environ, known)
    return values


def _refuse_removed(given: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    for name, fix in _REMOVED.items():
        variable = PREFIX + name.upper()
        for values, key, source in ((given, name, "argument"), (environ, variable, variable)):
            if key in values:
                raise InvalidSettingError(name=name, source=source, value=values[key], expected=fix)


def is_given(name: str, given: Mapping[str, Any]) -> bool:
    """Whether a setting has a value that somebody gave it: no other default is to replace that."""
    return name in given or PREFIX + name.upper() in os.environ


def check_together(settings: "Settings", given: Mapping[str, Any]) -> None:
    """Check what one value means beside another: one store, and a lease that outlasts it.

    Args:
        given: what was given as an argument.
    """
    stores = [name for name in _STORES if getattr(settings, name) is not None]
    if not stores:
        raise ConfigurationError(
            reason='no store is named; pass url="sqlite+aiosqlite:///events.db", '
            f"or set {PREFIX}URL"
        )
    if len(stores) > 1:
        named = [
            name if name in given else f"{name} ({PREFIX}{name.upper()} in the environment)"
            for name in stores
        ]
        raise ConfigurationError(
            reason=f"{' and '.join(named)} are given together; keep one of them"
        )
    if settings.store_timeout >= settings.lease_seconds:
        raise ConfigurationError(
            reason=f"store_timeout ({settings.store_timeout:g} s) must be shorter than "
            f"lease_seconds ({settings.lease_seconds:g} s), or a store that is slow for a "
            "moment would look like a dead worker; lower the one or raise the other"
        )


def _warn_of_strangers(environ: Mapping[str, str], known: Mapping[str, Any]) -> None:
    """A variable that looks like a setting and is none: it may be misspelt, or somebody else's."""
    variables = {PREFIX + name.upper() for name in known}
    for name in environ:
        if name.startswith(PREFIX) and name not in variables and not name.startswith(_TESTS):
            close = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), known, n=1)
            hint = f" (did you mean {PREFIX}{close[0].upper()}?)" if close else ""
            logger.warning(
                "MPM-CONFIG-08: %s in the environment is no setting and is ignored%s; another "
                "package, "
                "mcp-persist, reads variables that begin with %s too",
                name,
                hint,
                PREFIX,
            )


def _unknown(name: str, known: Mapping[str, Any]) -> UnknownSettingError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return UnknownSettingError(name=name, hint=hint, known=", ".join(known))
