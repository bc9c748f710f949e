"""A server that starts fast and keeps a record of what it ran, for tests that kill it often.

`TEST_RAN` names the file in which each execution of a call leaves its name.
"""

import asyncio
import os
import random

from mcp_persist_middleware import PersistMiddleware
from tests.support.scripted import Call, Scripted


async def count(call: Call) -> None:
    """Report progress at an uneven pace."""
    arguments = call.request["params"]["arguments"]
    descriptor = os.open(os.environ["TEST_RAN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{arguments['name']}\n".encode())
    os.close(descriptor)
    await call.head()
    for value in range(1, arguments["n"] + 1):
        await asyncio.sleep(random.choice((0, 0, 0.002, 0.01)))
        await call.progress(value, arguments["name"])
    await call.result(arguments["name"])


def app() -> PersistMiddleware:
    """The application, with its store from the environment."""
    return PersistMiddleware(Scripted(count=count))
