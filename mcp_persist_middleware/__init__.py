"""Durable streams for the Model Context Protocol: a stream is a log, a client is a cursor, live
is only a wake-up."""

from mcp_persist_middleware.errors import ClosedError, ConfigurationError, PersistError, StoreError
from mcp_persist_middleware.health import Health
from mcp_persist_middleware.middleware import PersistMiddleware
from mcp_persist_middleware.persistence import Persistence
from mcp_persist_middleware.settings import Settings, SettingsArguments
from mcp_persist_middleware.telemetry import VERSION
from mcp_persist_middleware.with_persistence import with_persistence

__version__ = VERSION

__all__ = [
    "ClosedError",
    "ConfigurationError",
    "Health",
    "PersistError",
    "PersistMiddleware",
    "Persistence",
    "Settings",
    "SettingsArguments",
    "StoreError",
    "__version__",
    "with_persistence",
]
