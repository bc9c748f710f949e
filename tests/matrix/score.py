"""What a column of outcomes amounts to."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tests.matrix.clients import Outcome, Work


@dataclass(slots=True)
class Score:
    """Sums over the calls of one client against one server."""

    calls: int = 0
    cuts: int = 0
    events: int = 0
    results: int = 0
    lost: int = 0
    doubled: int = 0
    calls_doubled: int = 0
    disordered: int = 0
    error: str = ""

    def exactly_once(self, work: Work, cuts: int = 1) -> bool:
        """Whether every call was cut and came out whole: nothing lost, doubled or out of order."""
        return self.nothing_lost(work) and self.cuts == cuts * work.calls and not self.doubled

    def nothing_lost(self, work: Work) -> bool:
        """Whether every call came out with everything at least once, in order."""
        whole = (self.calls, self.results) == (work.calls, work.calls)
        return whole and not (self.lost or self.disordered or self.error)


def score(outcomes: Iterable[Outcome], work: Work, cuts: int) -> Score:
    """Sum up the calls; a number out of order is one that is new but smaller than one before."""
    total = Score(cuts=cuts)
    for outcome in outcomes:
        seen = Counter(outcome.progress)
        first = list(dict.fromkeys(outcome.progress))
        total.calls += 1
        total.events += len(seen)
        total.results += outcome.result == work.result
        total.lost += work.events - len(seen)
        total.doubled += seen.total() - len(seen)
        total.calls_doubled += seen.total() > len(seen)
        total.disordered += first != sorted(first)
        total.error = total.error or outcome.error
    return total
