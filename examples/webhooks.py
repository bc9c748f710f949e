"""Sends the answer of each call to a webhook, once it is committed, whichever worker ran it.

$ python -m examples.webhooks http://127.0.0.1:9000/hook

It is a process of its own beside the servers, with their `MCP_PERSIST_*` settings (and
`MCP_PERSIST_ENCRYPTION_KEYS`, where they have some). Its cursor is in a file: killed and started
again it goes on where it was. The one answer that was on its way then is sent again, with the same
`webhook-id`, by which the receiver knows it. Messages are signed as https://www.standardwebhooks.com
says.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import sys
import time
import urllib.request
from pathlib import Path

from mcp_persist_middleware import FeedEvent, FeedGap, Persistence
from mcp_persist_middleware.store import EventKind

SECRET = os.environ.get("WEBHOOK_SECRET", "whsec_" + base64.b64encode(b"only for a try").decode())
CURSOR = Path(os.environ.get("WEBHOOK_CURSOR", "webhooks.cursor"))
ATTEMPT_SECONDS, LAST_PAUSE = 10.0, 60.0


def signed(name: str, body: bytes) -> dict[str, str]:
    """The headers of a message."""
    at = str(int(time.time()))
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signature = hmac.digest(key, b".".join((name.encode(), at.encode(), body)), hashlib.sha256)
    return {
        "content-type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": at,
        "webhook-signature": "v1," + base64.b64encode(signature).decode(),
    }


def post(url: str, name: str, body: bytes) -> None:
    """One attempt; raises OSError where it is not answered with 2xx."""
    request = urllib.request.Request(url, body, signed(name, body))
    with urllib.request.urlopen(request, timeout=ATTEMPT_SECONDS):
        pass


async def deliver(url: str, name: str, content: object) -> None:
    """Try until the receiver has it: what comes after it waits in the store."""
    body, pause = json.dumps(content).encode(), 0.1
    while True:
        try:
            return await asyncio.to_thread(post, url, name, body)
        except OSError as error:
            print(f"{name} is not taken: {error}", file=sys.stderr)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)


def keep(cursor: str) -> None:
    """Replace the file as a whole: half a cursor is none."""
    new = CURSOR.with_suffix(".new")
    with new.open("w") as file:
        file.write(cursor)
        file.flush()
        os.fsync(file.fileno())
    new.replace(CURSOR)


async def main(url: str, after: str) -> None:
    """Follow all calls behind a cursor."""
    persistence = Persistence(url=os.environ.get("MCP_PERSIST_URL", "events.db"))
    async with persistence, persistence.subscribe(after=after) as feed:
        # Before the first event comes: what is committed from now on is not missed by a crash.
        keep(feed.cursor)
        async for item in feed:
            match item:
                case FeedEvent(kind=EventKind.RESPONSE):
                    content = {"session": item.session, "message": item.message}
                    await deliver(url, f"{item.stream}-{item.sequence}", content)
                case FeedGap(stream=str()):
                    name = f"{item.stream}-{item.after + 1}-gap"
                    await deliver(url, name, {"stream": item.stream, "missing": item.missing})
            keep(item.cursor)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], CURSOR.read_text() if CURSOR.exists() else "now"))
