"""What a row of the journal takes of the processor: at the exchange, and beside it."""

import time

from mcp_persist_middleware.journal.writer import JournalWriter
from mcp_persist_middleware.model import ExchangeOutcome, FinishedExchange, Owner
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.connect import make_log
from tests.benchmarks.contenders import OURS
from tests.benchmarks.report import Taken
from tests.benchmarks.rounds import Plan

_OWNER = Owner("default", "/mcp", "5" * 32, "a" * 40)
_SAID = ("tools/call", "quick", "2025-11-25", ExchangeOutcome.OK, "", 0.0, 0.1, 0.2, 100, 300)
_FINISHED = FinishedExchange(*_SAID, _OWNER, bytes(16), "")


async def rows(plan: Plan) -> list[Taken]:
    """Microseconds to take note of an exchange, and to write its row to SQLite."""
    count = plan.pick(2_000, 8_000)
    settings = Settings.load({"url": str(plan.servers.directory / "journal.db")}, {})
    log, noted, written = make_log(settings), [], []
    await log.open("benchmark")
    try:
        assert log.journal is not None
        writer = JournalWriter(log.journal, 30.0, "benchmark")
        for _ in range(plan.rounds):
            began = time.process_time()
            for _ in range(count):
                writer.note(_FINISHED)
            middle = time.process_time()
            await writer.aclose()
            noted.append((middle - began) / count * 1e6)
            written.append((time.process_time() - middle) / count * 1e6)
    finally:
        await log.aclose()
    who = OURS["journal"]
    return [
        Taken("journal-note", who, noted, is_bare=False),
        Taken("journal-row", who, written, is_bare=False),
    ]
