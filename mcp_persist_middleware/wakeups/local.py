"""Wake-ups inside one event loop."""

import asyncio


class Signal:
    """Wakes all that wait; remembers nothing.

    A waiter that checks its condition and then calls `wait` without an await between them cannot
    miss a `notify`.
    """

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        # Nobody ever waits for most: no list is made for them.
        self._waiters: list[asyncio.Future[None]] | None = None

    def notify(self) -> None:
        """Wake everybody who is waiting now."""
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            _release(waiter)

    async def wait(self, timeout: float | None = None) -> None:
        """Return at the next `notify`, or after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        timer = None if timeout is None else loop.call_later(timeout, _release, waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if self._waiters is not None and waiter in self._waiters:
                self._waiters.remove(waiter)


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
