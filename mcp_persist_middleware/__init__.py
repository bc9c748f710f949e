"""Durable streams for the Model Context Protocol: a stream is a log, a client is a cursor, live
is only a wake-up.

The way of a request: `middleware` guards and classifies, `dispatch` asks `relay/route` whose it is,
`sessions/layer` has the application answer, `streams/pump` and `recorder` write its events to the
log (`log/live`, `log/writer`, a store of `stores/`), and `streams/deliver` reads them to the client
from a `log/cursor`, woken by `wakeups/`. What is above imports what is below and never the reverse.

Where to change what:

- a setting: settings/values.py, settings/arguments.py, its use, examples/guides/settings.md
- a metric: telemetry/serving.py, telemetry/storing.py, its use; how it is shown: ops/monitoring/
- what is told of an exchange: streams/exchange_report.py, telemetry/exchanges.py
- how a cursor is parsed: protocol/event_id.py
- a protocol revision: protocol/eras.py
- what a listen hears of on which worker: streams/hints/board.py, protocol/hints.py
- priming: streams/render.py, protocol/sse.py, protocol/eras.py
- where and how a reader reads: streams/read_point.py, streams/deliver.py, log/cursor.py
- how soon a client is asked back: streams/pace.py
- until when somebody may read: streams/expiry.py
- what runs beside requests, and who ends it: worker.py, supervision.py
- how long and how much is kept: maintenance/retention.py, maintenance/bounds.py, settings/values.py
- what `Persistence.subscribe` gives, and when: log/feed/feed.py, log/feed/looking.py; its cursor:
  log/feed/positions.py
- what is erased when somebody is forgotten: erasure.py
- what goes to a store together: log/commits.py, log/pacing.py (events); grouped.py (steps of
  relayed requests)
- a transport of wake-ups: wakeups/base.py, a file beside it, and the store that owns it
- what the journal keeps: log/journal.py, journal/writer.py, stores/sql/journal.py; of whom it
  hears: streams/exchange_report.py
- a codec: log/codecs/chain.py, a file beside it
- a table or a column: stores/sql/migrations/__init__.py, stores/sql/schema.py
- a database: stores/connect.py, stores/sql/log.py, a folder beside stores/sqlite/log.py
- what is answered when a session is elsewhere: relay/route.py, relay/failures.py
- what comes with a wake-up: wakeups/payloads.py (PostgreSQL), stores/redis/messages.py,
  wakeups/messages.py (Redis)
- an error or a warning: errors.py, ops/codes/storing.py, ops/codes/serving.py
- an error answer: asgi/responses.py
- where jobs are kept: log/jobs.py, stores/sql/jobs.py, log/record_jobs.py
- what becomes of a call that takes long: tasks/offer.py, tasks/jobs.py, streams/handoff.py
- what a client may ask about a task: tasks/service.py, tasks/extension.py; how it is shown one:
  tasks/shown.py
- a server on pipes: ops/proxy/stdio/upstream.py, ops/proxy/stdio/routes.py (whose a message is)
- a page for operators: health.py
- a command: a file in ops/commands/, ops/command.py; what it asks a store:
  stores/sql/inspection.py
- what `doctor` looks at: ops/doctor/store.py, ops/doctor/application.py; what it asks a server:
  ops/endpoint/asker.py
- what `bench` measures: ops/bench/measures.py
- which upstream a request goes to: ops/proxy/replicas.py, ops/proxy/upstream.py
- how a store is copied: ops/copy/copying.py, ops/copy/sql.py; the lines of an export:
  ops/transfer/lines.py
"""

from mcp_persist_middleware.erasure import Forgotten
from mcp_persist_middleware.errors import (
    ClosedError,
    ConfigurationError,
    FeedError,
    PersistError,
    StoreError,
    UnsupportedError,
)
from mcp_persist_middleware.health import Health
from mcp_persist_middleware.log.feed.feed import Feed
from mcp_persist_middleware.log.feed.items import FeedEvent, FeedGap, GapReason
from mcp_persist_middleware.middleware import PersistMiddleware
from mcp_persist_middleware.persistence import Persistence
from mcp_persist_middleware.settings import Settings, SettingsArguments
from mcp_persist_middleware.telemetry import VERSION
from mcp_persist_middleware.with_persistence import with_persistence

__version__ = VERSION

__all__ = [
    "ClosedError",
    "ConfigurationError",
    "Feed",
    "FeedError",
    "FeedEvent",
    "FeedGap",
    "Forgotten",
    "GapReason",
    "Health",
    "PersistError",
    "PersistMiddleware",
    "Persistence",
    "Settings",
    "SettingsArguments",
    "StoreError",
    "UnsupportedError",
    "__version__",
    "with_persistence",
]
