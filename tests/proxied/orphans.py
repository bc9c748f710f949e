"""`kill -9` of a proxy in front of servers on pipes, again and again, at random moments under load:
no process is left, every call ends, and every session goes on.

    python -m tests.proxied.orphans [ROUNDS] [SESSIONS]
"""

import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.proxy.test_kept_stdio import arguments
from tests.proxy.test_stdio import is_alive, pid
from tests.support.processes import ServerProcess, running
from tests.support.session import RawSession, last_id

APP = "mcp_persist_middleware.ops.proxy_command:application()"


async def ended(session: RawSession, begun: asyncio.Semaphore) -> int:
    """A call that a killed proxy may cut; 1 if it did, when it has ended all the same."""
    response = await session.call("count", n=200, delay=0.01)
    seen = await response.take(1)
    begun.release()
    with contextlib.suppress(OSError, EOFError):
        async for frame in response.frames():
            seen += [frame] if frame.data else []
            if frame.is_response:
                return 0
    for _ in range(100):
        with contextlib.suppress(OSError, EOFError):
            resumed = await session.get(last_id(seen))
            async for frame in resumed.frames():
                if frame.is_response:
                    return 1
        await asyncio.sleep(0.1)
    raise AssertionError("a call has not ended")


async def main(rounds: int, count: int) -> None:
    """Print what became of it."""
    with tempfile.TemporaryDirectory() as directory:
        environ = {"_MCP_PERSIST_PROXY": json.dumps(arguments(Path(directory)))}
        proxy = ServerProcess(APP, Path(directory) / "proxy.log", environ=environ)
        async with running(proxy):
            sessions = await asyncio.gather(*(RawSession.open(proxy.port) for _ in range(count)))
            left, slowest, cut = 0, 0.0, 0
            for _ in range(rounds):
                processes = [process for process, _ in await asyncio.gather(*map(pid, sessions))]
                begun = asyncio.Semaphore(0)
                calls = [asyncio.create_task(ended(session, begun)) for session in sessions]
                for _ in sessions:
                    await begun.acquire()
                await asyncio.sleep(random.uniform(0, 1))
                await proxy.kill()
                killed_at = time.monotonic()
                while any(map(is_alive, processes)) and time.monotonic() < killed_at + 10:
                    await asyncio.sleep(0.02)
                slowest = max(slowest, time.monotonic() - killed_at)
                left += sum(map(is_alive, processes))
                await proxy.start()
                cut += sum(await asyncio.gather(*calls))
        print(
            f"{rounds} kills, {count} sessions: {left} processes left, the last gone after "
            f"{slowest:.2f} s at most; {cut} of {rounds * count} calls cut, all ended; "
            f"complaints: {proxy.complaints or 'none'}"
        )


if __name__ == "__main__":
    asyncio.run(main(*(int(n) for n in (sys.argv[1:] + ["20", "10"][len(sys.argv) - 1 :]))))
