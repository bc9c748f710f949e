"""What an HTTP request has to be before a child hears of it. Pure."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp_persist_middleware.ops.proxy import hosts
from mcp_persist_middleware.ops.proxy.stdio.options import StdioOptions
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.protocol.eras import MODERN
from mcp_persist_middleware.protocol.headers import RawHeaders

PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS = -32700, -32600, -32602
_HEADER_MISMATCH, _UNSUPPORTED_VERSION = -32020, -32022
# The status of an error that is the whole answer at 2026-07-28, as the official SDKs have it.
STATUS = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    -32601: 404,
    _HEADER_MISMATCH: 400,
    -32021: 400,
    _UNSUPPORTED_VERSION: 400,
}
_VERSION, _CAPABILITIES = (
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
)
_NAMES = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


class InvalidError(Exception):
    """A request that is answered with an error, and goes no further."""

    def __init__(
        self, status: int, code: int, text: str, data: Any = None, request_id: Any = None
    ) -> None:
        super().__init__(text)
        self.status = status
        error = {"code": code, "message": text} | ({} if data is None else {"data": data})
        self.body = json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode()


@dataclass(frozen=True)
class Posted:
    """A message as it was posted."""

    text: str
    message: Mapping[str, Any]

    @property
    def is_request(self) -> bool:
        """Somebody waits for an answer."""
        return "method" in self.message and "id" in self.message


def posted(body: bytes) -> Posted:
    """The one message in a body.

    Raises:
        InvalidError: it is none.
    """
    try:
        text = body.decode()
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidError(400, PARSE_ERROR, "Parse error") from None
    match message:
        case {"method": str(), "id": str() | int()} if not isinstance(message["id"], bool):
            return Posted(text, message)
        case {"method": str()} if "id" not in message:
            return Posted(text, message)
        case {"id": _, "result": _} | {"id": _, "error": _} if "method" not in message:
            return Posted(text, message)
        case _:
            what = "The body must be a single JSON-RPC request, notification or response"
            raise InvalidError(400, INVALID_REQUEST, what)


def check_caller(raw: RawHeaders, options: StdioOptions) -> None:
    """A page in a browser must not reach a server by a name that is not its own.

    Raises:
        InvalidError: it tries.
    """
    names = hosts.bare(options.allowed_hosts)
    host, origin = hosts.asked_for(raw), headers.get(raw, b"origin")
    if not {host, "*"} & names:
        raise InvalidError(421, INVALID_REQUEST, "This server is not known by that host name")
    if origin is None or {origin, "*"} & set(options.allowed_origins):
        return
    # That any host will do is no word on pages.
    if hosts.host_in(origin) not in {host, *names}:
        raise InvalidError(403, INVALID_REQUEST, "This origin is not allowed")


def check_modern(asked: Posted, raw: RawHeaders) -> None:
    """What a request at 2026-07-28 has to say of itself, and to say twice.

    Raises:
        InvalidError: it does not.
    """
    message = asked.message
    request_id, params = message["id"], message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    if not isinstance(meta, dict) or not {_VERSION, _CAPABILITIES} <= meta.keys():
        text = f"params._meta has to have {_VERSION} and {_CAPABILITIES}"
        raise InvalidError(400, INVALID_PARAMS, text, request_id=request_id)
    method, version = message["method"], meta[_VERSION]
    said = [("mcp-protocol-version", version), ("mcp-method", method)]
    if (name := _NAMES.get(method)) and isinstance(params, dict):
        said.append(("mcp-name", params.get(name)))
    for header, value in said:
        given = [_decoded(v.decode("latin-1")) for n, v in raw if n == header.encode()]
        if given != [value]:
            text = f"The header {header} is not, once, what the body says"
            raise InvalidError(400, _HEADER_MISMATCH, text, request_id=request_id)
    if version not in MODERN.versions:
        data = {"supported": list(MODERN.versions), "requested": version}
        text = "Unsupported protocol version"
        raise InvalidError(400, _UNSUPPORTED_VERSION, text, data, request_id)


def _decoded(value: str) -> str | None:
    """A header's value; what does not fit into one is sent as `=?base64?…?=`."""
    value = value.strip()
    if not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
