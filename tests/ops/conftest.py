"""What the tests of copies share: stores, two at a time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ops.filled import Given

New = Callable[[str], Given]


@pytest.fixture
def new_store(tmp_path: Path, request: pytest.FixtureRequest) -> New:
    """Makes stores that are empty: their settings."""
    made: list[str] = []

    def make(kind: str) -> Given:
        made.append(kind)
        if kind == "postgres":
            return {"url": request.getfixturevalue("new_postgres")()}
        return {"url": f"sqlite+aiosqlite:///{tmp_path / f'{len(made)}.db'}"}

    return make


@pytest.fixture(params=["sqlite-postgres", "postgres-sqlite"])
def both(request: pytest.FixtureRequest, new_store: New) -> tuple[Given, Given]:
    """A store and another one of the other kind."""
    first, second = request.param.split("-")
    return new_store(first), new_store(second)
