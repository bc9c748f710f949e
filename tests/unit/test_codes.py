"""Every error and every warning has a code, and every code is explained."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mcp_persist_middleware
from mcp_persist_middleware.ops.codes import CODES, page
from tests.cli.scene import run
from tests.support.processes import ROOT

HOUSE = Path(mcp_persist_middleware.__file__).parent
_LEVELS = {"warning", "error", "exception", "critical", "log"}
_CODE = re.compile(r"MPM-[A-Z]+-\d\d")
# The lines of somebody else's program, at the level that the user chose.
_QUOTED = {"ops/proxy/stdio/process.py"}
# Not raised to users: what is said of one is said in a line or an error that has a code (of
# DemoError by the demo, as it came).
_INTERNAL = {
    *("RedisAwayError", "RefusedError", "_FencedError", "DemoError", "UnstartableError"),
    *("InvalidError", "TooLongError", "BusyError", "GoneError", "_ClientGoneError"),
    *("NotSentError", "UnreachableError", "UnreadableError", "_LostError"),
}


def _nodes(text: str) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(text))


def uncoded(text: str) -> list[str]:
    """The log lines and error classes of a source that have no code of their own."""
    found = []
    for node in _nodes(text):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="logger" | "log" | "logging"), attr=attr)
            ) if attr in _LEVELS:
                first = node.args[1 if attr == "log" else 0]
                said = first.value if isinstance(first, ast.Constant) else ""
                if not re.match(_CODE.pattern + ": ", str(said)):
                    found.append(f"line {node.lineno}: {ast.unparse(node)}")
            case ast.ClassDef(name=name, bases=bases) if name not in _INTERNAL and any(
                ast.unparse(base).endswith(("Error", "Exception")) for base in bases
            ):
                own = (t for t in node.body if isinstance(t, ast.Assign | ast.AnnAssign))
                if not any(ast.unparse(t).startswith("code") for t in own):
                    found.append(f"line {node.lineno}: class {name}")
    return found


SOURCES = {str(path.relative_to(HOUSE)): path.read_text() for path in HOUSE.rglob("*.py")}


def test_every_error_and_every_warning_has_a_code() -> None:
    assert {
        name: lines
        for name, text in SOURCES.items()
        if name not in _QUOTED and (lines := uncoded(text))
    } == {}


@pytest.mark.parametrize(
    "text",
    [
        'logger.warning("A line of %s", x)',
        "logger.error(text)",
        'logger.exception("%s", error)',
        'class NewError(PersistError):\n    """New."""',
        "class NewError(Exception): ...",
    ],
)
def test_what_has_none_is_found(text: str) -> None:
    assert len(uncoded(text)) == 1


def test_the_codes_that_are_said_are_those_that_are_explained() -> None:
    said = {
        code
        for name, text in SOURCES.items()
        if not name.startswith("ops/codes/") and name != "ops/commands/explain.py"
        for code in _CODE.findall(text)
    }
    assert said == CODES.keys()


def test_each_error_class_has_a_code_that_no_other_has() -> None:
    codes = re.findall(r'^    code(?:: .*)? = "(.*)"$', "".join(SOURCES.values()), re.MULTILINE)
    assert len(codes) == len(set(codes)) > 20


def test_every_code_has_a_cause_and_a_fix() -> None:
    assert [each for each in CODES.values() if not each.cause or not each.fix] == []
    mentioned = {code for each in CODES.values() for code in _CODE.findall(each.fix)}
    assert mentioned <= CODES.keys()


def test_the_guide_is_the_list() -> None:
    assert (ROOT / "examples" / "guides" / "errors.md").read_text() == page()


def test_explain_says_what_a_code_means() -> None:
    ran = run("explain", "mpm-store-02")
    assert ran.code == 0
    assert "MPM-STORE-02" in ran.out
    assert "cannot be opened" in ran.out


def test_explain_refuses_a_code_that_there_is_not() -> None:
    ran = run("explain", "MPM-STORE-99")
    assert ran.code == 2
    assert "MPM-STORE-99" in ran.err
