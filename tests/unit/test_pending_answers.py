"""An answer that travels with the word that it is there."""

import asyncio

from mcp_persist_middleware import clients
from mcp_persist_middleware.model import Ending, EventKind, StreamState
from tests.contract.lanes import FRAME, fresh


async def test_a_stream_that_the_store_never_heard_of_is_told_whole_when_it_has_ended() -> None:
    stream = fresh()
    stream.add(EventKind.NOISE, FRAME)
    stream.degrade()
    told = asyncio.create_task(clients._unheard_of(stream))
    await asyncio.sleep(0)
    assert not told.done(), "nobody could read the rest of it"
    stream.add(EventKind.RESPONSE, b"data: answer\r\n")
    stream.ending = Ending(StreamState.COMPLETE, stream.last, 1.0, 2.0)
    stream.degrade()
    async with asyncio.timeout(5):
        events = await told
    assert [(event.epoch, event.frame) for event in events] == [
        (0, FRAME),
        (0, b"data: answer\r\n"),
    ]
