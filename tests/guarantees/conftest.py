"""What the guarantee tests share."""

from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URL of a store of this test's own."""
    return f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"
