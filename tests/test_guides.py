"""The blocks of the README and of the guides run, page by page, as a reader would run them.

What becomes of which block is said in `examples/guides/development.md`.
"""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from tests.support.processes import ROOT, ServerProcess
from tests.support.stores import free_port

GUIDES = sorted((ROOT / "examples" / "guides").glob("*.md"))
PAGES = {"README": ROOT / "README.md"} | {path.stem: path for path in GUIDES}
_BLOCK = re.compile(r"^(?:<!-- ([a-z ]+) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+)\.py\n")
_LINK = re.compile(r"\]\(([^)#]*)#?([^)]*)\)")
_SECONDS = 60.0
# One process says the first before it listens, several say the second before they serve.
_SERVES = ("Application startup complete", "Uvicorn running on")
_SERVERS = {
    "postgresql://mcp:password@db.example/mcp": "new_postgres",
    "postgresql://owner:password@db.example/mcp": "new_postgres",
    "redis://redis.example:6379/0": "redis_url",
}
# Commands of which most of what they cost is their imports. Those of the README begin anew.
_WARM = {"mcp-persist-middleware": "mcp_persist_middleware", "uvicorn": "uvicorn"}
# For machines that have none.
_CURL = """command -v curl >/dev/null || curl() { python -c \\
    'import sys, urllib.request as r; print(r.urlopen(sys.argv[-1]).read())' "$@"; }
"""


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Of each block what is to be done with it, its language, and its text."""
    return _BLOCK.findall(PAGES[page].read_text())


def prose(page: Path) -> str:
    """What it says outside of blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Its headings, as links name them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    path = PAGES[page]
    for name, anchor in _LINK.findall(prose(path)):
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


def test_every_guide_and_every_example_is_linked() -> None:
    linked = {
        (path.parent / name).resolve()
        for path in PAGES.values()
        for name, _ in _LINK.findall(prose(path))
        if name
    }
    examples = {path for path in (ROOT / "examples").iterdir() if path.is_file()}
    assert examples | set(GUIDES) <= linked


class Reader:
    """Somebody who does what a page says, in an empty directory.

    Args:
        real: what stands in the page, and what it is here.
        commands: functions of the shell in place of programs.
    """

    def __init__(self, directory: Path, real: dict[str, str], commands: str) -> None:
        self._directory = directory
        self._real = real
        self._commands = commands
        self._names: dict[str, Any] = {"app": Starlette()}
        self._server: subprocess.Popen[bytes] | None = None

    def read(self, mark: str, language: str, block: str) -> None:
        """Do what a block is for."""
        match mark, language:
            case "", "python":
                self._python(block)
            case "by hand", "python":
                compile(block, "block", "exec")
            case "serve", "sh":
                self._serve(block)
            case "run", "sh":
                done = subprocess.run(
                    self._command(block), capture_output=True, text=True, check=False, **self._here
                )
                assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            case "", "json":
                json.loads(block)
            case ("" | "test", "sh"):
                pass
            case "", "console":
                # `tests/cli/test_guide.py` runs it, and compares.
                pass
            case _:
                pytest.fail(f"nobody knows what to do with {language} under {mark!r}")

    def stop(self) -> None:
        """End the server, if one runs."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGTERM)
            self._server.wait(_SECONDS)
            self._server = None

    def _python(self, block: str) -> None:
        file = _FILE.match(block)
        if file is None:
            exec(compile(block, "block", "exec"), self._names)
            return
        (self._directory / f"{file[1]}.py").write_text(block)
        if not file[1].startswith(("test_", "conftest")):
            self._names |= vars(importlib.import_module(file[1]))

    def _serve(self, block: str) -> None:
        self.stop()
        log = self._directory / "server.log"
        with log.open("wb") as file:
            self._server = subprocess.Popen(
                self._command(block), stdout=file, stderr=file, start_new_session=True, **self._here
            )
        until = time.monotonic() + _SECONDS
        said = ""
        while not all(each in said for each in _SERVES):
            assert time.monotonic() < until, said
            assert self._server.poll() is None, said
            time.sleep(0.05)
            said = log.read_text()

    def _command(self, block: str) -> list[str]:
        for written, here in self._real.items():
            block = block.replace(written, here)
        return ["bash", "-euc", _CURL + self._commands + block]

    @property
    def _here(self) -> dict[str, Any]:
        kept = {name: value for name, value in os.environ.items() if "MCP_PERSIST" not in name}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "PYTHONPATH": str(ROOT), "UVICORN_PORT": self._real["8000"]}
        return {"cwd": self._directory, "env": kept | own}


def warm() -> str:
    """Functions that have commands from a process that has imported what they need."""
    if (forks := ServerProcess.forks) is None:
        return ""
    return "".join(f'{name}() {{ {forks.command(of)} "$@"; }}\n' for name, of in _WARM.items())


@contextmanager
def reader(directory: Path, real: dict[str, str], commands: str) -> Iterator[Reader]:
    """Leaves no server, and no module of the page."""
    known = set(sys.modules)
    made = Reader(directory, real, commands)
    try:
        yield made
    finally:
        made.stop()
        for name in set(sys.modules) - known:
            if str(directory) in (getattr(sys.modules[name], "__file__", None) or ""):
                del sys.modules[name]


@pytest.fixture
def real(request: pytest.FixtureRequest, page: str) -> dict[str, str]:
    """The ports and servers that stand in the page, as they are here."""
    real = {"8000": str(free_port()), "8080": str(free_port())}
    run = "".join(block for mark, _, block in blocks(page) if mark)
    for written, name in _SERVERS.items():
        if written in run:
            found = request.getfixturevalue(name)
            real[written] = found() if callable(found) else found
    return real


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_can_be_run(
    page: str, real: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with reader(tmp_path, real, "" if page == "README" else warm()) as someone:
        for block in blocks(page):
            someone.read(*block)


def test_a_command_from_a_warm_process_is_as_one_that_begins_anew(tmp_path: Path) -> None:
    seen = []
    for commands in ("", warm()):
        someone = Reader(tmp_path, {"8000": "0"}, commands)
        command = someone._command("mcp-persist-middleware stats --url none.db")
        ran = subprocess.run(command, capture_output=True, text=True, check=False, **someone._here)
        seen.append((ran.returncode, ran.stdout, ran.stderr))
    assert seen[0] == seen[1]
    assert seen[0][0] == 2
