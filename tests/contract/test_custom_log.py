"""The author of a store of his own puts it through this suite as `conftest.py` says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLUGIN = """
from sqlalchemy import make_url
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from tests.support.stores import STORES, Store

class MyLog(SqliteLog):
    async def read(self, stream, after, max_events, max_bytes):
        {broken}return await super().read(stream, after, max_events, max_bytes)

def mine(directory, _):
    url = make_url(f"sqlite+aiosqlite:///{{directory / 'mine.db'}}")
    return Store("mine", log=lambda: MyLog(url, prefix="mcp_", timeout=5.0))

STORES["mine"] = mine
"""


def suite(directory: Path, *, broken: bool) -> subprocess.CompletedProcess[str]:
    """Run the part of the suite that is about reading."""
    skip = "after += 1\n        " if broken else ""
    (directory / "my_store.py").write_text(PLUGIN.format(broken=skip))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "my_store"]
    return subprocess.run(
        [*command, "-k", "mine", "tests/contract/test_reads.py", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={"PYTHONPATH": f"{directory}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_log_that_keeps_the_contract_passes_and_one_that_does_not_fails(tmp_path: Path) -> None:
    right = suite(tmp_path, broken=False)
    assert right.returncode == 0, right.stdout
    assert " passed" in right.stdout
    wrong = suite(tmp_path, broken=True)
    assert wrong.returncode == 1, wrong.stdout
    assert "test_a_page_holds_as_many_events_as_fit[mine]" in wrong.stdout
