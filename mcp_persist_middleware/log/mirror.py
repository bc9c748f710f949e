"""The note in a store that another one is copied into it. While the note says that the copy goes
on, nobody serves the store: half of what clients hold cursors to is not there. Whoever serves it
first removes the note, and from then on nothing of the other store replaces what is written here.
"""

import json
from dataclasses import asdict, dataclass
from typing import Final, Self

from mcp_persist_middleware.errors import StoreIncompleteError

NAME: Final = "copy"
"""Of its row in the table `meta`, or of its record."""

COPIER: Final = "copy-"
"""Begins the name of who copies, and may open what is not complete."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """How far a copy has come."""

    source: str
    """The identity of the store that is copied."""
    named: str
    """Its address without secrets, for messages."""
    run: str
    """Which attempt holds the target: a later one, and a server, take it from this."""
    stream: str = ""
    """The stream up to which all is there, as hexadecimal digits."""
    sequence: int = 0
    """Of that stream, up to which event."""
    passed: bool = False
    """Whether everything was there once: what follows are the changes since."""
    complete: bool = False
    """Whether it may be served."""

    @classmethod
    def of(cls, value: bytes) -> Self:
        """From the row.

        Raises:
            ValueError: it is damaged, or of another version.
        """
        try:
            return cls(**json.loads(value))
        except TypeError as error:
            raise ValueError(str(error)) from error

    def row(self) -> bytes:
        """The value of the row."""
        return json.dumps(asdict(self)).encode()


def check(store: str, table: str, value: bytes) -> None:
    """Return when a store with this note may be served.

    Raises:
        StoreIncompleteError: a copy into it has not come to its end.
    """
    try:
        mirror = Mirror.of(value)
    except ValueError:
        raise StoreIncompleteError(url=store, source="another store", table=table) from None
    if not mirror.complete:
        raise StoreIncompleteError(url=store, source=mirror.named, table=table)
