"""The guide shows what one sees: each block of it is a command and its output on the scene."""

import contextlib
import re
from pathlib import Path

import pytest

from tests.cli.scene import Scene

GUIDE = Path(__file__).parents[2] / "examples" / "guides" / "command-line.md"
BLOCK = re.compile(r"```console\n\$ mcp-persist-middleware ([^\n]+)\n(.*?)```", re.DOTALL)
NAMES = ("finished", "running", "orphan", "lacking", "listening")
# What differs from one time to the next, and the place of the file.
_VARIES = (
    (r"SQLite [\d.]+", "SQLite 3"),
    (r"\bA[\w-]{21}(?!\w)", "STREAM"),
    (r"\d{4}-\d\d-\d\dT[\d:+]+", "TIME"),
    (r"[\d.]+ (s|min|h|d)\b( \d+ (s|min|h))?", "SPAN"),
    (r"[\d.]+ (B|KiB|MiB|GiB|TiB)\b", "SIZE"),
    (r"with [\w, ]+?, (?=\w)|, without [\w, ]+", ""),
    (r"(schema +ok|Schema|known here) +\d+", r"\1 N"),
    (r"\s+", " "),
)


def ran(scene: Scene, command: str) -> str:
    """What it prints, in the directory of the store; streams are named as they are in the guide."""
    words = [getattr(scene, word, word) if word in NAMES else word for word in command.split()]
    file = Path(scene.environ["MCP_PERSIST_URL"])
    with contextlib.chdir(file.parent):
        lines = scene.run(*words, MCP_PERSIST_URL=file.name).lines
    return "".join(f"{line.rstrip()}\n" for line in lines)


def same(text: str) -> str:
    for pattern, instead in _VARIES:
        text = re.sub(pattern, instead, text)
    return text.strip()


@pytest.mark.parametrize(("command", "shown"), BLOCK.findall(GUIDE.read_text()))
def test_the_guide_shows_what_one_sees(scene: Scene, command: str, shown: str) -> None:
    assert same(ran(scene, command)) == same(shown)


def test_every_command_is_in_the_guide(scene: Scene) -> None:
    text, listed = GUIDE.read_text(), scene.run("--help").out
    names = re.findall(r"^│ ([a-z]+) ", listed, re.MULTILINE)
    assert len(names) > 15
    assert [
        name for name in names if f"`{name}" not in text and f"middleware {name}" not in text
    ] == []
