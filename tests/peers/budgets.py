"""How long a lone worker may be gone after `kill -9` until an official client has given up, by the
`retry` that it was told: `python -m tests.peers.budgets`. Two minutes; nothing else should run.

What a client gets in time is the honest error of a call that died with its worker; one that has
given up gets an error of its own, or waits until its own time is over.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.matrix.clients import CLIENTS
from tests.support.processes import mcp_server, running

_CALL_SECONDS, _CUT_AFTER = 20.0, 1.0


async def outcome(client: str, retry_ms: int, down: float) -> str:
    """What becomes of a call whose worker is gone for so long (seconds)."""
    settings = {"retry_ms": retry_ms, "modern_retry_ms": retry_ms, "lease_seconds": 2}
    settings["store_timeout"] = 1
    with tempfile.TemporaryDirectory() as directory:
        async with running(mcp_server(Path(directory), settings=settings)) as server:
            began = time.monotonic()
            async with CLIENTS[client](server.url) as call_tool:
                arguments = {"n": 100, "delay": 0.1}

                async def seen(*_: object) -> None: ...

                call = asyncio.ensure_future(call_tool("count", arguments, seen))
                await asyncio.sleep(_CUT_AFTER)
                await server.kill()
                await asyncio.sleep(down)
                await server.start()
                done, _ = await asyncio.wait({call}, timeout=_CALL_SECONDS)
                seconds = time.monotonic() - began - _CUT_AFTER
                if not done:
                    call.cancel()
                    return f"waits for more than {_CALL_SECONDS:g} s"
                error = str(call.exception())
                honest = "Interrupted" in error
                return f"{'its own error' if honest else error[:40]} after {seconds:.1f} s"


async def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--client", default=[*CLIENTS], nargs="*")
    parser.add_argument("--retry-ms", type=int, default=[1000, 2000, 3000], nargs="*")
    parser.add_argument("--down", type=float, default=[0.2, 1.5, 3.0], nargs="*")
    given = parser.parse_args()
    for client in given.client:
        for retry_ms in given.retry_ms:
            for down in given.down:
                try:
                    told = await outcome(client, retry_ms, down)
                except Exception as error:
                    told = f"the client fails: {type(error).__name__}"
                print(f"{client:20} retry {retry_ms} ms, gone {down:g} s + start: {told}")


if __name__ == "__main__":
    asyncio.run(main())
