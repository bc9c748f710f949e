"""Spans and metrics as pictures (SVG)."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from mcp_persist_middleware.telemetry import INSTRUMENTS
from mcp_persist_middleware.telemetry.instrument import Instrument, InstrumentKind, Section

_COLORS = ("#5b6770", "#2f6fb3", "#c4622d", "#3b8c5a", "#8a5bb0", "#b0903b")
_STYLE = "font-family='system-ui,sans-serif' font-size='11'"
# A trace.
_LEFT, _WIDTH, _LINE = 300, 880, 24
# A dashboard.
_ACROSS, _PANEL, _HIGH = 3, 300, 150
_STEP = 1.0

Lines = dict[str, list[Any]]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def trace_picture(processes: Lines) -> str:
    """The one trace that begins at a client: who ran what when, and what is linked to what."""
    spans = [{**span, "process": name} for name, found in processes.items() for span in found]
    (first,) = [span for span in spans if span["process"] == "client"]
    trace_id = first["context"]["trace_id"]
    spans = [span for span in spans if span["context"]["trace_id"] == trace_id]
    spans.sort(key=lambda span: (span["start_time"], -len(span["links"])))
    begin = min(_seconds(span["start_time"]) for span in spans)
    end = max(_seconds(span["end_time"]) for span in spans)
    scale = (_WIDTH - _LEFT - 20) / (end - begin)
    names = list(processes)
    places = {span["context"]["span_id"]: n for n, span in enumerate(spans)}
    parts: list[str] = []
    for n in range(int(end - begin) + 1):
        x = _LEFT + n * scale
        parts.append(f"<path d='M{x:.0f} 22V{30 + len(spans) * _LINE}' stroke='#ddd'/>")
        parts.append(f"<text x='{x:.0f}' y='18' fill='#666'>{n} s</text>")
    for n, span in enumerate(spans):
        color = _COLORS[names.index(span["process"])]
        x = _LEFT + (_seconds(span["start_time"]) - begin) * scale
        width = max(2.0, (_seconds(span["end_time"]) - _seconds(span["start_time"])) * scale)
        y = 30 + n * _LINE
        said = f"{span['process']} · {span['name']}"
        parts.append(f"<text x='8' y='{y + 13}'>{escape(said)}</text>")
        bar = f"x='{x:.1f}' y='{y + 3}' width='{width:.1f}' height='13' rx='2' fill='{color}'"
        parts.append(f"<rect {bar}/>")
        for event in span["events"]:
            at = _LEFT + (_seconds(event["timestamp"]) - begin) * scale
            fill = "#fff" if event["name"].endswith(".read") else "#f5d442"
            parts.append(f"<circle cx='{at:.1f}' cy='{y + 9.5}' r='3.5' fill='{fill}'/>")
        for link in span["links"]:
            if (to := places.get(link["context"]["span_id"])) is not None:
                ends = f"M{x:.1f} {y + 3}V{30 + to * _LINE + 16}"
                parts.append(f"<path d='{ends}' stroke='#222' stroke-dasharray='3 2'/>")
    high = 60 + len(spans) * _LINE
    legend = "dashed: a link · white: somebody reads · yellow: nobody reads, and the call goes on"
    parts.append(f"<text x='8' y='{high - 10}' fill='#666'>{legend}</text>")
    return _svg(_WIDTH, high, parts)


def dashboard_picture(processes: Lines) -> str:
    """The panels of the dashboard that a load has filled."""
    series = {name: list(_looks(found)) for name, found in processes.items() if found}
    panels = [
        panel
        for section in Section
        for instrument in INSTRUMENTS
        if instrument.section is section and (panel := _panel(instrument, series)) is not None
    ]
    parts = []
    for n, panel in enumerate(panels):
        place = f"translate({n % _ACROSS * _PANEL} {n // _ACROSS * _HIGH})"
        parts.append(f"<g transform='{place}'>{panel}</g>")
    return _svg(_ACROSS * _PANEL, -(-len(panels) // _ACROSS) * _HIGH, parts)


Look = tuple[float, Mapping[str, list[Any]]]


def _looks(exports: Sequence[Any]) -> Iterator[Look]:
    """Of each export its time and the points of each metric."""
    for export in exports:
        found = {
            metric["name"]: metric["data"]["data_points"]
            for resource in export["resource_metrics"]
            for scope in resource["scope_metrics"]
            for metric in scope["metrics"]
        }
        times = [p["time_unix_nano"] for points in found.values() for p in points]
        if times:
            yield max(times) / 1e9, found


def _panel(instrument: Instrument, series: Mapping[str, list[Look]]) -> str | None:
    by = next((n for n in _TOLD if n in instrument.by), "")
    begin = min(look[0] for looks in series.values() for look in looks)
    end = max(look[0] for looks in series.values() for look in looks)
    times = [begin + n * _STEP for n in range(1, int((end - begin) / _STEP))]
    lines: dict[str, list[float]] = {}
    for n, at in enumerate(times):
        for name, value in _values(instrument, series, at, by):
            lines.setdefault(name, [0.0] * len(times))[n] = value
    lines = {name: values for name, values in lines.items() if any(values)}
    return _drawn(instrument, lines, len(times)) if lines else None


_TOLD = ("gen_ai.tool.name", "mcp.method.name", "outcome", "event", "reason", "code", "side")


def _values(
    instrument: Instrument, series: Mapping[str, list[Look]], at: float, by: str
) -> Iterator[tuple[str, float]]:
    """What Prometheus would say of an instrument at a time."""
    window = 4 * _STEP
    sums: dict[str, float] = {}
    buckets: list[float] = []
    for looks in series.values():
        now, before = _at(looks, at), _at(looks, at - window)
        past = {_key(p): p for p in before.get(instrument.name, [])}
        for point in now.get(instrument.name, []):
            old = past.get(_key(point))
            if instrument.kind is InstrumentKind.HISTOGRAM:
                counts = point["bucket_counts"]
                earlier = old["bucket_counts"] if old else [0] * len(counts)
                grown = [a - b for a, b in zip(counts, earlier, strict=True)]
                buckets = [a + b for a, b in zip(buckets or [0] * len(grown), grown, strict=True)]
                continue
            is_counter = instrument.kind is InstrumentKind.COUNTER
            name = str(point["attributes"].get(by, "")) if by else ""
            value = point["value"] - (old["value"] if old and is_counter else 0)
            sums[name] = sums.get(name, 0.0) + (value / window if is_counter else value)
    if sum(buckets):
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            yield name, _quantile(instrument.buckets, buckets, share)
    yield from sums.items()


def _at(looks: list[Look], at: float) -> Mapping[str, list[Any]]:
    """The last look before a time."""
    return next((found for time, found in reversed(looks) if time <= at), {})


def _key(point: Any) -> str:
    return str(sorted(point["attributes"].items()))


def _quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float:
    """As `histogram_quantile` has it: a straight line within a bucket."""
    wanted, before = share * sum(counts), 0.0
    for n, count in enumerate(counts):
        if before + count >= wanted and count:
            if n >= len(bounds):
                return bounds[-1]
            low = bounds[n - 1] if n else 0.0
            return low + (bounds[n] - low) * (wanted - before) / count
        before += count
    return 0.0


def _drawn(instrument: Instrument, lines: Mapping[str, list[float]], steps: int) -> str:
    top = max(value for values in lines.values() for value in values)
    left, bottom, wide, high = 40, _HIGH - 34, _PANEL - 55, _HIGH - 66
    parts = [
        f"<text x='8' y='16' font-weight='600'>{escape(instrument.name)}</text>",
        f"<path d='M{left} 30V{bottom}H{left + wide}' fill='none' stroke='#ccc'/>",
        f"<text x='{left - 4}' y='36' text-anchor='end' fill='#666'>",
        f"{_shown(instrument, top)}</text>",
    ]
    shown = sorted(lines.items(), key=lambda line: -max(line[1]))[: len(_COLORS)]
    for n, (name, values) in enumerate(shown):
        points = " ".join(
            f"{left + wide * k / max(1, steps - 1):.0f},{bottom - high * value / top:.0f}"
            for k, value in enumerate(values)
        )
        color = _COLORS[(n + 1) % len(_COLORS)]
        parts.append(
            f"<polyline points='{points}' fill='none' stroke='{color}' stroke-width='1.5'/>"
        )
        if name and n < 4:
            x = left + n * 62
            text = escape(name if len(name) < 11 else f"{name[:10]}…")
            parts.append(f"<text x='{x}' y='{bottom + 15}' fill='{color}'>{text}</text>")
    return "".join(parts)


def _shown(instrument: Instrument, value: float) -> str:
    if instrument.unit == "s" and instrument.kind is not InstrumentKind.COUNTER:
        return f"{value * 1000:.3g}ms" if value < 1 else f"{value:.3g}s"
    text = f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.3g}"
    return f"{text}/s" if instrument.kind is InstrumentKind.COUNTER else text


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' {_STYLE}>"
    )
    return "\n".join((head, "<rect width='100%' height='100%' fill='#fff'/>", *parts, "</svg>\n"))
