"""The scene, once for each module, on a SQLite file; it may not be changed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.cli.scene import Scene, played


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    """An event loop beside the one that each command runs for itself."""
    with start_blocking_portal() as made:
        yield made


@pytest.fixture(scope="module")
def scene(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """What commands that only look are shown."""
    file = tmp_path_factory.mktemp("scene") / "events.db"
    with portal.wrap_async_context_manager(played({"url": str(file)})) as made:
        yield made


@pytest.fixture
def fresh(portal: BlockingPortal, tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """Makes scenes of a test's own, which it may change."""
    with ExitStack() as stack:

        def make(**settings: str) -> Scene:
            given = {"url": str(tmp_path / "events.db"), **settings}
            return stack.enter_context(portal.wrap_async_context_manager(played(given)))

        yield make
