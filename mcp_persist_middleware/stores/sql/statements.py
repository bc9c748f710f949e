"""Statements as they are written down: each once, by its name."""

import inspect
from typing import overload

from mcp_persist_middleware.model import EventKind, RelayState, StreamKind, StreamState
from mcp_persist_middleware.stores.sql.schema import Tables, quoted


class Statements:
    """The statements of one dialect over the tables of one store."""

    def __init__(self, tables: Tables) -> None:
        self.words: dict[str, object] = {
            member.name: int(member)
            for kind in (StreamState, EventKind, RelayState)
            for member in kind
        }
        self.words["GET"] = f"'{StreamKind.GET}'"
        for name in ("meta", "stream", "event", "session", "inbox", "journal"):
            table = getattr(tables, name)
            self.words[name] = quoted(table)
            self.words[f"{name}_columns"] = ", ".join(column.name for column in table.columns)


class Sql:
    """The text of a statement. What stands in braces is a table (`{stream}`), all of its columns
    (`{stream_columns}`), or the number of a state or kind (`{OPEN}`, `{NOISE}`).

    It is put together where it is first asked for.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._name = ""

    def __set_name__(self, owner: type[Statements], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, statements: None, owner: type[Statements]) -> "Sql": ...
    @overload
    def __get__(self, statements: Statements, owner: type[Statements]) -> str: ...
    def __get__(self, statements: Statements | None, owner: type[Statements]) -> "str | Sql":
        if statements is None:
            return self
        whole = inspect.cleandoc(self._text.format_map(statements.words))
        # Found there from now on, and not asked for here again.
        statements.__dict__[self._name] = whole
        return whole
