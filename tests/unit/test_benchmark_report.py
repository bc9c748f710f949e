"""What a run of `tests.benchmarks` says of its numbers."""

from xml.etree import ElementTree as ET

from tests.benchmarks import picture, report
from tests.benchmarks.contenders import OURS, PEERS
from tests.benchmarks.goals import GOALS
from tests.benchmarks.report import Taken

SQLITE, POSTGRES = OURS["sqlite"], OURS["postgres"]
BARE = [1.0, 2.0, 3.0]


def added(goal: str, *values: float, who: object = SQLITE, floor: float | None = None) -> Taken:
    """Rounds that lie so much over the bare ones."""
    rounds = [base + value for base, value in zip(BARE, values, strict=True)]
    return Taken(goal, who, rounds, BARE, floor)


def test_a_result_is_the_median_of_the_rounds_own_differences() -> None:
    (row,) = report.judged("asyncio", [added("call", 0.1, 0.4, 9.0)])
    assert round(row.result, 6) == 0.4
    assert row.met is True


def test_a_target_is_for_the_contenders_that_it_names() -> None:
    rows = report.judged("asyncio", [added("call", 1, 1, 1), added("call", 9, 9, 9, who=POSTGRES)])
    assert [row.met for row in rows] == [False, None]


def test_a_target_over_the_commit_floor_moves_with_it() -> None:
    on_slow_disk = added("event", 0.5, 0.5, 0.5, floor=0.4)
    on_quick_disk = added("event", 0.5, 0.5, 0.5, floor=0.1)
    rows = report.judged("asyncio", [on_slow_disk, on_quick_disk])
    assert [row.met for row in rows] == [True, False]


def test_a_call_has_to_be_cheaper_than_the_best_competitors_in_the_same_run() -> None:
    rivals = [added("call", n, n, n, who=peer) for n, peer in zip((0.9, 0.2), PEERS, strict=True)]
    row, *_ = report.judged("asyncio", [added("call", 0.3, 0.3, 0.3), *rivals])
    assert row.met is False
    row, *_ = report.judged("asyncio", [added("call", 0.1, 0.1, 0.1), *rivals])
    assert row.met is True


def test_the_table_marks_what_is_met_and_what_is_not() -> None:
    rows = report.judged("asyncio", [added("call", 1, 1, 1), added("many", 1, 1, 1)])
    text = report.table(rows)
    assert "+1 ✗" in text
    assert "+1 ✓" in text
    assert "asyncio, sqlite: call that returns at once" in report.verdict(rows)


def test_every_line_of_the_picture_is_one_of_the_report() -> None:
    rows = report.judged("asyncio", [added(goal, 1, 1, 1) for goal in GOALS])
    drawn = picture.drawn(rows)
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert all(goal in GOALS for goal in picture._PANELS)
    assert drawn.count("<rect") == 2 + len(picture._PANELS)
