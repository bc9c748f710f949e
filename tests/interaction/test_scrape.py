"""The scrape that the guide shows, read as Prometheus would."""

import json
import re
import subprocess
import sys

from tests.support.processes import ROOT


def test_prometheus_reads_what_the_guide_promises_and_the_dashboard_asks_for() -> None:
    command = [sys.executable, "-m", "tests.interaction.scraped_app"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    found = json.loads(ran.stdout.splitlines()[-1])
    call = 'gen_ai_tool_name="two",.*mcp_method_name="tools/call"'
    served = found["served"]
    assert re.search(rf"mcp_server_operation_duration_seconds_count{{.*{call}.*}} 1\.0", served)
    assert "mcp_persist_events_total{" in served
    kinds = {"counter": "counter", "histogram": "histogram"}
    missing = {
        name
        for name, kind in found["names"].items()
        if f"# TYPE {name} {kinds.get(kind, 'gauge')}\n" not in found["all"]
    }
    # SQLite has no pool and no standbys.
    assert missing <= {
        "mcp_persist_pool_used",
        "mcp_persist_pool_size",
        "mcp_persist_replication_lag_seconds",
    }
