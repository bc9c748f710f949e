"""The instruments of the log, the store, the workers on it, and the proxy."""

from mcp_persist_middleware.telemetry.instrument import (
    Alert,
    Section,
    counter,
    gauge,
    histogram,
    level,
    seconds,
)

_COMMITS, _WAITS = seconds(0.0001, 10), seconds(0.001, 100)

# The log.

events = counter(
    "mcp_persist.events", "{event}", "Events committed to the log", Section.LOG, "namespace"
)
event_bytes = counter(
    "mcp_persist.event.bytes", "By", "Bytes of those events", Section.LOG, "namespace"
)
streams = level("mcp_persist.streams.open", "{stream}", "Streams being written", Section.LOG)
queue_events = gauge(
    "mcp_persist.queue.events",
    "{event}",
    "Events that wait for the store",
    Section.LOG,
    "queued_events",
)
batches = histogram(
    "mcp_persist.batch.events",
    "{event}",
    "Events in one commit",
    Section.LOG,
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000),
)
commit_seconds = histogram(
    "mcp_persist.commit.duration",
    "s",
    "A commit, all attempts",
    Section.LOG,
    buckets=_COMMITS,
    alert=Alert("CommitsSlow", 1, "The store is slow: answers wait for it", minutes=10),
)
commit_lag = gauge(
    "mcp_persist.commit.lag",
    "s",
    "How long the oldest commit under way has taken by now",
    Section.LOG,
    "commit_lag",
)
store_failures = counter(
    "mcp_persist.store.failures",
    "{failure}",
    "Operations that the store refused",
    Section.LOG,
    alert=Alert("StoreFails", 0, "The store is away, full or locked; see the lines of the log"),
)
degraded = counter(
    "mcp_persist.streams.degraded",
    "{stream}",
    "Streams that went on without the log",
    Section.LOG,
    "namespace",
    "reason",
    alert=Alert("StreamsDegraded", 0, "Calls go on and are not kept", page=True),
)
unreadable = counter(
    "mcp_persist.unreadable",
    "{row}",
    "Rows that this version cannot read, or that are damaged",
    Section.LOG,
    "what",
    alert=Alert("RowsUnreadable", 0, "A key is missing, or the store is damaged", page=True),
)

# Codecs.

codec_seconds = histogram(
    "mcp_persist.codec.duration",
    "s",
    "To compress and encrypt a batch, or to undo that for a page",
    Section.LOG,
    "operation",
    buckets=_COMMITS,
)
codec_bytes = counter(
    "mcp_persist.codec.bytes",
    "By",
    "Bytes of events before codecs (`plain`) and as they are stored (`stored`)",
    Section.LOG,
    "side",
)

# Workers.

errors = counter(
    "mcp_persist.errors",
    "{line}",
    "Warnings and errors in the log, those that it leaves out too, by their code",
    Section.WORKERS,
    "code",
)
pool_in_use = gauge(
    "mcp_persist.pool.used",
    "{connection}",
    "Connections of the store's pool that are in use",
    Section.WORKERS,
    "pool_in_use",
)
pool_size = gauge(
    "mcp_persist.pool.size",
    "{connection}",
    "Connections that the pool keeps",
    Section.WORKERS,
    "pool_size",
)
heartbeat_age = gauge(
    "mcp_persist.heartbeat.age",
    "s",
    "Since the last heartbeat that succeeded",
    Section.WORKERS,
    "heartbeat_age",
)
replication_lag = gauge(
    "mcp_persist.replication.lag",
    "s",
    "Of the slowest PostgreSQL standby, where the server shows it to this user",
    Section.WORKERS,
    "replication_lag",
    alert=Alert("ReplicationLags", 30, "A failover now would lose the last answers", minutes=10),
)
leases_lost = counter(
    "mcp_persist.leases.lost",
    "{lease}",
    "Times this worker stood still for longer than its lease",
    Section.WORKERS,
    alert=Alert("LeaseLost", 0, "A worker stood still for `lease_seconds`, or could not write"),
)
task_failures = counter(
    "mcp_persist.tasks.failed",
    "{failure}",
    "Background tasks that ended by an error",
    Section.WORKERS,
    "task",
    alert=Alert("TaskFailed", 0, "A part of ours failed and was begun again: please report it"),
)
relayed = counter(
    "mcp_persist.relayed",
    "{request}",
    "Requests put to a session's worker",
    Section.WORKERS,
    "namespace",
    "outcome",
)
relay_seconds = histogram(
    "mcp_persist.relay.duration",
    "s",
    "From a request that is put to a session's worker to its word that it runs, or its answer",
    Section.WORKERS,
    buckets=_WAITS,
)

# Retention.

purged_streams = counter(
    "mcp_persist.purged.streams",
    "{stream}",
    "Streams removed by retention",
    Section.RETENTION,
    "namespace",
)
purged_events = counter(
    "mcp_persist.purged.events",
    "{event}",
    "Events removed by retention",
    Section.RETENTION,
    "namespace",
)
bounded_streams = counter(
    "mcp_persist.bounded.streams",
    "{stream}",
    "Streams removed before their time because of a bound: count, bytes, store",
    Section.RETENTION,
    "namespace",
    "reason",
)

journal_dropped = counter(
    "mcp_persist.journal.dropped",
    "{entry}",
    "Entries of the journal that were not kept",
    Section.RETENTION,
    alert=Alert("JournalDrops", 0, "The store is away or slow; the journal lacks exchanges"),
)

# Redis.

redis_backlog = level(
    "mcp_persist.redis.backlog",
    "{event}",
    "Events that Redis has and SQL does not have yet",
    Section.REDIS,
)
redis_flush_seconds = histogram(
    "mcp_persist.redis.flush.duration",
    "s",
    "One write of such events to SQL",
    Section.REDIS,
    buckets=_COMMITS,
)
redis_switches = counter(
    "mcp_persist.redis.switches",
    "{stream}",
    "Streams that went on in the other place, sql or redis",
    Section.REDIS,
    "to",
)
redis_drained = counter(
    "mcp_persist.redis.drained.events",
    "{event}",
    "Events of dead workers brought from Redis to SQL",
    Section.REDIS,
)
redis_away = counter(
    "mcp_persist.redis.away",
    "{time}",
    "Times that Redis was found to be away",
    Section.REDIS,
    alert=Alert("RedisAway", 0, "Redis is away; the store takes everything"),
)

# The proxy.

upstream_requests = counter(
    "mcp_persist.upstream.requests",
    "{request}",
    "Requests of the proxy",
    Section.PROXY,
    "outcome",
    "upstream",
)
circuit = counter(
    "mcp_persist.upstream.circuit",
    "{change}",
    "Changes of the proxy's circuit breaker",
    Section.PROXY,
    "state",
    "upstream",
)
