"""Copies one store into another: between SQLite, PostgreSQL and stores of others, with a server on
the old one until the switch.

Of each table:

- streams and events: all that have not expired, with their ids, epochs and numbers, so that what a
  client holds as `Last-Event-ID` is good for the new store too. Payloads are written as the
  settings of the new one say.
- sessions: all that have not expired, deleted ones included: a deleted session never comes back.
- jobs: all that have not expired: who asks in the new store, by an id or a key, gets what the call
  has answered.
- the journal: all that the old store still has of it.
- of the store itself: the key of its hashes, by which callers are known.
- not: workers, their relayed requests and their notes about readers. They belong to processes that
  end with the switch; what these leave open, whoever starts on the new store ends or goes on with,
  as after any restart.
"""

from mcp_persist_middleware.ops.copy.command import Copied, compare, copy
from mcp_persist_middleware.ops.copy.comparison import Comparison
from mcp_persist_middleware.ops.copy.copying import Progress

__all__ = ["Comparison", "Copied", "Progress", "compare", "copy"]
