"""What codecs cost a call and save on disk, by what its tool answers."""

import json
import os
import time
from statistics import median

from mcp_persist_middleware.log.codecs.chain import Bound, Chain
from mcp_persist_middleware.log.codecs.coded import CodedLog
from mcp_persist_middleware.model import Event, EventKind, StreamWrite
from mcp_persist_middleware.protocol import sse
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.connect import make_log
from tests.benchmarks import library, texts
from tests.benchmarks.contenders import OURS, Contender
from tests.benchmarks.report import Taken
from tests.benchmarks.rounds import Plan, over_bare
from tests.benchmarks.servers import Server
from tests.benchmarks.wire import Client

_STORED = {"2k": 500, "200k": 50, "1m": 10}


async def sized_calls(plan: Plan) -> list[Taken]:
    """One client, a call after the other, each answered with so much."""
    taken = []
    for kind in texts.KINDS:
        count = plan.pick(10, 40) if kind == "1m" else plan.pick(30, 150)

        async def take(server: Server, kind: str = kind, count: int = count) -> "_Sized":
            async with await Client.open(server.endpoint) as client:
                used, took = server.cpu_us(), []
                for _ in range(count):
                    answer = (await client.call("sized", kind=kind)).check(0, ids=server.ids)
                    took.append((answer.times[-1] - answer.sent) / 1e6)
                return _Sized(median(took), (server.cpu_us() - used) / count)

        rounds = await plan.interleaved("sdk", take, peers=False)
        taken += over_bare({f"sized-{kind}": "p50", f"sized-{kind}-cpu": "cpu"}, rounds)
    return taken


class _Sized:
    """One round: the median time (ms) until all of an answer is here, and the processor's (µs)."""

    def __init__(self, p50: float, cpu: float) -> None:
        self.p50, self.cpu = p50, cpu


async def stored(plan: Plan) -> list[Taken]:
    """Bytes of a SQLite file for each such answer, against the file without codecs."""
    rows = []
    for kind in texts.KINDS:
        plain = [await _bytes(plan, OURS["sqlite"], kind)]
        for contender in plan.ours:
            if contender.store == "sqlite" and contender.redis is None:
                taken = [await _bytes(plan, contender, kind)]
                rows.append(Taken(f"disk-{kind}", contender, taken, plain, is_bare=False))
                rows.append(Taken(f"share-{kind}", contender, taken, plain, is_bare=False))
    return rows


async def coded(plan: Plan) -> list[Taken]:
    """The processor's time for an answer on its way to the store, and back from there."""
    rows = []
    for kind in texts.KINDS:
        frame, count = _frame(kind), _STORED[kind] // 2
        event = Bound.of_event(bytes(16), 1, 1, int(EventKind.RESPONSE))
        for contender in plan.ours:
            if not {"compression", "encryption_keys"} & contender.settings.keys():
                continue
            chain = Chain(Settings.load(contender.settings | {"url": "unused.db"}, {}))
            there, back = [], []
            for _ in range(plan.rounds):
                began = time.thread_time()
                for _ in range(count):
                    codec, payload = chain.encode(frame, event)
                middle = time.thread_time()
                for _ in range(count):
                    chain.decode(codec, payload, event)
                there.append((middle - began) / count * 1e6)
                back.append((time.thread_time() - middle) / count * 1e6)
            rows.append(Taken(f"encode-{kind}", contender, there, is_bare=False))
            rows.append(Taken(f"decode-{kind}", contender, back, is_bare=False))
    return rows


def _frame(kind: str) -> bytes:
    """The event that answers so."""
    result = {"content": [{"type": "text", "text": texts.text(kind)}], "isError": False}
    message = {"jsonrpc": "2.0", "id": 1, "result": result}
    return b"event: message\r\n" + sse.event(json.dumps(message).encode())


async def _bytes(plan: Plan, contender: Contender, kind: str) -> float:
    """What one answer takes in a file of its own, with the stream that it ends."""
    path = plan.servers.directory / f"stored-{os.urandom(4).hex()}.db"
    settings = Settings.load(contender.settings | {"url": str(path)}, {})
    log, count = CodedLog(make_log(settings), settings), _STORED[kind]
    frame = _frame(kind)
    await log.open("benchmark")
    try:
        for _ in range(count):
            stream = library.record()
            event = Event(1, 1, EventKind.RESPONSE, frame)
            await log.append([StreamWrite(stream.id, 1, create=stream, events=(event,))])
    finally:
        await log.aclose()
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*")) / count
