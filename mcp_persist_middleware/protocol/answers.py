"""What an answer says of how its request went, as far as one can tell without its meaning."""

import json
import re
from typing import Any

from mcp_persist_middleware.model import ExchangeOutcome

# More of an answer (bytes) is not parsed to know whether it has failed.
MOST_PARSED = 256 * 1024
TOOL_ERROR = "tool_error"

_IS_ERROR, _ERROR = b'"isError"', b'"error"'
_TRUE = re.compile(rb"\s*:\s*true\b")
# How the SDKs begin an error; its code comes first there.
_ERROR_FIRST = re.compile(
    rb'\s*\{(?:\s*"(?:jsonrpc|id)"\s*:\s*(?:"(?:[^"\\]|\\.)*"|[^",\s]+)\s*,)*\s*"error"'
)
_CODE = re.compile(rb'\s*:\s*\{\s*"code"\s*:\s*(-?\d{1,10})')
# What SDKs answer to a request that its client has cancelled: LSP's code; before that, this text.
_CANCELLED, _CANCELLED_TEXT = -32800, "Request cancelled"

AnswerOutcome = tuple[ExchangeOutcome, str]
"""How it went, and its `error.type`, empty where nothing failed."""
OK: AnswerOutcome = (ExchangeOutcome.OK, "")


def judged(message: bytes) -> AnswerOutcome:
    """What a JSON-RPC response, or a batch of them, tells. Of one that is large no more than its
    beginning is looked at closely."""
    if not (_ERROR in message or _says_error(message)):
        return OK
    if len(message) > MOST_PARSED:
        return _judged_large(message)
    try:
        loaded = json.loads(message)
    except (ValueError, RecursionError):
        return OK
    for response in loaded if isinstance(loaded, list) else [loaded]:
        if (verdict := _judged(response)) != OK:
            return verdict
    return OK


def _says_error(message: bytes) -> bool:
    at = message.find(_IS_ERROR)
    while at >= 0:
        if _TRUE.match(message, at + len(_IS_ERROR)):
            return True
        at = message.find(_IS_ERROR, at + 1)
    return False


def _judged(response: Any) -> AnswerOutcome:
    match response:
        case {"error": {"code": int(code), **rest}}:
            cancelled = code == _CANCELLED or (not code and rest.get("message") == _CANCELLED_TEXT)
            outcome = ExchangeOutcome.CANCELLED if cancelled else ExchangeOutcome.ERROR
            return outcome, str(code)
        case {"error": dict()}:
            return ExchangeOutcome.ERROR, "_OTHER"
        case {"result": {"isError": True}}:
            return ExchangeOutcome.TOOL_ERROR, TOOL_ERROR
        case _:
            return OK


def _judged_large(message: bytes) -> AnswerOutcome:
    if error := _ERROR_FIRST.match(message):
        code = _CODE.match(message, error.end())
        return ExchangeOutcome.ERROR, code[1].decode() if code else "_OTHER"
    return (ExchangeOutcome.TOOL_ERROR, TOOL_ERROR) if _says_error(message) else OK
