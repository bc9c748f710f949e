"""Durations and sizes as people write them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]+)\s*")


@dataclass(frozen=True, slots=True)
class Unit:
    """What the numbers of a setting count, and the larger and smaller units of a text."""

    name: str
    examples: str
    factors: Mapping[str, Decimal]

    def parse(self, text: str) -> float | None:
        """The number that a text stands for: a plain one, or amounts with their units, which are
        added. Whole where it is written so; None where it is none of these."""
        text = text.strip()
        try:
            return int(text)
        except ValueError:
            pass
        try:
            return float(text)
        except ValueError:
            return self._sum(text)

    def _sum(self, text: str) -> float | None:
        amounts = _AMOUNT.findall(text)
        if not amounts or _AMOUNT.sub("", text) or not {u for _, u in amounts} <= set(self.factors):
            return None
        total = sum(Decimal(number) * self.factors[unit] for number, unit in amounts)
        return int(total) if total == int(total) else float(total)


def _times(one: str, **factors: str) -> Mapping[str, Decimal]:
    return {unit: Decimal(factor) / Decimal(one) for unit, factor in factors.items()}


_DURATIONS = {"ms": "0.001", "s": "1", "m": "60", "h": "3600", "d": "86400"}
SECONDS = Unit("seconds", '"90s", "1h30m", "7d"', _times("1", **_DURATIONS))
MILLISECONDS = Unit("milliseconds", '"500ms", "3s"', _times("0.001", **_DURATIONS))
STREAMS = Unit("streams", '"10000"', {})
BYTES = Unit(
    "bytes",
    '"64MiB", "4MB"',
    {"B": Decimal(1)}
    | {f"{request}B": Decimal(1000**power) for power, request in enumerate("kMGT", 1)}
    | {f"{request}iB": Decimal(1024**power) for power, request in enumerate("KMGT", 1)},
)
