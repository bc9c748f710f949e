"""Which face of tasks a request speaks to, by its revision."""

from starlette.types import ASGIApp

from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.tasks.core_service import CoreTaskService
from mcp_persist_middleware.tasks.service import TaskService


def of(
    context: Context, app: ASGIApp, bare: ASGIApp, asked: Asked
) -> TaskService | CoreTaskService | None:
    """The one that a request has to do with; None for every other request.

    Args:
        bare: the application without our sessions.
    """
    service = TaskService.of(context, app, asked)
    return service or CoreTaskService.of(context, app, bare, asked)


async def again(
    context: Context, app: ASGIApp, bare: ASGIApp, asked: Asked, caller: Caller
) -> ASGIApp | None:
    """What answers a request that is run again, where that is not the application.

    Raises:
        StoreError: the store does not answer.
    """
    service = CoreTaskService.of(context, app, bare, asked)
    return await service.again(caller) if service is not None else None
