"""Prometheus' own `promtool` loads what we ship for it, and each alert fires when it is to."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_persist_middleware.ops.monitoring import promql
from mcp_persist_middleware.telemetry import INSTRUMENTS
from mcp_persist_middleware.telemetry.instrument import Instrument, InstrumentKind
from tests.support.packaged import program
from tests.support.processes import ROOT

pytestmark = pytest.mark.packages

RULES = ROOT / "examples" / "prometheus-alerts.yaml"
DASHBOARD = ROOT / "examples" / "grafana-dashboard.json"
ALERTED = [each for each in INSTRUMENTS if each.alert is not None]
# One value a minute. What happens begins after ten of them, and goes on to the thirtieth.
CALM, LATER = 10, 20


def promtool(*arguments: object) -> str:
    """What it says; a failure is the test's."""
    command = [program("promtool", "prometheus"), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """One, as promtool writes them: `1x3` is 1 and three times the same again."""
    told = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{name}{{{told}}}", "values": values}


def told(instrument: Instrument, calm: str, later: str, **labels: str) -> dict[str, str]:
    """A series of an instrument, with all the labels that it has."""
    name, by = promql.metric(instrument), dict.fromkeys(promql.labels(instrument), "x")
    suffix = "_bucket" if instrument.kind is InstrumentKind.HISTOGRAM else ""
    return series(name + suffix, f"{calm} {later}", instance="one:9464", **by, **labels)


def measured(instrument: Instrument, *, is_slow: bool) -> list[dict[str, str]]:
    """A histogram in which ten things a minute take as long as may be, later as long as they must
    not."""
    assert instrument.alert is not None
    found, below = [], instrument.alert.above
    for bound in (*map(str, instrument.buckets), "+Inf"):
        is_in = float(bound) >= below
        calm = f"0+10x{CALM}" if is_in else f"0x{CALM}"
        first = 10 * (CALM + 1)
        grows = f"{first}+10x{LATER}" if is_in else f"0x{LATER}"
        stands = f"{first}x{LATER}" if is_in else f"0x{LATER}"
        is_over = is_slow and float(bound) <= below
        found.append(told(instrument, calm, stands if is_over else grows, le=bound))
    return found


def calm(instrument: Instrument) -> list[dict[str, str]]:
    """What is to alarm nobody: a counter that stands, what is slow enough, a gauge at its limit."""
    assert instrument.alert is not None
    match instrument.kind:
        case InstrumentKind.COUNTER:
            return [told(instrument, f"7x{CALM}", f"7x{LATER}")]
        case InstrumentKind.HISTOGRAM:
            return measured(instrument, is_slow=False)
        case _:
            limit = f"{instrument.alert.above:g}"
            return [told(instrument, f"{limit}x{CALM}", f"{limit}x{LATER}")]


def provoked(instrument: Instrument) -> list[list[dict[str, str]]]:
    """What is to alarm somebody, each by itself."""
    assert instrument.alert is not None
    match instrument.kind:
        case InstrumentKind.COUNTER:
            first = told(instrument, f"_x{CALM}", f"1x{LATER}")
            again = told(instrument, f"7x{CALM}", f"8x{LATER}")
            return [[first], [again]]
        case InstrumentKind.HISTOGRAM:
            return [measured(instrument, is_slow=True)]
        case _:
            above = f"{instrument.alert.above + 1:g}"
            return [[told(instrument, f"0x{CALM}", f"{above}x{LATER}")]]


def expected(instrument: Instrument, minute: int, *, fires: bool) -> dict[str, Any]:
    """What promtool is to find at a minute."""
    assert instrument.alert is not None
    name = f"McpPersist{instrument.alert.name}"
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    (rule,) = [each for each in group["rules"] if each["alert"] == name]
    wanted = {"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}
    return {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": [wanted] if fires else []}


def check(directory: Path, inputs: list[dict[str, str]], alerts: list[dict[str, Any]]) -> None:
    """Have promtool see whether these alerts come of these series."""
    test = {"interval": "1m", "input_series": inputs, "alert_rule_test": alerts}
    asked = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}
    file = directory / "test.yaml"
    file.write_text(json.dumps(asked))
    promtool("test", "rules", file)


def test_prometheus_loads_the_alert_rules() -> None:
    assert f"{len(ALERTED)} rules found" in promtool("check", "rules", RULES)


def test_prometheus_understands_what_the_dashboard_asks(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    rules = [
        {"record": f"asked:{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, expr in enumerate(asked)
    ]
    file = tmp_path / "asked.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert len(asked) >= len(INSTRUMENTS)
    assert f"{len(asked)} rules found" in promtool("check", "rules", file)


def test_nothing_is_alarmed_while_all_is_calm(tmp_path: Path) -> None:
    inputs = [each for instrument in ALERTED for each in calm(instrument)]
    # Who has looked for less than five minutes cannot know what is new.
    minutes = (6, CALM, CALM + LATER)
    found = [expected(each, minute, fires=False) for each in ALERTED for minute in minutes]
    check(tmp_path, inputs, found)


@pytest.mark.parametrize("instrument", ALERTED, ids=lambda each: each.name)
def test_an_alert_fires_for_what_it_is_made_for_and_no_other_does(
    instrument: Instrument, tmp_path: Path
) -> None:
    others = [each for each in ALERTED if each is not instrument]
    assert instrument.alert is not None
    # What counts growth fires with it, and is over when nothing grows any more.
    counts = instrument.kind is InstrumentKind.COUNTER
    fires, over = (CALM + 2, CALM + LATER) if counts else (CALM + LATER, None)
    for inputs in provoked(instrument):
        inputs += [each for other in others for each in calm(other)]
        alerts = [expected(each, fires, fires=each is instrument) for each in ALERTED]
        alerts.append(expected(instrument, CALM - 1, fires=False))
        if over is not None:
            alerts.append(expected(instrument, over, fires=False))
        check(tmp_path, inputs, alerts)
