"""Durable streams for the Model Context Protocol: a stream is a log, a client is a cursor, live
is only a wake-up."""

from importlib.metadata import PackageNotFoundError, version

from mcp_persist_middleware.errors import (
    ClosedError,
    ConfigurationError,
    PersistError,
    StoreError,
)
from mcp_persist_middleware.middleware import PersistMiddleware
from mcp_persist_middleware.persistence import Persistence
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.with_persistence import with_persistence

try:
    __version__ = version("mcp-persist-middleware")
except PackageNotFoundError:  # pragma: no cover - a checkout that was not installed
    __version__ = "0.0.0"

__all__ = [
    "ClosedError",
    "ConfigurationError",
    "PersistError",
    "PersistMiddleware",
    "Persistence",
    "Settings",
    "StoreError",
    "__version__",
    "with_persistence",
]
