"""The virtual environments of the matrix: one for each SDK, made once and used again."""

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tests.support.processes import ROOT

REQUIREMENTS = {
    "v2": ["mcp>=2.3,<3"],
    "v1": ["mcp>=1.30,<2"],
    "fm": ["fastmcp>=4.1,<5"],
}
_PROBE = "import mcp, uvicorn, sse_starlette, sqlalchemy, aiosqlite, filelock, opentelemetry"


def prepare(directory: Path, name: str, also: Sequence[str] = ()) -> str:
    """The interpreter of one environment, which is made when it is not there or not complete;
    `also` names more modules, each in a distribution of its name."""
    python = directory / name / "bin" / "python"
    if not python.exists():
        print(f"making {directory / name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", directory / name], check=True)
    if not _complete(python, also):
        _install(python, [*REQUIREMENTS[name], *also])
    return str(python)


def versions(python: str) -> str:
    """Which SDK an environment holds."""
    code = (
        "from importlib.metadata import version, PackageNotFoundError\n"
        "for name in ('fastmcp', 'mcp'):\n"
        "    try: print(name, version(name), end=' ')\n"
        "    except PackageNotFoundError: pass"
    )
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _complete(python: Path, also: Sequence[str]) -> bool:
    probe = subprocess.run(
        [python, "-c", ", ".join((_PROBE, *also))], check=False, capture_output=True
    )
    return probe.returncode == 0


def _install(python: Path, wanted: list[str]) -> None:
    """Our dependencies and the SDK; the package itself is found in the checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *wanted, "uvicorn>=0.34"]
    command = [python, "-m", "pip", "install", "--quiet", *requirements]
    subprocess.run(command, check=True)
