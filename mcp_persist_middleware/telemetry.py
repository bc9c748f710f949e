"""Every span and instrument, on opentelemetry-api alone. Attributes carry no payload, no id of a
session or a principal, and no URL."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.metrics import Counter, Meter
from opentelemetry.trace import Link, Span, SpanKind

_NAME = "mcp_persist_middleware"
try:
    VERSION = version("mcp-persist-middleware")
except PackageNotFoundError:  # pragma: no cover - a checkout that was not installed
    VERSION = "0.0.0"
_tracer = trace.get_tracer(_NAME, VERSION)
# A namespace that a callable names may be anything that a client says. So many are told apart in
# one process, those that came first; a metric for each of any number would be kept for ever.
_MOST_NAMESPACES, _OTHER = 100, "(other)"


class _Counter:
    """A counter that tells few namespaces apart."""

    _known: ClassVar[set[str]] = set()

    def __init__(self, instrument: Counter) -> None:
        self._instrument = instrument

    def add(self, amount: int, attributes: Mapping[str, str] | None = None) -> None:
        """Count so many."""
        if attributes is not None and (namespace := attributes.get("namespace")) is not None:
            attributes = {**attributes, "namespace": self._told(namespace)}
        self._instrument.add(amount, attributes)

    def _told(self, namespace: str) -> str:
        if namespace not in self._known:
            if len(self._known) >= _MOST_NAMESPACES:
                return _OTHER
            self._known.add(namespace)
        return namespace


class _Meter:
    """Makes the instruments."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.create_histogram = meter.create_histogram
        self.create_up_down_counter = meter.create_up_down_counter

    def create_counter(self, name: str, unit: str, description: str) -> _Counter:
        """A counter of these."""
        return _Counter(self._meter.create_counter(name, unit, description))


_meter = _Meter(metrics.get_meter(_NAME, VERSION))

events = _meter.create_counter("mcp_persist.events", "{event}", "Events committed to the log")
event_bytes = _meter.create_counter("mcp_persist.event.bytes", "By", "Bytes of those events")
batches = _meter.create_histogram("mcp_persist.batch.events", "{event}", "Events in one commit")
commit_seconds = _meter.create_histogram("mcp_persist.commit.duration", "s", "Time of a commit")
store_failures = _meter.create_counter(
    "mcp_persist.store.failures", "{failure}", "Operations that the store refused"
)
degraded = _meter.create_counter(
    "mcp_persist.streams.degraded", "{stream}", "Streams that went on without the log"
)
streams = _meter.create_up_down_counter(
    "mcp_persist.streams.open", "{stream}", "Streams being written"
)
readers = _meter.create_up_down_counter(
    "mcp_persist.readers", "{reader}", "Clients connected to a stream"
)
detached = _meter.create_up_down_counter(
    "mcp_persist.exchanges.detached", "{exchange}", "Exchanges that run without a reader"
)
resumes = _meter.create_counter(
    "mcp_persist.resumes", "{resume}", "Requests with a cursor, by `outcome`"
)
jobs = _meter.create_counter(
    "mcp_persist.jobs",
    "{job}",
    "Calls that are asked for later, by face and by what became of them",
)
replayed = _meter.create_counter(
    "mcp_persist.replayed.events", "{event}", "Events delivered to resumed connections"
)
replay_seconds = _meter.create_histogram(
    "mcp_persist.replay.duration", "s", "Time until a resumed connection has caught up"
)
gaps = _meter.create_counter(
    "mcp_persist.gap.events", "{event}", "Events that retention had removed before a reader came"
)
unreadable = _meter.create_counter(
    "mcp_persist.unreadable",
    "{row}",
    "Rows found that this version cannot read, or that are damaged, by `what`",
)
early_starts = _meter.create_counter(
    "mcp_persist.early_starts", "{stream}", "Streams opened before the application answered"
)
interrupted = _meter.create_counter(
    "mcp_persist.streams.interrupted", "{stream}", "Streams that ended without the app's answer"
)
reruns = _meter.create_counter(
    "mcp_persist.reruns", "{request}", "Requests run again as the `rerun` setting says"
)
leases_lost = _meter.create_counter(
    "mcp_persist.leases.lost", "{lease}", "Times this worker stood still for longer than its lease"
)
task_failures = _meter.create_counter(
    "mcp_persist.tasks.failed", "{failure}", "Background tasks that ended by an error, by `task`"
)
bare = _meter.create_counter(
    "mcp_persist.requests.bare",
    "{request}",
    "Requests that went on without this layer, by `reason`",
)
clients_cut = _meter.create_counter(
    "mcp_persist.clients.cut", "{client}", "Clients that took nothing for send_timeout"
)
rotations = _meter.create_counter(
    "mcp_persist.rotations", "{connection}", "Resumed connections ended to move the cursor on"
)
purged_streams = _meter.create_counter(
    "mcp_persist.purged.streams", "{stream}", "Streams removed by retention"
)
purged_events = _meter.create_counter(
    "mcp_persist.purged.events", "{event}", "Events removed by retention"
)
bounded_streams = _meter.create_counter(
    "mcp_persist.bounded.streams",
    "{stream}",
    "Streams removed before their time because of a bound, by `reason`: count, bytes, store",
)
sessions = _meter.create_counter(
    "mcp_persist.sessions", "{session}", "Sessions, by `event`: begun, revived, refused, deleted"
)
stale_replies = _meter.create_counter(
    "mcp_persist.stale_replies", "{message}", "Answers to a question of an earlier generation"
)
relayed = _meter.create_counter(
    "mcp_persist.relayed", "{request}", "Requests put to a session's worker, by `outcome`"
)
redis_backlog = _meter.create_up_down_counter(
    "mcp_persist.redis.backlog", "{event}", "Events that Redis has and SQL does not have yet"
)
redis_flush_seconds = _meter.create_histogram(
    "mcp_persist.redis.flush.duration", "s", "Time of one write of such events to SQL"
)
redis_switches = _meter.create_counter(
    "mcp_persist.redis.switches", "{stream}", "Streams that went on in another place, by `to`"
)
redis_drained = _meter.create_counter(
    "mcp_persist.redis.drained.events",
    "{event}",
    "Events of dead workers brought from Redis to SQL",
)
redis_away = _meter.create_counter(
    "mcp_persist.redis.away", "{time}", "Times that Redis was found to be away"
)
upstream_requests = _meter.create_counter(
    "mcp_persist.upstream.requests", "{request}", "Requests of the proxy, by `outcome`"
)
circuit = _meter.create_counter(
    "mcp_persist.upstream.circuit", "{change}", "Changes of the proxy's circuit breaker, by `state`"
)
journal_dropped = _meter.create_counter(
    "mcp_persist.journal.dropped", "{entry}", "Entries of the journal that were not kept"
)


def traceparent() -> str:
    """The current trace context, to be kept with a stream; empty without one."""
    if not trace.get_current_span().get_span_context().is_valid:
        return ""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent", "")


@contextmanager
def continued(carrier: Mapping[str, str]) -> Iterator[None]:
    """The trace of a request that came from another worker."""
    token = context.attach(propagate.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def replay_span(trace_of_stream: str) -> Iterator[Span]:
    """The span of a resume, linked to the request that made the stream."""
    known = propagate.extract({"traceparent": trace_of_stream}) if trace_of_stream else None
    origin = trace.get_current_span(known).get_span_context() if known is not None else None
    links = [Link(origin)] if origin is not None and origin.is_valid else []
    with _tracer.start_as_current_span(
        "mcp_persist.replay", kind=SpanKind.SERVER, links=links
    ) as span:
        yield span
