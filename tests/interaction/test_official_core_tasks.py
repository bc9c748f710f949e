"""The official client of SDK 1.x has tasks of a server that never heard of them."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.matrix.environments import prepare
from tests.support.processes import ROOT


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter that has SDK 1.x."""
    return prepare(Path(os.environ.get("MCP_PERSIST_TEST_ENVIRONMENTS", tmp_path)), "v1")


@pytest.mark.packages
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", ["ours", "own"])
async def test_the_official_client_has_tasks(tmp_path: Path, python: str, which: str) -> None:
    module = "tests.interaction.official_core_tasks"
    command = [python, "-m", module, tmp_path, *(["own"] if which == "own" else [])]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environ)
    assert await asyncio.wait_for(process.wait(), 120) == 0
