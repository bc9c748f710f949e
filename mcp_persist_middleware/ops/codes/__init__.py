"""The list of all codes that errors and log lines of WARNING and ERROR begin with.

A code is stable: it may go, it never means something else. Nothing that serves reads this list.
"""

from collections.abc import Mapping
from typing import NamedTuple

from mcp_persist_middleware.ops.codes.serving import SERVING
from mcp_persist_middleware.ops.codes.storing import STORING

_HEAD = """# Error codes

Each error of this library, and each of its log lines of WARNING and ERROR, begins with a code that
stays the same. Search for it here, or ask the command line (extra `cli`):
`mcp-persist-middleware explain MPM-STORE-02`.

| code | cause | what to do |
|---|---|---|
"""


class Code(NamedTuple):
    """A code, why it is said, and what helps."""

    code: str
    cause: str
    fix: str


def _parsed(text: str) -> Mapping[str, Code]:
    """Paragraphs of three parts: code, cause, fix; a line that is indented goes on."""
    entries = text.strip().split("\nMPM-")
    rows = [entry.removeprefix("MPM-").split(" | ") for entry in entries]
    codes = [
        Code(f"MPM-{name.strip()}", *(" ".join(p.split()) for p in rest)) for name, *rest in rows
    ]
    return {each.code: each for each in codes}


CODES = _parsed(STORING + SERVING)
"""All, by code."""


def page() -> str:
    """The guide `errors.md`."""
    rows = (f"| `{each.code}` | {each.cause} | {each.fix} |" for each in CODES.values())
    return _HEAD + "\n".join(rows) + "\n"
