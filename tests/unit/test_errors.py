"""What an error says is what its class says."""

from collections.abc import Iterator
from string import Formatter

import pytest

from mcp_persist_middleware import errors
from mcp_persist_middleware.errors import PersistError


def _classes(of: type[PersistError] = PersistError) -> Iterator[type[PersistError]]:
    yield of
    for below in of.__subclasses__():
        yield from _classes(below)


@pytest.mark.parametrize("kind", sorted(set(_classes()), key=lambda c: c.__name__))
def test_the_docstring_is_the_message(kind: type[PersistError]) -> None:
    text = " ".join((kind.__doc__ or "").split())
    names = {name for _, name, _, _ in Formatter().parse(text) if name}
    error = kind(**{name: f"<{name}>" for name in names})
    assert str(error).startswith(f"{kind.code}: ")
    assert "\n" not in str(error)
    assert str(error).endswith("."), "another sentence may follow"
    for name in names:
        assert f"<{name}>" in str(error)


def test_braces_in_a_value_are_only_text() -> None:
    assert "{x}" in str(errors.ConfigurationError(reason="{x}"))
