"""What is compared: the bare application, ours on each store, and mcp-persist on its stores."""

import base64
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.support.stores import Fixture, postgres, sqlite

_STORES = {"sqlite": sqlite, "postgres": postgres}


class Role(StrEnum):
    """Whose layer stands in front of the application."""

    BARE = "bare"
    OURS = "ours"
    PEER = "peer"


class Loop(StrEnum):
    """What a server runs on: plain uvicorn, or `uvicorn[standard]`."""

    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"

    @property
    def parser(self) -> str:
        """The HTTP parser that comes with it."""
        return "h11" if self is Loop.ASYNCIO else "httptools"


@dataclass(frozen=True, slots=True)
class Contender:
    """One column of the report: whose layer, on which store, with which settings.

    Args:
        redis: the fixture that gives the URL of the Redis in front of the store.
    """

    name: str
    role: Role
    store: str = "sqlite"
    redis: str | None = None
    settings: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def synchronous(self) -> str | None:
        """How a commit of SQLite is made, where SQLite alone makes it."""
        if self.role is Role.OURS and self.store == "sqlite" and self.redis is None:
            return str(self.settings.get("synchronous", "normal"))
        return None

    def environment(self, directory: Path, fixture: Fixture) -> dict[str, str]:
        """What names a new store to its servers."""
        directory.mkdir()
        if self.role is Role.PEER:
            urls = {"sqlite": str(directory / "peer.db")}
            url = urls.get(self.store) or fixture(f"{self.store}_url")
            return {"BENCHMARK_BACKEND": self.store, "BENCHMARK_URL": url}
        made = _STORES[self.store](directory, fixture).settings | self.settings
        if self.redis is not None:
            made["redis"] = fixture(self.redis)
        return {f"MCP_PERSIST_{name.upper()}": str(value) for name, value in made.items()}


BARE = Contender("bare", Role.BARE)

_KEY = {"encryption_keys": "bench:" + base64.b64encode(bytes(32)).decode()}
_ALL = {"compress_min_bytes": 0}

OURS = {
    contender.name: contender
    for contender in (
        Contender("sqlite", Role.OURS),
        Contender("sqlite full", Role.OURS, settings={"synchronous": "full"}),
        Contender("postgres", Role.OURS, "postgres"),
        Contender("sqlite+redis", Role.OURS, redis="redis_url"),
        Contender("postgres+redis", Role.OURS, "postgres", "redis_url"),
        Contender("journal", Role.OURS, settings={"journal": True}),
        Contender("postgres journal", Role.OURS, "postgres", settings={"journal": True}),
        Contender("gzip", Role.OURS, settings={"compression": "gzip"}),
        Contender("zstd", Role.OURS, settings={"compression": "zstd"}),
        Contender("zstd of all", Role.OURS, settings={"compression": "zstd"} | _ALL),
        Contender("encrypted", Role.OURS, settings=_KEY),
        Contender("zstd, encrypted", Role.OURS, settings={"compression": "zstd"} | _KEY),
        Contender("without tasks", Role.OURS, settings={"tasks": False}),
        Contender("all long calls", Role.OURS, settings={"hand_back": 50, "idempotency": True}),
    )
}

USUAL = ("sqlite", "sqlite full", "postgres", "sqlite+redis")
"""What a run compares that names none."""

PEERS = (
    Contender("mcp-persist sqlite", Role.PEER, "sqlite"),
    Contender("mcp-persist redis", Role.PEER, "redis"),
)
