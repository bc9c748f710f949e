"""An answer that passes as it is, and what it teaches on its way."""

from starlette.types import Message

from mcp_persist_middleware.model import Place
from mcp_persist_middleware.protocol import coding, headers
from mcp_persist_middleware.protocol.jsonrpc import Call
from mcp_persist_middleware.streams.exchange_report import ExchangeReport
from mcp_persist_middleware.streams.memory import MAX_LEARNED, Memory


class PassedAnswer:
    """Looks at the body of an answer that is no event stream, part by part."""

    def __init__(
        self,
        memory: Memory,
        place: Place,
        call: Call | None,
        raw: headers.RawHeaders,
        report: ExchangeReport,
    ) -> None:
        self._memory, self._place, self._call, self._report = memory, place, call, report
        self._plain = coding.Plain(raw, MAX_LEARNED) if coding.is_compressed(raw) else None
        self._size, self._has_result = 0, False

    def learn(self, message: Message) -> None:
        """This part of the body goes to the client."""
        body = message.get("body", b"")
        size = len(body)
        if self._plain is not None:
            body = self._plain.feed(body)
        self._report.passed(body, size)
        self._size += len(body)
        self._memory.learn_body(self._place, self._call, body)
        # How long a refusal or an error is says nothing of the next result.
        self._has_result |= b'"result"' in body
        is_last = not message.get("more_body", False)
        ended = self._has_result and is_last
        self._memory.learn_size(self._place, self._call, self._size, ended=ended)
        if is_last:
            self._report.complete()
