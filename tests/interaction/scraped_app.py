"""Does what the guide says for a Prometheus scrape, serves a call, and prints what Prometheus reads
and which names the dashboard asks for. A process of its own: providers are set once for each."""

import asyncio
import json
import re
import tempfile
import urllib.request

from tests.support.processes import ROOT
from tests.support.stores import free_port

GUIDE = (ROOT / "examples" / "guides" / "telemetry.md").read_text()
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


async def call() -> None:
    from tests.support.scripted import Call, Scripted, persisted
    from tests.support.session import RawSession

    async def two(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.result()

    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite+aiosqlite:///{directory}/events.db"
        async with persisted(Scripted(two=two), url) as (port, _):
            session = await RawSession.open(port)
            await (await session.call("two")).body()
            await session.delete()
            served, names = read(), measured()
            print(json.dumps({"served": served, "names": names, "all": read()}))


def read() -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=10) as found:
        return found.read().decode()


def measured() -> dict[str, str]:
    """Let each instrument measure something; its kind, by what the dashboard calls it."""
    from mcp_persist_middleware.ops.monitoring import promql
    from mcp_persist_middleware.telemetry import INSTRUMENTS, serving, storing
    from mcp_persist_middleware.telemetry.instrument import Counted, Measured

    for each in [*vars(serving).values(), *vars(storing).values()]:
        match each:
            case Counted(said=said):
                each.add(1, dict.fromkeys(said.by, "x"))
            case Measured(said=said):
                each.record(1, dict.fromkeys(said.by, "x"))
    return {promql.metric(each): each.kind for each in INSTRUMENTS}


PORT = free_port()
(block,) = BLOCK.findall(GUIDE)
assert "9464" in block
exec(block.replace("9464", str(PORT)), {})
asyncio.run(call())
