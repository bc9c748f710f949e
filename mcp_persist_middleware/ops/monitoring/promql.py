"""Instruments as Prometheus has them, by the rules of OpenTelemetry's exporters."""

from mcp_persist_middleware.telemetry.instrument import Alert, Instrument, InstrumentKind

_UNITS = {"s": "_seconds", "By": "_bytes"}


def metric(instrument: Instrument) -> str:
    """The name of a metric: dots are underscores, the unit follows where it is one, and what is
    counted up ends in `_total`."""
    name, unit = _plain(instrument.name), _UNITS.get(instrument.unit, "")
    if not name.endswith(unit):
        name += unit
    return name + ("_total" if instrument.kind is InstrumentKind.COUNTER else "")


def labels(instrument: Instrument) -> tuple[str, ...]:
    """Its attributes as labels."""
    return tuple(_plain(name) for name in instrument.by)


def _plain(name: str) -> str:
    return name.replace(".", "_")


def quantile(instrument: Instrument, share: float, window: str, by: str = "") -> str:
    """The value that so large a share of a histogram stays below."""
    of = f"le, {by}" if by else "le"
    rates = f"sum by ({of}) (rate({metric(instrument)}_bucket[{window}]))"
    return f"histogram_quantile({share:g}, {rates})"


def rate(instrument: Instrument, window: str, by: str = "") -> str:
    """How often a second a counter counts; of a histogram, how often something was measured."""
    name = metric(instrument) + ("_count" if instrument.kind is InstrumentKind.HISTOGRAM else "")
    return f"sum{f' by ({by})' if by else ''} (rate({name}[{window}]))"


def level(instrument: Instrument) -> str:
    """What is there now, on all workers; of times the longest."""
    return f"{'max' if instrument.unit == 's' else 'sum'} ({metric(instrument)})"


def alerted(instrument: Instrument, alert: Alert) -> str:
    """When an alert fires."""
    window = f"{alert.minutes}m"
    match instrument.kind:
        case InstrumentKind.COUNTER:
            # A counter begins with its first count, in which nothing has grown yet.
            name, above = metric(instrument), f"> {alert.above:g}"
            grown = f"sum (increase({name}[{window}])) {above}"
            return f"{grown} or sum ({name} unless {name} offset {window}) {above}"
        case InstrumentKind.HISTOGRAM:
            found = quantile(instrument, 0.99, window)
        case _:
            found = level(instrument)
    return f"{found} > {alert.above:g}"
