"""How long the machine lets anybody wait who asks the store for next to nothing."""

import asyncio
import threading
import time
from types import TracebackType
from typing import Self

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

_EVERY = 0.1


class Pulse:
    """Asks for a 1 ten times a second, in a thread of its own, on a connection that nothing else
    uses. Where this takes long the store or the machine is slow, whoever asks."""

    def __init__(self, url: str) -> None:
        self.worst = 0.0
        """The longest answer, in seconds."""
        self._url = url
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._beat()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(10)

    async def _beat(self) -> None:
        engine = create_async_engine(self._url, isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection:
                while not self._ended.is_set():
                    began = time.monotonic()
                    await connection.execute(text("SELECT 1"))
                    self.worst = max(self.worst, time.monotonic() - began)
                    await asyncio.sleep(_EVERY)
        finally:
            await engine.dispose()
