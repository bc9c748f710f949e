"""Messages as lines: how they are told apart on a pipe, and how a part of one is replaced without
a change of any other byte. Pure."""

import json
import re
from collections.abc import Iterator, Mapping

Path = tuple[str, ...]
_decoder = json.JSONDecoder(strict=False)
_BLANK = re.compile(r"[ \t\n\r]*")


class TooLongError(Exception):
    """A line has no end within the limit."""


class Splitter:
    """Cuts what a pipe brings into lines.

    Args:
        limit: bytes of a line at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that end in this piece, without their end; empty ones are left out.

        Raises:
            TooLongError: a line is over the limit, whether it has ended or not.
        """
        *ended, rest = data.split(b"\n")
        for line in ended:
            whole = bytes(self._rest) + line if self._rest else line
            self._rest.clear()
            self._check(len(whole))
            if stripped := whole.strip():
                yield stripped
        self._rest += rest
        self._check(len(self._rest))

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise TooLongError


def line(text: str) -> bytes:
    """A message as a line. A line end can only stand between the parts of JSON, where a space
    means the same."""
    return text.replace("\r", " ").replace("\n", " ").encode("utf-8", "surrogatepass") + b"\n"


def spliced(text: str, parts: Mapping[Path, str]) -> str:
    """The JSON object in `text` with these members in the place of its own, wherever it has them;
    all else stays as it is written: numbers of any size, escapes, the order, what is twice.

    Args:
        parts: JSON, by the names that lead to it.
    """
    for start, end, value in sorted(_spans(text, _after(text, 0), (), parts), reverse=True):
        text = text[:start] + value + text[end:]
    return text


def _spans(
    text: str, at: int, here: Path, parts: Mapping[Path, str]
) -> Iterator[tuple[int, int, str]]:
    """Where in the object that begins at `at` something is replaced, and by what."""
    at = _after(text, at + 1)
    while text[at] == '"':
        name, at = _decoder.raw_decode(text, at)
        start = _after(text, _after(text, at) + 1)
        _, at = _decoder.raw_decode(text, start)
        path = (*here, name)
        if path in parts:
            yield start, at, parts[path]
        elif text[start] == "{" and any(each[: len(path)] == path for each in parts):
            yield from _spans(text, start, path, parts)
        at = _after(text, at)
        if text[at] == ",":
            at = _after(text, at + 1)


def _after(text: str, at: int) -> int:
    """Where the next part of it begins."""
    found = _BLANK.match(text, at)
    assert found is not None
    return found.end()
