"""What the tests of several workers share."""

from pathlib import Path

import pytest

from tests.support.stores import STORES, Store


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of this test's own."""
    return STORES[request.param](tmp_path, request.getfixturevalue)
