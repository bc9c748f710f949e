"""The picture of a run: a few of its lines as bars, ours in one colour and theirs in another."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from tests.benchmarks.contenders import PEERS
from tests.benchmarks.goals import GOALS, By
from tests.benchmarks.report import Row, shown

_PANELS = {
    "call": ("call that returns at once", "ms added, median"),
    "calls": ("16 clients calling", "share of the bare rate"),
    "call-cpu": ("processor for a call", "µs over bare"),
    "many": ("64 streams at 20/s", "ms added to an event"),
    "many-cpu": ("processor for such an event", "µs over bare"),
    "many-lag": ("a plain route beside them", "ms added, p99"),
    "one": ("1 stream flat out", "share of the bare rate"),
    "sixteen": ("16 streams flat out", "share of the bare rate"),
    "event": ("1 stream at 200/s", "ms added to an event"),
}
_COLUMNS = 3
_WIDTH, _LABELS, _PANEL, _BAR, _LINE, _HEAD, _GAP = 830, 128, 150, 13, 20, 44, 22
_OURS, _THEIRS, _TEXT, _QUIET, _RULE = "#2563eb", "#f59e0b", "#1f2937", "#6b7280", "#9ca3af"
_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def drawn(rows: Sequence[Row]) -> str:
    """The picture of a run's first loop, as SVG that is readable at 830 pixels."""
    loop = rows[0].loop
    here = [row for row in rows if row.loop == loop]
    panels = [goal for goal in _PANELS if any(row.goal == goal for row in here)]
    names = list(dict.fromkeys(row.contender for row in here if row.goal in panels))
    height = _HEAD + len(names) * _LINE + _GAP
    lines = -(-len(panels) // _COLUMNS)
    parts = [_legend(names, loop)]
    for n, goal in enumerate(panels):
        line, column = divmod(n, _COLUMNS)
        top = 40 + line * height
        left = _LABELS + column * (_WIDTH - _LABELS) / _COLUMNS
        if column == 0:
            parts += [
                _text(_LABELS - 10, top + _HEAD + i * _LINE + _BAR - 2, name, anchor="end")
                for i, name in enumerate(names)
            ]
        parts += _panel(left, top, goal, names, [row for row in here if row.goal == goal])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {40 + lines * height}"'
        f' width="{_WIDTH}" font-family="{_FONT}" font-size="12">\n'
        f'<rect width="100%" height="100%" rx="6" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _legend(names: Sequence[str], loop: str) -> str:
    parts = [_square(12, _OURS), _text(28, 24, "mcp_persist_middleware")]
    if any(map(_is_theirs, names)):
        parts += [_square(192, _THEIRS), _text(208, 24, "mcp-persist")]
    about = f"uvicorn on {loop}; dashed: the bare application in the same run"
    return "\n".join([*parts, _text(_WIDTH - 12, 24, about, _QUIET, anchor="end")])


def _square(left: float, colour: str) -> str:
    return f'<rect x="{left}" y="14" width="11" height="11" rx="2" fill="{colour}"/>'


def _is_theirs(name: str) -> bool:
    return any(name == peer.name for peer in PEERS)


def _panel(
    left: float, top: float, goal: str, names: Sequence[str], rows: Sequence[Row]
) -> list[str]:
    found = {row.contender: row for row in rows}
    is_share = GOALS[goal].by is By.SHARE
    most = max(1.0 if is_share else 0.0, *(row.result for row in rows)) or 1.0
    title, unit = _PANELS[goal]
    better = "more is better" if is_share else "less is better"
    # Where the bare application is: at nothing added, or at the whole of its rate.
    bare, end = left + (_PANEL / most if is_share else 0), top + _HEAD + len(names) * _LINE - 4
    parts = [
        f'<path d="M{bare:.1f} {top + _HEAD - 4}V{end}" stroke="{_RULE}" stroke-dasharray="3 3"/>',
        f'<text x="{left}" y="{top + 16}" font-weight="600" fill="{_TEXT}">{escape(title)}</text>',
        _text(left, top + 31, f"{unit}; {better}", _QUIET, size=11),
    ]
    for i, name in enumerate(names):
        if (row := found.get(name)) is None:
            continue
        y, width = top + _HEAD + i * _LINE, max(1.0, row.result / most * _PANEL)
        colour = _THEIRS if _is_theirs(name) else _OURS
        parts += [
            (
                f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2"'
                f' fill="{colour}"><title>{escape(name)}: {shown(row)}</title></rect>'
            ),
            _text(left + width + 5, y + _BAR - 2, shown(row)),
        ]
    return parts


def _text(
    left: float,
    base: float,
    text: str,
    colour: str = _TEXT,
    *,
    size: int = 12,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{left:.1f}" y="{base}" font-size="{size}" fill="{colour}"'
        f' text-anchor="{anchor}" stroke="#ffffff" stroke-width="3" paint-order="stroke">'
        f"{escape(text)}</text>"
    )
