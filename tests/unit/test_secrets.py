"""No part of a password is shown: in no message, no name, no representation, whatever its signs."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.applications import Starlette

from mcp_persist_middleware import Persistence, PersistMiddleware, Settings, with_persistence
from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.ops.proxy import UpstreamOptions
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.stores.postgres import engine
from mcp_persist_middleware.stores.postgres.log import PostgresLog
from mcp_persist_middleware.stores.redis.log import RedisLog

# Each part stands out, and what is between them is what a parser may stumble over.
_PARTS = ("hunter2", "Sw0rdfish", "c0rrect")
_BETWEEN = st.text("@/:?#%[]&=, \\\t\n+1aé／＠", min_size=1, max_size=3)  # noqa: RUF001
_URLS = (
    "postgresql://ann:{}@db.example/app",
    "postgresql+asyncpg://ann:{}@a:1,b:2/app?sslmode=require",
    "postgresql://ann@db.example/app?password={}",
    "postgresql://ann@db.example/app?sslpassword={}",
    "mysql://ann:{}@db.example/app",
    "sqlite://ann:{}@host/events.db",
)
_REDIS = (
    "redis://ann:{}@cache.example:6379/0",
    "rediss://:{}@cache.example",
    "redis+sentinel://ann:{}@a:1,b:2/main/0",
    "redis+sentinel://a/main?sentinel_password={}",
    "redis+cluster://ann:{}@a,b",
)


class _Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """What is logged meanwhile."""
    said = _Said()
    (logger := logging.getLogger("mcp_persist_middleware")).addHandler(said)
    try:
        yield said.lines
    finally:
        logger.removeHandler(said)


def shown(settings: dict[str, Any]) -> str:
    """All that is shown of these settings until a store is made of them."""
    with heard() as lines:
        opened, app = Persistence(**settings), Starlette()
        lines += [repr(opened), repr(PersistMiddleware(app, persistence=opened)), repr(app)]
        lines += [repr(PersistMiddleware(app, **settings)), repr(with_persistence(app, **settings))]
        try:
            loaded = Settings.load(settings, {})
            lines += [repr(loaded), str(loaded)]
            log = connect.make_log(loaded)
            lines += [log.name, repr(log)]
            if isinstance(log, RedisLog):
                lines.append(repr(log._client.target))
            if isinstance(log, PostgresLog) and log._plan is not None:
                lines.append(engine.remedy(OSError(), log._url))
                made = engine.make(log._plan, 1)
                lines += [repr(made), repr(made.sync_engine), repr(made.pool), str(made.url)]
        except ConfigurationError as error:
            lines += [str(error), repr(error.fields), *traceback.format_exception(error)[-1:]]
            inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
            while inner is not None:
                lines.append(str(inner))
                inner = inner.__cause__ or (
                    None if inner.__suppress_context__ else inner.__context__
                )
    return "\n".join(lines)


@given(st.sampled_from(_URLS), _BETWEEN, _BETWEEN)
@example(_URLS[0], "@", "/")
@example(_URLS[0], "/", "@")
@example(_URLS[0], "?", "@")
@example(_URLS[3], "@", "&")
@example(_URLS[4], "/", "@")
def test_no_part_of_a_password_in_url_is_shown(url: str, one: str, two: str) -> None:
    text = shown({"url": url.format(one.join(_PARTS[:2]) + two + _PARTS[2])})
    assert not [part for part in _PARTS if part in text]


@given(st.sampled_from(_REDIS), _BETWEEN, _BETWEEN)
@example(_REDIS[0], "#", "@")
@example(_REDIS[2], "/", "@")
@example(_REDIS[0], "?", "=")
def test_no_part_of_a_password_in_redis_is_shown(url: str, one: str, two: str) -> None:
    password = one.join(_PARTS[:2]) + two + _PARTS[2]
    text = shown({"url": "events.db", "redis": url.format(password)})
    assert not [part for part in _PARTS if part in text]


def test_a_host_that_was_forgotten_shows_nothing_of_the_password() -> None:
    for url in ("postgresql://ann:hunter2", "postgresql://ann:hunter2/app"):
        assert "hunter2" not in shown({"url": url})
    assert "hunter2" not in shown({"url": "e.db", "redis": "redis://ann:hunter2"})


def test_a_password_with_an_at_sign_is_refused_with_the_way_to_write_it() -> None:
    with pytest.raises(ConfigurationError, match="write @ as %40"):
        Settings.load({"url": "postgresql://user:p@ss/word@host/db"}, {})
    with pytest.raises(ConfigurationError, match="write @ as %40"):
        Settings.load({"url": "e.db", "redis": "redis://user:p@ss@host/0"}, {})
    for name in ("/var/lib/a@b/events.db", "sqlite:////var/a@b/events.db", "a@b.db"):
        assert Settings.load({"url": name}, {}).url == name
    # A user of Azure's, and one in the query.
    for url in ("postgresql://ann@srv:pw@host/db", "postgresql://host/db?user=ann@srv"):
        assert connect.parse_url(Settings.load({"url": url}, {}).url or "").host == "host"


def test_settings_show_no_secret_and_a_store_can_still_read_it() -> None:
    seen: list[Settings] = []

    def make(settings: Settings) -> EventLog:
        seen.append(settings)
        raise LookupError

    redis = "redis://u:hunter2@h/0"
    loaded = Settings.load({"log": partial(make), "redis": redis, "ttl": 5}, {})
    with pytest.raises(ConfigurationError):
        connect.make_log(loaded)
    assert repr(seen[0]) == "Settings(log=<partial>, redis='redis://…', ttl=5)"
    assert seen[0].redis == redis
    url = "postgresql://u:hunter2@h/db"
    for made in (Settings.load({"url": url}, {}), Settings(url=url)):
        assert "hunter2" not in f"{made} {made!r} {[made]} {(made,)}"
        assert made.url == url


def test_what_an_object_says_of_itself_names_the_settings_and_no_secret(tmp_store: str) -> None:
    given: dict[str, Any] = {"url": "postgresql://u:hunter2@h/db", "ttl": "90s", "tll": "hunter2"}
    given |= {"engine": "postgresql://u:hunter2@h/db", "principal": lambda _: "hunter2"}
    opened = Persistence(**given)
    assert "hunter2" not in repr(opened)
    assert repr(Persistence(tmp_store, ttl="90s")) == f"Persistence(url={tmp_store!r}, ttl='90s')"
    app = PersistMiddleware(Starlette(), tmp_store, tll=1)  # type: ignore[call-arg]
    assert repr(app) == f"PersistMiddleware(<Starlette>, Persistence(url={tmp_store!r}, tll=…))"
    log = connect.make_log(Settings.load({"url": tmp_store}, {}))
    assert repr(log) == f"<SqliteLog {tmp_store}>"
    assert "hunter2" not in repr(UpstreamOptions(headers=(("authorization", "hunter2"),)))
