"""What the tests of several workers share."""

from pathlib import Path

import pytest

from tests.support.stores import STORES, Store


# Processes take their time: these stores, of all that there are.
@pytest.fixture(params=["sqlite", "postgres", "sqlite+redis", "postgres+redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of this test's own."""
    return STORES[request.param](tmp_path, request.getfixturevalue)
