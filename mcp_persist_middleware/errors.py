"""Every error this library raises. The docstring of a class is its message, and `code` comes before
it: what `explain CODE` and the guide `errors.md` say more of."""

from typing import ClassVar


class PersistError(Exception):
    """The persistence layer could not do what it was asked to do."""

    code: ClassVar[str] = "MPM-CORE-01"

    def __init__(self, **fields: object) -> None:
        template = " ".join((type(self).__doc__ or "").split())
        shown = {k: v.rstrip(".") if isinstance(v, str) else v for k, v in fields.items()}
        super().__init__(f"{self.code}: {template.format(**shown)}")
        self.fields = fields


class ConfigurationError(PersistError):
    """The configuration is wrong: {reason}."""

    code = "MPM-CONFIG-01"


class UnknownSettingError(ConfigurationError):
    """Unknown setting {name!r}{hint}. The known settings are: {known}."""

    code = "MPM-CONFIG-02"


class InvalidSettingError(ConfigurationError):
    """Setting {name!r} ({source}) is {value!r}: {expected}."""

    code = "MPM-CONFIG-03"


class MissingDriverError(ConfigurationError):
    """The store {url} needs the driver {driver!r}, which is not installed: install the extra
    "mcp-persist-middleware[{extra}]"."""

    code = "MPM-CONFIG-04"


class MissingPackageError(ConfigurationError):
    """Setting {name!r} needs the package {package!r}, which is not installed: install the extra
    "mcp-persist-middleware[{extra}]"."""

    code = "MPM-CONFIG-05"


class NotAsgiError(ConfigurationError):
    """PersistMiddleware is ASGI middleware, and was called with an object of type {given}, as a
    server calls what its add_middleware() is given: run with_persistence(server, url) instead, or
    have FastMCP's run() or http_app() add it, with Starlette's Middleware:
    middleware=[Middleware(PersistMiddleware, url=...)]."""

    code = "MPM-CONFIG-14"


class StoreError(PersistError):
    """The store {url} failed: {reason}."""

    code = "MPM-STORE-01"


class StoreUnavailableError(StoreError):
    """The store {url} cannot be opened: {reason}. {fix}."""

    code = "MPM-STORE-02"


class UnsupportedError(StoreError):
    """The store {url} cannot do this: {kind} does not implement {method!r}, see
    mcp_persist_middleware.store."""

    code = "MPM-STORE-17"


class SchemaVersionError(StoreError):
    """The store {url} has schema {found}, and this version, {own}, knows {known} and may not go on
    beside it: install mcp-persist-middleware {package} or newer on this worker, or point it at
    another store."""

    code = "MPM-STORE-03"


class SchemaInUseError(StoreError):
    """The store {url} needs schema {number}, beside which older workers may not go on, and {count}
    of them are still on it: stop them, and start this one again."""

    code = "MPM-STORE-04"


class SchemaRightsError(StoreError):
    """The store {url} has schema {found} and needs {newest}, and its user may not change tables.
    Let somebody who may run this: {plan} Or let the tables' owner open the store once."""

    code = "MPM-STORE-05"


class StoreIncompleteError(StoreError):
    """The store {url} is not served: {source} is being copied into it, and not all is there. Let
    the copy come to its end (the same command goes on where it stopped); to serve what is there,
    delete the row 'copy' of the table {table}."""

    code = "MPM-STORE-06"


class FeedError(PersistError):
    """Nothing can be followed: {reason}."""

    code = "MPM-FEED-01"


class CopyError(PersistError):
    """Nothing is copied: {reason}."""

    code = "MPM-COPY-01"


class UnreadableRowError(StoreError):
    """The store {url} has a {what} that cannot be read here: {reason}."""

    code = "MPM-STORE-07"


class ClosedError(PersistError):
    """The persistence object is closed on this event loop; start it again, or open a new one."""

    code = "MPM-CORE-02"


class SwitchedOffError(ClosedError):
    """Persistence is switched off (enabled=False, or MCP_PERSIST_ENABLED=0); nothing is opened."""

    code = "MPM-CONFIG-07"


class NoEventLoopError(PersistError):
    """The store needs an asyncio event loop, and this server runs another kind (trio, for one): let
    it run asyncio (hypercorn: "--worker-class asyncio", or "uvloop")."""

    code = "MPM-CONFIG-06"


class LeaseLostError(PersistError):
    """This worker has lost its lease; the request was not run."""

    code = "MPM-WORKER-01"


class TooManyWaitError(PersistError):
    """Too many requests wait for streams that are not known yet; this one is to come again."""

    code = "MPM-STREAM-01"


class EventTooLargeError(PersistError):
    """An event of more than {limit} bytes was sent on one stream; raise max_event_bytes to
    allow it."""

    code = "MPM-STREAM-02"


class SessionElsewhereError(PersistError):
    """The session is at home on another worker now."""

    code = "MPM-SESSION-01"
