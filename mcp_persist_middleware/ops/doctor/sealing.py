"""Whether all processes of an application seal `requestState` with one key (SDK 2.x): what one has
sealed another is given.

Run as a program this is the other process: `python -m … MODULE:APP`, with what was sealed as a list
in JSON on standard input.
"""

import asyncio
import gc
import json
import sys
from collections.abc import Iterable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from mcp_persist_middleware.ops.applications import application

_SDK, _POLICY = "mcp.server.request_state", "RequestStateSecurity"
_SECONDS = 60.0
_MOST = 500_000
# Of these there is one for all, and what they hold is nobody's.
_SHARED = (type, ModuleType, CodeType, BuiltinFunctionType, str, bytes, int, float)


def policies(app: Any) -> list[Any]:
    """How an application seals it: what policies can be reached from it, through whatever it
    holds but not through the names of its modules."""
    policy = getattr(sys.modules.get(_SDK), _POLICY, None)
    if policy is None:
        return []
    found, known, waiting = [], {id(app): app}, [app]
    while waiting and len(known) < _MOST:
        each = waiting.pop()
        if issubclass(type(each), policy):
            found.append(each)
        for other in _held_by(each):
            if id(other) not in known and not isinstance(other, _SHARED):
                known[id(other)] = other
                waiting.append(other)
    return found


def _held_by(each: Any) -> Iterable[Any]:
    if isinstance(each, FunctionType):
        return (each.__closure__ or ()) + (each.__defaults__ or ())
    return gc.get_referents(each)


async def is_shared(app: Any, name: str) -> bool | None:
    """Whether another process that has the application of this name reads what this one seals;
    None where nothing is sealed, or where that cannot be seen."""
    sealed = [each.codec.seal(b"doctor") for each in policies(app)]
    if not sealed:
        return None
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            told, _ = await child.communicate(json.dumps(sealed).encode())
    except TimeoutError:
        return None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return {b"read": True, b"unread": False}.get(told.strip())


def _is_read(policy: Any, token: str) -> bool:
    try:
        policy.codec.unseal(token)
    except Exception:
        return False
    return True


if __name__ == "__main__":
    own = policies(application(sys.argv[1]))
    is_read = all(any(_is_read(each, token) for each in own) for token in json.load(sys.stdin))
    print("read" if is_read else "unread")
