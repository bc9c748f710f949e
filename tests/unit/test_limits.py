"""What keeps the house readable: how long a file and a function may be, that tasks begin in one
place, and that a word means one thing. Whoever is over a limit splits by meaning; an exception is
named here, and only goes."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mcp_persist_middleware

HOUSE = Path(mcp_persist_middleware.__file__).parent
FILE_LINES, FUNCTION_LINES = 300, 40

# Over the limit today.
LONG_FILES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()

# What begins a task; `supervision` alone does, and says there who owns it.
BEGINNINGS = {"create_task", "ensure_future", "run_coroutine_threadsafe"}


@cache
def sources() -> dict[str, str]:
    return {str(path.relative_to(HOUSE)): path.read_text() for path in HOUSE.rglob("*.py")}


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for name, source in sources().items():
        for node in ast.walk(ast.parse(source)):
            yield name, node


def test_no_file_is_longer_than_a_reader_keeps_in_mind() -> None:
    long = {name for name, text in sources().items() if len(text.splitlines()) > FILE_LINES}
    assert long == LONG_FILES


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Its lines but for what its docstring says."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def test_no_function_is_longer_than_a_page() -> None:
    long = {
        f"{name} {node.name}"
        for name, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and length(node) > FUNCTION_LINES
    }
    assert long == LONG_FUNCTIONS


def test_a_task_begins_in_one_place_which_knows_its_owner() -> None:
    places = {
        name
        for name, node in nodes()
        if (isinstance(node, ast.Attribute) and node.attr in BEGINNINGS)
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.Task")
    }
    assert places == {"supervision.py"}


def words(source: str) -> set[str]:
    """The classes of a module, also those that a function makes, and the types that it names."""
    module = ast.parse(source)
    classes = {node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef)}
    assigned = [node.targets[0] for node in module.body if isinstance(node, ast.Assign)]
    names = {target.id for target in assigned if isinstance(target, ast.Name)}
    return classes | {
        name for name in names if name.lstrip("_")[:1].isupper() and not is_constant(name)
    }


def is_constant(name: str) -> bool:
    return name == name.upper()


def test_one_word_means_one_thing() -> None:
    modules: dict[str, set[str]] = defaultdict(set)
    for name, source in sources().items():
        for word in words(source):
            modules[word].add(name)
    assert {word: names for word, names in modules.items() if len(names) > 1} == {}
