"""The client's side of a request whose body has been read: all that is left to hear is that it
has gone."""

import asyncio

from starlette.types import Message, Receive

from mcp_persist_middleware.supervision import begin_task


class Client:
    """One watcher of `receive`, however many want to know (hypercorn says it only once)."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: asyncio.Task[None] | None = None

    def watch(self) -> asyncio.Task[None]:
        """A task that is done when the client has gone."""
        if self._task is None:
            self._task = begin_task(self._wait(), "mcp-persist-client")
        return self._task

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    @property
    def rest(self) -> Receive:
        """What there is to hear behind what was read of the body. Some servers tell of a disconnect
        only once: where it is watched for, it is heard from who watches."""
        return self._receive if self._task is None else self.receive

    async def receive(self) -> Message:
        """The disconnect, when it comes."""
        if self._task is None:
            await self._wait()
        else:
            await asyncio.shield(self._task)
        return {"type": "http.disconnect"}

    def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()


async def gone() -> Message:
    """What servers say of a client that has had its answer."""
    return {"type": "http.disconnect"}


async def stay() -> Message:
    """Where the client's leaving is not heard."""
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}


async def nowhere(_: Message) -> None:
    """Where nothing is sent."""
