"""The README and the guides say what is true."""

import ast
import re
from dataclasses import fields
from pathlib import Path

from mcp_persist_middleware import Settings, telemetry
from tests.support.documented import attribute_docs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = {path.stem: path.read_text() for path in (ROOT / "examples" / "guides").glob("*.md")}


def test_the_settings_table_has_every_setting_with_its_default_and_its_help() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (.+) \|$", GUIDES["settings"], re.MULTILINE)
    table = {
        name: (ast.literal_eval(default), f"{text[0].upper()}{text[1:]}.")
        for name, default, text in rows
    }
    docs = attribute_docs(Settings)
    real = {f.name: (f.default, docs[f.name]) for f in fields(Settings)}
    assert table == real


def test_the_settings_in_the_readme_have_the_same_defaults() -> None:
    row = re.compile(r"^\| `(\w+)` \| `(.+?)` \|", re.MULTILINE)
    rows = set(row.findall(README))
    assert len(rows) > 10
    assert rows <= set(row.findall(GUIDES["settings"]))


def test_the_readme_is_read_in_minutes() -> None:
    assert len(README.splitlines()) <= 200


def test_every_instrument_is_named() -> None:
    source = Path(telemetry.__file__).read_text()
    for name in re.findall(r'"mcp_persist(\.[a-z_.]+)"', source):
        assert name in GUIDES["operating"] or name == ".replay", name


def test_the_two_commands_are_one_line_each() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("mcp-persist-middleware demo")
    assert commands[1].endswith("pytest")
