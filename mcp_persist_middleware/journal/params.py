"""The parameters of a call that the journal keeps: those alone that `journal_params` names."""

import json
from collections.abc import Sequence
from typing import Any

_MOST, _LONGEST = 1024, 256
_CUT = "…"


class AllowedParams:
    """What is allowed, of every tool and of some.

    Args:
        names: `name`, or `tool:name`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        pairs = [name.rpartition(":")[::2] for name in names]
        self._of_all = {name for tool, name in pairs if not tool}
        self._of_one: dict[str, set[str]] = {}
        for tool, name in pairs:
            if tool:
                self._of_one.setdefault(tool, set()).add(name)

    def __bool__(self) -> bool:
        return bool(self._of_all or self._of_one)

    def of(self, body: bytes, tool: str) -> bytes:
        """JSON of what may be kept of a call in this body; empty where that is nothing. A text
        that is long is cut, and what is large in all is left out from the end."""
        wanted = self._of_all | self._of_one.get(tool, set())
        arguments = _arguments(body) if wanted else {}
        kept: dict[str, Any] = {}
        for name in arguments.keys() & wanted:
            kept[name] = _short(arguments[name])
        ordered = {name: kept[name] for name in sorted(kept)}
        while ordered and len(found := _packed(ordered)) > _MOST:
            ordered.popitem()
        return found if ordered else b""


def _arguments(body: bytes) -> dict[str, Any]:
    try:
        loaded = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    match loaded:
        case {"params": {"arguments": dict(arguments)}}:
            return arguments
        case _:
            return {}


def _short(value: Any) -> Any:
    is_long = isinstance(value, str) and len(value) > _LONGEST
    return value[:_LONGEST] + _CUT if is_long else value


def _packed(params: dict[str, Any]) -> bytes:
    # All of it ASCII: whatever a client sends, half a surrogate too, is text for every store.
    return json.dumps(params, separators=(",", ":")).encode()
