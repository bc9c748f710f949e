"""Workers whose sessions have a stream of their own, which is one, and keeps nothing."""

import json
import os
import sys
from pathlib import Path

from mcp_persist_middleware import PersistMiddleware
from tests.multiworker.stateful_app import Witness
from tests.support.processes import ServerProcess
from tests.support.stateful import Message, Receive, Send, State, _event, _json
from tests.support.stores import Store


class Talking(Witness):
    """`Witness`, and a session's GET is its stream; a second one gets 409. The tool `say` writes
    `texts` to it, and a question where a text is null; without a stream they are lost."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: dict[str, Send] = {}
        self.questions = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {k.decode(): v.decode() for k, v in scope.get("headers", [])}
        session = headers.get("mcp-session-id", "")
        if scope["type"] != "http" or scope["method"] != "GET" or session not in self.sessions:
            await super().__call__(scope, receive, send)
        elif session in self.streams:
            await _json(send, 409, {"error": "one stream for each session"})
        else:
            self.streams[session] = send
            print("listening", file=sys.stderr, flush=True)
            head = [(b"content-type", b"text/event-stream")]
            try:
                await send({"type": "http.response.start", "status": 200, "headers": head})
                await receive()
                await receive()
            finally:
                del self.streams[session]

    async def _call(self, state: State, message: Message, scope: Message, send: Send) -> None:
        if message["params"]["name"] != "say":
            await super()._call(state, message, scope, send)
            return
        headers = dict(scope["headers"])
        stream = self.streams.get(headers[b"mcp-session-id"].decode())
        for text in message["params"]["arguments"]["texts"] if stream is not None else ():
            assert stream is not None
            if text is None:
                self.questions += 1
                await _event(stream, {"id": self.questions, "method": "elicitation/create"})
            else:
                await _event(stream, {"method": "notifications/message", "params": {"data": text}})
        await _json(send, 200, {"jsonrpc": "2.0", "id": message["id"], "result": {"value": 0}})


def app() -> PersistMiddleware:
    """One worker's application."""
    given = json.loads(os.environ.get("TEST_SETTINGS", "{}"))
    return PersistMiddleware(Talking(), **given)


def listener(directory: Path, name: str, store: Store) -> ServerProcess:
    """One worker, not started."""
    # Where no lock tells of a death its lease does.
    quick = {"resume_rotate": None, "lease_seconds": 5, "store_timeout": 2}
    environ = {"TEST_SETTINGS": json.dumps({**quick, **store.settings})}
    module = "tests.multiworker.listening_app:app()"
    return ServerProcess(module, directory / f"{name}.log", environ=environ)
