"""An application whose every answer is compressed, for clients that take that."""

import zlib
from typing import Any


class Squeezed:
    """Compresses event by event, whatever the content type, the status and the size."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        taken = [v for k, v in scope.get("headers", []) if k == b"accept-encoding"]
        if b"gzip" not in b",".join(taken):
            await self._app(scope, receive, send)
            return
        packer = zlib.compressobj(wbits=31)

        async def squeezed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-encoding", b"gzip")]
            else:
                more = message.get("more_body", False)
                last = zlib.Z_SYNC_FLUSH if more else zlib.Z_FINISH
                body = packer.compress(message.get("body", b"")) + packer.flush(last)
                message = {**message, "body": body}
            await send(message)

        await self._app(scope, receive, squeezed)
