"""A call that may be for what an earlier one has begun."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

from starlette.types import ASGIApp, Send

from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.tasks.same_call import ToolCall


@dataclass(frozen=True, slots=True)
class JoinableCall(ABC):
    """One call of a tool, which joins the job of an earlier one that asked for the same."""

    context: Context
    app: ASGIApp
    tool: ToolCall

    @abstractmethod
    async def answer(self, client: Client, send: Send) -> bool:
        """Answer with what an earlier call has begun; false where this one is the first."""

    def on(self, app: ASGIApp, asked: Asked) -> Self:
        """The same call, as it is asked in its session."""
        return replace(self, app=app, tool=replace(self.tool, asked=asked))
