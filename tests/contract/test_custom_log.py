"""The author of a store of his own puts it through the contract as the README says, with nothing of
this repository but what is installed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mcp_persist_middleware

PACKAGE = Path(mcp_persist_middleware.__file__).parent
README = (PACKAGE.parent / "README.md").read_text()
STORE = """
from sqlalchemy import make_url
from mcp_persist_middleware.stores.sqlite.log import SqliteLog

class MyLog(SqliteLog):
    def __init__(self, directory):
        url = make_url(f"sqlite+aiosqlite:///{{directory / 'mine.db'}}")
        super().__init__(url, prefix="mcp_", timeout=5.0)

    async def read(self, stream, after, max_events, max_bytes):
        {broken}return await super().read(stream, after, max_events, max_bytes)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that has what a wheel has."""
    directory = tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, directory / PACKAGE.name, ignore=ignored)
    return directory


def suite(directory: Path, installed: Path, *, broken: bool) -> subprocess.CompletedProcess[str]:
    """Run the README's test module, the part that is about reading."""
    (block,) = re.findall(r"```python\n(# test_my_log.py\n.+?)```", README, re.DOTALL)
    skip = "after += 1\n        " if broken else ""
    (directory / "my_package.py").write_text(STORE.format(broken=skip))
    (directory / "test_my_log.py").write_text(block)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return subprocess.run(
        [*command, "-k", "page", "test_my_log.py"],
        cwd=directory,
        env={"PYTHONPATH": f"{directory}:{installed}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_log_that_keeps_the_contract_passes_and_one_that_does_not_fails(
    tmp_path: Path, installed: Path
) -> None:
    right = suite(tmp_path, installed, broken=False)
    assert right.returncode == 0, right.stdout
    assert " passed" in right.stdout
    wrong = suite(tmp_path, installed, broken=True)
    assert wrong.returncode == 1, wrong.stdout
    assert (
        "FAILED test_my_log.py::TestMyLog::test_a_page_holds_as_many_events_as_fit" in wrong.stdout
    )
    assert "E       assert [" in wrong.stdout, "the values are shown"


def test_without_pytest_the_contract_says_what_to_install(installed: Path) -> None:
    code = """
import sys
import mcp_persist_middleware.testing
assert "pytest" not in sys.modules, "what else is there does without"
sys.modules["pytest"] = None
import mcp_persist_middleware.testing.contract
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install 'mcp-persist-middleware[testing]'" in done.stderr, done.stderr
