"""The docs, the dashboard and the alerts say what the list of instruments says."""

import itertools
import json
from typing import Any

import yaml

from mcp_persist_middleware.ops.monitoring import alerts, dashboard, promql, table
from mcp_persist_middleware.telemetry import INSTRUMENTS
from tests.cli.scene import run
from tests.support.processes import ROOT

EXAMPLES = ROOT / "examples"


def test_what_is_in_examples_is_what_the_command_prints() -> None:
    assert (EXAMPLES / "grafana-dashboard.json").read_text() == dashboard.dashboard()
    assert (EXAMPLES / "prometheus-alerts.yaml").read_text() == alerts.rules()
    guide = (EXAMPLES / "guides" / "telemetry.md").read_text()
    _, made = guide.split("<!-- made by: mcp-persist-middleware telemetry table -->\n\n")
    assert made == table.table()


def test_the_command_prints_them() -> None:
    assert run("telemetry", "alerts").out == alerts.rules()


def test_every_instrument_is_said_once() -> None:
    names = [each.name for each in INSTRUMENTS]
    assert len(names) == len(set(names)) > 40
    assert len({promql.metric(each) for each in INSTRUMENTS}) == len(names)


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dashboard.dashboard())["panels"]
    return found


def test_every_instrument_has_a_panel_of_its_own_place() -> None:
    shown = [each for each in panels() if each["type"] != "row"]
    assert {each["title"] for each in shown} == {each.name for each in INSTRUMENTS}
    assert len({each["id"] for each in panels()}) == len(panels())
    places = [
        {(x, y) for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])}
        for p in (each["gridPos"] for each in panels())
    ]
    assert not any(a & b for a, b in itertools.combinations(places, 2))
    assert max(x for place in places for x, _ in place) == 23


def test_prometheus_can_read_the_alerts() -> None:
    (group,) = yaml.safe_load(alerts.rules())["groups"]
    wanted = [each for each in INSTRUMENTS if each.alert is not None]
    assert len(group["rules"]) == len(wanted) >= 10
    for rule, instrument in zip(group["rules"], wanted, strict=True):
        assert promql.metric(instrument) in rule["expr"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_an_alert_hears_of_the_first_count_too() -> None:
    (found,) = [each for each in INSTRUMENTS if each.name == "mcp_persist.redis.away"]
    assert found.alert is not None
    name = "mcp_persist_redis_away_total"
    assert promql.alerted(found, found.alert) == (
        f"sum (increase({name}[5m])) > 0 or sum ({name} unless {name} offset 5m) > 0"
    )
