"""Text from outside in a column. PostgreSQL takes no NUL in a text, and a path may have one."""

from typing import Any

import sqlalchemy
from sqlalchemy import Dialect
from sqlalchemy.types import TypeDecorator

_ESCAPE = "\uffff"


def escape(text: str) -> str:
    """The same text without NUL; no two texts become one."""
    if "\0" in text or _ESCAPE in text:
        return text.replace(_ESCAPE, _ESCAPE + "1").replace("\0", _ESCAPE + "0")
    return text


def unescape(text: str) -> str:
    """The text that was escaped."""
    if _ESCAPE in text:
        return text.replace(_ESCAPE + "0", "\0").replace(_ESCAPE + "1", _ESCAPE)
    return text


class Text(TypeDecorator[str]):
    """A text of any length and of any characters."""

    impl = sqlalchemy.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        is_escaped = value is not None and dialect.name == "postgresql"
        return escape(value) if is_escaped and value is not None else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        is_escaped = value is not None and dialect.name == "postgresql"
        return unescape(value) if is_escaped else value
