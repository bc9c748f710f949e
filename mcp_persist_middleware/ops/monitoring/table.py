"""The table of the docs."""

from mcp_persist_middleware.telemetry import INSTRUMENTS
from mcp_persist_middleware.telemetry.instrument import Instrument, Section


def table() -> str:
    """Every instrument, by what it is about."""
    parts = []
    for section in Section:
        rows = [_row(each) for each in INSTRUMENTS if each.section is section]
        head = (
            f"### {section}\n\n| instrument | kind, unit | what | attributes |\n|---|---|---|---|"
        )
        parts.append("\n".join((head, *rows)))
    return "\n\n".join(parts) + "\n"


def _row(instrument: Instrument) -> str:
    by = ", ".join(f"`{name}`" for name in instrument.by)
    kind = f"{instrument.kind}, `{instrument.unit}`"
    return f"| `{instrument.name}` | {kind} | {instrument.description} | {by} |"
