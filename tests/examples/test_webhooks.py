"""The example that sends answers to a webhook: each arrives, whoever is killed or refuses."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from tests.examples.started import started
from tests.support.processes import ROOT

CALLS, KEY = 12, b"only for this test"


class Receiver:
    """Takes every third message at the first attempt, and the others later."""

    def __init__(self) -> None:
        self.attempts: dict[str, int] = {}
        self.taken: dict[str, Any] = {}
        self.forged = 0
        self.port = 0

    def status(self, headers: Any, body: bytes) -> int:
        name = headers["webhook-id"]
        signed = b".".join((name.encode(), headers["webhook-timestamp"].encode(), body))
        expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
        if headers["webhook-signature"] != f"v1,{expected}":
            self.forged += 1
        count = self.attempts[name] = self.attempts.get(name, 0) + 1
        if len(self.attempts) % 3 and count < 2:
            return 503
        self.taken[name] = json.loads(body)
        return 204


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(receiver.status(self.headers, body))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.port = server.server_port
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def sender(directory: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "MCP_PERSIST_URL": str(directory / "events.db"),
        "WEBHOOK_CURSOR": str(directory / "cursor"),
        "WEBHOOK_SECRET": "whsec_" + base64.b64encode(KEY).decode(),
    }
    command = (sys.executable, "-m", "examples.webhooks", f"http://127.0.0.1:{port}/hook")
    with (directory / "sender.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, env=env, cwd=ROOT, stderr=log)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def call(port: int) -> None:
    async with (
        httpx2.AsyncClient(timeout=30) as http,
        streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http) as streams,
        ClientSession(*streams) as session,
    ):
        await session.initialize()
        for n in range(1, CALLS + 1):
            await session.call_tool("count", {"n": n % 3})


async def reached(receiver: Receiver, count: int) -> None:
    async with asyncio.timeout(30):
        while len(answers(receiver)) < count:
            await asyncio.sleep(0.02)


def answers(receiver: Receiver) -> list[str]:
    # A session's own stream may be gone with it, and nobody can tell whether anything was in it.
    messages = [taken["message"] for taken in receiver.taken.values() if "message" in taken]
    results = [message.get("result", {}) for message in messages]
    return [result["content"][0]["text"] for result in results if "content" in result]


async def test_every_answer_arrives_whoever_is_killed(tmp_path: Path) -> None:
    environ = {"MCP_PERSIST_URL": str(tmp_path / "events.db")}
    with receiving() as receiver:
        async with started("server_sdk.py", tmp_path, environ) as port:
            async with sender(tmp_path, receiver.port):
                async with asyncio.timeout(30):
                    while not (tmp_path / "cursor").exists():
                        await asyncio.sleep(0.02)
                calling = asyncio.create_task(call(port))
                await reached(receiver, 3)
            # It is killed; calls go on, and nobody hears of them for now.
            await calling
            async with sender(tmp_path, receiver.port):
                await reached(receiver, CALLS)
    assert sorted(answers(receiver)) == sorted(f"counted {n % 3}" for n in range(1, CALLS + 1))
    assert receiver.forged == 0
    # Of what was taken nothing was sent again but what was on its way when the sender was killed.
    assert sum(count > 2 for count in receiver.attempts.values()) <= 1
