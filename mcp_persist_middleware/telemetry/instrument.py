"""How an instrument is made: what is said of it for the docs, the dashboard and the alerts stands
where it is made, and nowhere else."""

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from mcp_persist_middleware.telemetry.bounded import BoundedValues

NAME = "mcp_persist_middleware"
try:
    VERSION = version("mcp-persist-middleware")
except PackageNotFoundError:  # pragma: no cover - a checkout that was not installed
    VERSION = "0.0.0"

_meter = metrics.get_meter(NAME, VERSION)

BOUNDED: dict[str, BoundedValues] = {}
"""What is told apart of the attributes whose values are not ours, by their name."""


class InstrumentKind(StrEnum):
    """OpenTelemetry's kinds of instruments."""

    COUNTER = "counter"
    UP_DOWN_COUNTER = "up-down counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


class Section(StrEnum):
    """A row of the dashboard."""

    CALLS = "Calls"
    SESSIONS = "Sessions"
    READERS = "Readers and resumes"
    LOG = "The log"
    WORKERS = "Workers"
    RETENTION = "Retention"
    REDIS = "Redis"
    PROXY = "The proxy"


@dataclass(frozen=True, slots=True)
class Alert:
    """When somebody is to be woken for an instrument."""

    name: str
    above: float
    """More than this: of a counter, growth within `minutes`; of a histogram, its 99th percentile;
    of a gauge, its value all the time."""
    means: str
    """What has happened, and what to look at."""
    minutes: int = 5
    page: bool = False
    """Whether it cannot wait until morning."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """All that is said of an instrument."""

    name: str
    kind: InstrumentKind
    unit: str
    description: str
    section: Section
    by: tuple[str, ...] = ()
    """Its attributes."""
    buckets: tuple[float, ...] = ()
    alert: Alert | None = None
    read_from: str = ""
    """Of a gauge, which of the numbers that are `watched` it shows."""


INSTRUMENTS: list[Instrument] = []
"""All, in the order of the docs."""


def _bounded(attributes: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if attributes is None:
        return None
    return {
        name: bound.told(value) if (bound := BOUNDED.get(name)) is not None else value
        for name, value in attributes.items()
    }


class Counted:
    """What is counted up, or up and down."""

    def __init__(self, said: Instrument) -> None:
        INSTRUMENTS.append(said)
        self.said = said
        up = said.kind is InstrumentKind.COUNTER
        make: Any = _meter.create_counter if up else _meter.create_up_down_counter
        self._instrument = make(said.name, said.unit, said.description)

    def add(self, amount: int, attributes: Mapping[str, str] | None = None) -> None:
        """Count so many."""
        self._instrument.add(amount, _bounded(attributes))


class Measured:
    """What has a distribution."""

    def __init__(self, said: Instrument) -> None:
        INSTRUMENTS.append(said)
        self.said = said
        self._instrument = _meter.create_histogram(
            said.name,
            said.unit,
            said.description,
            explicit_bucket_boundaries_advisory=said.buckets or None,
        )

    def record(self, value: float, attributes: Mapping[str, str] | None = None) -> None:
        """It was so much."""
        self._instrument.record(value, _bounded(attributes))

    def record_told(self, value: float, attributes: Mapping[str, str]) -> None:
        """The same, with attributes that are bounded already."""
        self._instrument.record(value, attributes)


class Watched(Protocol):
    """Whoever has numbers to show whenever they are asked for, in any thread."""

    def numbers(self) -> Mapping[str, float | None]:
        """What is known now, by name; None is what is not."""


_watched: "weakref.WeakSet[Watched]" = weakref.WeakSet()
_ATTEMPTS = 3


def watch(each: Watched) -> None:
    """Show its numbers as long as it lives."""
    _watched.add(each)


class Observed:
    """What is read when somebody looks: of several in one process the sum, of times the longest."""

    def __init__(self, said: Instrument) -> None:
        INSTRUMENTS.append(said)
        self.said = said
        _meter.create_observable_gauge(said.name, [self._look], said.unit, said.description)

    def _look(self, _: CallbackOptions) -> Iterable[Observation]:
        found = [value for each in list(_watched) if (value := self._of(each)) is not None]
        if found:
            yield Observation(max(found) if self.said.unit == "s" else sum(found))

    def _of(self, each: Watched) -> float | None:
        for _ in range(_ATTEMPTS):
            try:
                return each.numbers().get(self.said.read_from)
            except RuntimeError:
                # What it counts has changed meanwhile, in its own thread.
                continue
        return None


def seconds(least: float, most: float) -> tuple[float, ...]:
    """Bounds of buckets, three in each power of ten."""
    steps = (1.0, 2.5, 5.0)
    bounds = [step * 10.0**power for power in range(-5, 6) for step in steps]
    return tuple(bound for bound in bounds if least <= bound <= most)


def counter(
    name: str, unit: str, text: str, section: Section, *by: str, alert: Alert | None = None
) -> Counted:
    """What is counted up."""
    return Counted(Instrument(name, InstrumentKind.COUNTER, unit, text, section, by, alert=alert))


def level(name: str, unit: str, text: str, section: Section) -> Counted:
    """What is counted up and down."""
    return Counted(Instrument(name, InstrumentKind.UP_DOWN_COUNTER, unit, text, section))


def histogram(
    name: str,
    unit: str,
    text: str,
    section: Section,
    *by: str,
    buckets: tuple[float, ...],
    alert: Alert | None = None,
) -> Measured:
    """What has a distribution; `buckets` are its upper bounds."""
    said = Instrument(name, InstrumentKind.HISTOGRAM, unit, text, section, by, buckets, alert)
    return Measured(said)


def gauge(
    name: str, unit: str, text: str, section: Section, number: str, alert: Alert | None = None
) -> Observed:
    """What is read when somebody looks; `number` is its name among those that are `watched`."""
    said = Instrument(
        name, InstrumentKind.GAUGE, unit, text, section, alert=alert, read_from=number
    )
    return Observed(said)
