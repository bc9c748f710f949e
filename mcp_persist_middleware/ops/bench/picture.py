"""How long each measure took, on a scale of powers of ten: from the median to what 99 of 100 took
at most. As text, and as SVG."""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from mcp_persist_middleware.ops.bench import Measure

_LABELS = 26
_WIDTH, _LINE, _HEAD, _TEXT, _MARGIN = 760, 24, 56, 190, 24
_TITLE = 90
_CAPTION = "The dot is the median; the bar ends where 99 of 100 had ended."
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.t{font-weight:600}.g{stroke:#ddd}"
    ".r{stroke:#7aa6d6;stroke-width:8;stroke-linecap:round}.m{fill:#1f5fa8}"
)


class _Scale:
    """Times on a line."""

    def __init__(self, measures: Sequence[Measure], width: float) -> None:
        found = [t for m in measures for f in (0.5, 0.99) if (t := m.percentile(f))]
        self.first = math.floor(math.log10(min(found)))
        self.last = max(math.ceil(math.log10(max(found))), self.first + 1)
        self._width = width

    def at(self, seconds: float) -> float:
        """How far along."""
        along = (math.log10(max(seconds, 1e-9)) - self.first) / (self.last - self.first)
        return self._width * min(max(along, 0.0), 1.0)

    @property
    def marks(self) -> list[tuple[float, str]]:
        """The powers of ten, and where they are."""
        powers = range(self.first, self.last + 1)
        return [(self.at(10.0**power), _named(10.0**power)) for power in powers]


def _named(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size * 0.999:
            return f"{seconds / size:g} {unit}"
    return f"{seconds * 1e6:g} µs"


def text(measures: Sequence[Measure], width: int = 79) -> list[str]:
    """Lines of a terminal; none where nothing has a time."""
    timed = [each for each in measures if each.times]
    if not timed:
        return []
    room = width - _LABELS - 8
    scale = _Scale(timed, room)
    axis = [" "] * (width - _LABELS)
    for at, name in scale.marks:
        axis[int(at) : int(at) + len(name)] = name
    lines = [" " * _LABELS + "".join(axis).rstrip()]
    for each in timed:
        begin, end = (int(scale.at(each.percentile(f) or 0.0)) for f in (0.5, 0.99))
        lines.append(f"{each.name:<{_LABELS}}{' ' * begin}●{'━' * (end - begin)}")
    return lines


def _short(title: str) -> str:
    return title if len(title) <= _TITLE else f"{title[: _TITLE // 2]}…{title[-_TITLE // 2 :]}"


def svg(measures: Sequence[Measure], title: str) -> str:
    """A picture for a page."""
    timed = [each for each in measures if each.times]
    below = _HEAD + _LINE * len(timed)
    height = below + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">',
        f"<style>{_STYLE}</style>",
        f'<text class="t" x="{_MARGIN}" y="22">{escape(_short(title))}</text>',
        f'<text x="{_MARGIN}" y="{height - 8}">{_CAPTION}</text>',
    ]
    if timed:
        scale = _Scale(timed, _WIDTH - _TEXT - 2 * _MARGIN)
        for at, name in scale.marks:
            x = _TEXT + at
            parts.append(f'<line class="g" x1="{x}" x2="{x}" y1="{_HEAD}" y2="{below}"/>')
            parts.append(f'<text x="{x}" y="{_HEAD - 8}" text-anchor="middle">{name}</text>')
        for number, each in enumerate(timed):
            y = _HEAD + _LINE * number + _LINE / 2
            begin, end = (_TEXT + scale.at(each.percentile(f) or 0.0) for f in (0.5, 0.99))
            parts.append(f'<text x="{_MARGIN}" y="{y + 4}">{escape(each.name)}</text>')
            parts.append(f'<line class="r" x1="{begin}" x2="{end}" y1="{y}" y2="{y}"/>')
            parts.append(f'<circle class="m" cx="{begin}" cy="{y}" r="5"/>')
    return "\n".join([*parts, "</svg>", ""])
