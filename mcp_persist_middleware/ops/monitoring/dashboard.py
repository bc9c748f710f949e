"""The dashboard, as Grafana imports it: a row for each section, a panel for each instrument."""

import json
from collections.abc import Iterator
from typing import Any

from mcp_persist_middleware.ops.monitoring import promql
from mcp_persist_middleware.telemetry import INSTRUMENTS
from mcp_persist_middleware.telemetry.instrument import Instrument, InstrumentKind, Section

_WINDOW = "$__rate_interval"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT, _IN_A_ROW = 8, 7, 3
# What tells most about a series, the first that an instrument has.
_TOLD = ("gen_ai.tool.name", "mcp.method.name", "outcome", "event", "reason", "code", "to", "side")
_UNITS = {"s": "s", "By": "bytes"}


def dashboard() -> str:
    """The dashboard as JSON."""
    found = {
        "uid": "mcp-persist-middleware",
        "title": "mcp-persist-middleware",
        "tags": ["mcp"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
        },
        "panels": list(_panels()),
    }
    return json.dumps(found, indent=1) + "\n"


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for section in Section:
        instruments = [each for each in INSTRUMENTS if each.section is section]
        number += 1
        place = {"x": 0, "y": y, "w": _WIDTH * _IN_A_ROW, "h": 1}
        yield {"id": number, "type": "row", "title": section.value, "gridPos": place, "panels": []}
        y += 1
        for n, instrument in enumerate(instruments):
            number += 1
            x, line = n % _IN_A_ROW, n // _IN_A_ROW
            place = {"x": x * _WIDTH, "y": y + line * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            yield _panel(instrument, number, place)
        y += -(-len(instruments) // _IN_A_ROW) * _HEIGHT


def _panel(instrument: Instrument, number: int, place: dict[str, int]) -> dict[str, Any]:
    is_rate = instrument.kind is InstrumentKind.COUNTER
    unit = "Bps" if is_rate and instrument.unit == "By" else _UNITS.get(instrument.unit, "short")
    alert = instrument.alert
    limits = [{"color": "green", "value": None}]
    if alert is not None and instrument.kind is not InstrumentKind.COUNTER:
        limits.append({"color": "red", "value": alert.above})  # type: ignore[dict-item]
    return {
        "id": number,
        "type": "timeseries",
        "title": instrument.name,
        "description": instrument.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": limits},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": _SOURCE, "expr": expr, "legendFormat": said}
            for n, (expr, said) in enumerate(queries(instrument, _WINDOW))
        ],
    }


def queries(instrument: Instrument, window: str) -> list[tuple[str, str]]:
    """What a panel asks Prometheus, and what it calls the answers."""
    by = next((name for name in _TOLD if name in instrument.by), "")
    label = by.replace(".", "_")
    match instrument.kind:
        case InstrumentKind.HISTOGRAM:
            shares = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            asked = [(promql.quantile(instrument, share, window), said) for share, said in shares]
            return [
                *asked,
                *([(promql.rate(instrument, window, label), _said(label))] if by else []),
            ]
        case InstrumentKind.COUNTER:
            return [(promql.rate(instrument, window, label), _said(label))]
        case _:
            return [(promql.level(instrument), instrument.name)]


def _said(label: str) -> str:
    return f"{{{{{label}}}}} per second" if label else "per second"
