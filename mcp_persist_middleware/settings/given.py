"""Values as they were given, and as they may be shown."""

import contextlib
from pathlib import Path
from typing import Any, Self

SECRET = ("url", "redis")
"""They may hold a password."""


class Given(str):
    """A text as it was given, which remembers by what, and in which directory a relative file name
    in it begins: a process may go elsewhere later."""

    __slots__ = ("base", "source")

    def __new__(cls, text: str, source: str = "argument") -> Self:
        made = super().__new__(cls, text)
        made.source, made.base = source, Path()
        with contextlib.suppress(OSError):
            made.base = Path.cwd()
        return made

    source: str
    base: Path


def source_of(value: object) -> str:
    """What a value was given by: `argument`, or the name of a variable."""
    return value.source if isinstance(value, Given) else "argument"


def shown(name: str, value: Any) -> str:
    """The value of a setting as it may be shown."""
    if isinstance(value, str):
        # A URL may have been given by a wrong name.
        return repr(shown_url(value))
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if name == "paths":
        return repr(tuple(map(str, value)))
    # Of itself it may show what it was made with.
    return f"<{getattr(value, '__qualname__', type(value).__qualname__)}>"


def shown_url(text: str) -> str:
    """A URL or file name as it may be shown: of a URL that can hold a secret the scheme alone."""
    scheme, separator, rest = text.partition("://")
    if not separator or (rest.startswith("/") and "?" not in rest):
        return str(text)
    return f"{scheme[:20]}://…"
