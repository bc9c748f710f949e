"""Until when somebody may read: an authorisation has an end, and a long-lived stream ends with it.

When that is, the scope of a request tells, or the `expires` setting. It is noted beside what else
is known of the reader's request, and whoever delivers to that looks there.
"""

import asyncio
import time
from collections.abc import Callable

from starlette.requests import HTTPConnection
from starlette.types import Scope

from mcp_persist_middleware import rarely
from mcp_persist_middleware.asgi import EXTENSION
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.supervision import said

logger = rarely.logger(__name__)

_MARK = "expires_at"
# The application has just let it in: its clock, or its leeway, is not ours. Nobody is to come back
# in a loop for that.
_LEEWAY = 30.0


def end_of(settings: Settings, asked: Scope) -> float | None:
    """When the authorisation of a request ends, in seconds since the Unix epoch; None when it does
    not, or nobody knows.

    Args:
        asked: the scope that the application's authentication has had.
    """
    if settings.expires is not None:
        try:
            found = settings.expires(HTTPConnection(asked))
            return None if found is None else float(found)
        except Exception as error:  # noqa: BLE001
            logger.error("MPM-APP-05: The callable of expires= raised: %s", said(error))
            return None
    token = getattr(asked.get("user"), "access_token", None)
    stated = getattr(token, "expires_at", None)
    return float(stated) if isinstance(stated, int | float) else None


def note(settings: Settings, scope: Scope, asked: Scope) -> None:
    """Whoever reads for this request may do so as long as `asked` says."""
    put(scope, end_of(settings, asked))


def put(scope: Scope, ends: float | None) -> None:
    """Whoever reads for this request may do so until then."""
    scope["extensions"][EXTENSION][_MARK] = ends


def noted(scope: Scope) -> float | None:
    """What was noted of a request; None when that was nothing."""
    found: float | None = scope.get("extensions", {}).get(EXTENSION, {}).get(_MARK)
    return found


def timer(scope: Scope, expire: Callable[[], None]) -> asyncio.TimerHandle | None:
    """Have something done when whoever reads for this request may do so no more."""
    if (ends := noted(scope)) is None:
        return None
    left = ends - time.time()
    return asyncio.get_running_loop().call_later(left if left > 0 else _LEEWAY, expire)
