"""The alert rules, as Prometheus reads them."""

import json

from mcp_persist_middleware.ops.monitoring import promql
from mcp_persist_middleware.telemetry import INSTRUMENTS
from mcp_persist_middleware.telemetry.instrument import InstrumentKind

_HEAD = """# Made by `mcp-persist-middleware telemetry alerts`: what is to be changed, change there.
groups:
  - name: mcp-persist-middleware
    rules:
"""


def rules() -> str:
    """The file of rules. Strings are written as JSON, which YAML reads as they are."""
    found = []
    for instrument in INSTRUMENTS:
        if (alert := instrument.alert) is None:
            continue
        # What counts growth has looked at that time already.
        waits = 0 if instrument.kind is InstrumentKind.COUNTER else alert.minutes
        found += [
            f"      - alert: McpPersist{alert.name}",
            f"        expr: {json.dumps(promql.alerted(instrument, alert))}",
            f"        for: {waits}m",
            "        labels:",
            f"          severity: {'page' if alert.page else 'ticket'}",
            "        annotations:",
            f"          summary: {json.dumps(alert.means)}",
            f"          description: {json.dumps(f'{instrument.description} ({instrument.name})')}",
        ]
    return _HEAD + "\n".join(found) + "\n"
