"""Requests of the server are told apart by the generation of the session that asked.

Every session of the application counts its requests from the start. So once a session has been
brought back, the old answer to question 1 could be taken for the answer to the new question 1.
From the second generation on, ids carry the generation on the wire.
"""

import json
import re
from typing import Any

_MARK = re.compile(r"g(\d{1,9}):(.*)", re.DOTALL)

FIRST = 1
"""The generation whose ids are the application's own."""


def to_client(generation: int, data: bytes) -> bytes:
    """A message of the server, as its client gets it."""
    message = _load(data)
    if isinstance(message, list):
        return _dump([_outward(generation, part) for part in message])
    changed = _outward(generation, message)
    return data if changed is message else _dump(changed)


def _outward(generation: int, message: Any) -> Any:
    match message:
        case {"method": str(), "id": request_id}:
            return _with_token(generation, {**message, "id": _mark(generation, request_id)})
        case {"method": "notifications/cancelled", "params": {"requestId": request_id}}:
            params = {**message["params"], "requestId": _mark(generation, request_id)}
            return {**message, "params": params}
        case _:
            return message


def to_server(generation: int, body: bytes) -> bytes | None:
    """What a client posts, as the application's session of this generation gets it; None when it
    speaks to another generation alone, and so to nobody."""
    message = _load(body)
    if not message:
        return body
    if isinstance(message, list):
        parts = [part for part in (_inward(generation, each) for each in message) if part]
        return _dump(parts) if parts else None
    changed = _inward(generation, message)
    if changed is None:
        return None
    return body if changed is message else _dump(changed)


def _inward(generation: int, message: Any) -> Any:
    match message:
        case {"method": "notifications/progress", "params": {"progressToken": token}}:
            found = _unmark(generation, token)
            params = message["params"]
            return found and {**message, "params": {**params, "progressToken": found[0]}}
        case {"id": request_id, "result": _} | {"id": request_id, "error": _}:
            found = _unmark(generation, request_id)
            return found and {**message, "id": found[0]}
        case _:
            return message


def _with_token(generation: int, message: dict[str, Any]) -> dict[str, Any]:
    match message:
        case {"params": {"_meta": {"progressToken": token}}}:
            params = message["params"]
            meta = {**params["_meta"], "progressToken": _mark(generation, token)}
            return {**message, "params": {**params, "_meta": meta}}
        case _:
            return message


def _mark(generation: int, value: Any) -> str:
    return f"g{generation}:{json.dumps(value)}"


def _unmark(generation: int, value: Any) -> tuple[Any] | None:
    """What the application's own id was, if this generation gave it."""
    if generation == FIRST:
        return (value,)
    match = _MARK.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) != generation:
        return None
    try:
        return (json.loads(match[2]),)
    except ValueError:
        return None


def _load(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _dump(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()
