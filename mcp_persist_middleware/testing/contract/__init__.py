"""What every store has to do, as tests: a class to derive from.

    class TestMyLog(StoreContract):
        @pytest.fixture
        def make_log(self, tmp_path):
            return lambda: MyLog(tmp_path / "events")

`make_log` makes logs, none of them open, on one and the same store, which no other test uses.
"""

from collections.abc import AsyncIterator

try:
    import pytest
    import pytest_asyncio
except ImportError as error:
    raise ImportError(
        "The contract suite needs pytest and pytest-asyncio: "
        "pip install 'mcp-persist-middleware[testing]'"
    ) from error

# Before they are imported: a failed assertion shows its values then, as in tests of one's own.
pytest.register_assert_rewrite(f"{__name__}.cases")

from mcp_persist_middleware.store import EventLog  # noqa: E402
from mcp_persist_middleware.testing.contract.builders import Factory  # noqa: E402
from mcp_persist_middleware.testing.contract.cases.appending import Appending  # noqa: E402
from mcp_persist_middleware.testing.contract.cases.erasing import Erasing  # noqa: E402
from mcp_persist_middleware.testing.contract.cases.jobs import JobTable  # noqa: E402
from mcp_persist_middleware.testing.contract.cases.journal import Journals  # noqa: E402
from mcp_persist_middleware.testing.contract.cases.keeping import Keeping  # noqa: E402
from mcp_persist_middleware.testing.contract.cases.reader_notes import Readers  # noqa: E402
from mcp_persist_middleware.testing.contract.cases.reading import Reading  # noqa: E402
from mcp_persist_middleware.testing.contract.cases.relayed_requests import RelayedRequests  # noqa: E402
from mcp_persist_middleware.testing.contract.cases.session_table import SessionTable  # noqa: E402
from mcp_persist_middleware.testing.contract.cases.waking import Waking  # noqa: E402
from mcp_persist_middleware.testing.contract.cases.worker_table import Workers  # noqa: E402

__all__ = ["Factory", "StoreContract"]


@pytest.mark.asyncio
class StoreContract(
    Appending,
    Erasing,
    JobTable,
    Journals,
    Keeping,
    RelayedRequests,
    Readers,
    Reading,
    SessionTable,
    Waking,
    Workers,
):
    """Derive from it, name your class `Test...`, and give it the fixture `make_log`."""

    @pytest_asyncio.fixture
    async def log(self, make_log: Factory) -> AsyncIterator[EventLog]:
        """The open log of one worker."""
        made = make_log()
        await made.open("one")
        yield made
        await made.aclose()

    @pytest_asyncio.fixture
    async def other(self, make_log: Factory, log: EventLog) -> AsyncIterator[EventLog]:
        """Another worker's, on the same store."""
        del log
        made = make_log()
        await made.open("two")
        yield made
        await made.aclose()
