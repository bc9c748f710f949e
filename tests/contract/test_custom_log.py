"""The author of a store of his own puts it through the contract as the guide says, with nothing of
this repository but what is installed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

import mcp_persist_middleware
from mcp_persist_middleware import PersistMiddleware, Settings

PACKAGE = Path(mcp_persist_middleware.__file__).parent
GUIDE = PACKAGE.parent / "examples" / "guides" / "custom-store.md"
BLOCKS = re.findall(r"```python\n(.+?)```", GUIDE.read_text(), re.DOTALL)
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


def test_a_log_that_keeps_the_contract_passes_and_one_that_does_not_fails(
    tmp_path: Path, installed: Path
) -> None:
    block = next(block for block in BLOCKS if block.startswith("# test_my_log.py"))
    for name, broken in (("right", ""), ("wrong", "after += 1\n        ")):
        (tmp_path / f"{name}_package.py").write_text(STORE.format(broken=broken))
        module = block.replace("my_package", f"{name}_package")
        (tmp_path / f"test_{name}.py").write_text(module)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "-k", "page"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{installed}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    failed = re.findall(r"FAILED test_(\w+).py::TestMyLog::(\w+)", done.stdout)
    assert ("wrong", "test_a_page_holds_as_many_events_as_fit") in failed
    assert {module for module, _ in failed} == {"wrong"}, done.stdout
    assert "E       assert [" in done.stdout, "the values are shown"
    assert " passed" in done.stdout


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


def test_what_the_guide_derives_from_is_there_and_names_what_is_to_be_written() -> None:
    names = {"app": Starlette(), "PersistMiddleware": PersistMiddleware}
    exec(BLOCKS[0], names)
    mine: Any = names["MyLog"]
    said = set(re.findall(r"\w+", mine.__doc__))
    assert said == mine.__abstractmethods__
    with pytest.raises(TypeError, match="abstract"):
        names["make"](Settings.load({"url": "unused.db"}))
