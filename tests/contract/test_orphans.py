"""The end of a stream that a dead worker left open."""

import dataclasses
import json
from typing import Any

from mcp_persist_middleware.log import orphans
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import Event, EventKind, StreamState
from mcp_persist_middleware.protocol import sse
from tests.contract.builders import ALL, new, record


def answer(number: int, request_id: Any) -> Event:
    """The application's answer to a request."""
    message = {"jsonrpc": "2.0", "id": request_id, "result": {}}
    return Event(number, 1, EventKind.RESPONSE, sse.event(json.dumps(message).encode()))


async def test_of_a_batch_each_id_without_an_answer_gets_an_error_and_no_other(
    log: EventLog,
) -> None:
    batch = dataclasses.replace(record(worker="gone"), request_ids=json.dumps([1, "1", "a", 2]))
    await log.append([new(batch, answer(1, "1"), answer(2, 2))])
    ended = await orphans.end(log, batch, 60.0, None)
    assert ended is not None
    assert (ended.state, ended.last_sequence, ended.epoch) == (StreamState.FAILED, 4, 2)
    added = await log.read(batch.id, 2, *ALL)
    assert {event.epoch for event in added} == {2}
    messages = [json.loads(event.frame.split(b"data: ")[1]) for event in added]
    assert sorted((m["id"] for m in messages), key=repr) == ["a", 1]
    assert [type(m["id"]) for m in sorted(messages, key=lambda m: repr(m["id"]))] == [str, int]
    assert all("error" in m for m in messages)


async def test_a_batch_that_was_answered_whole_is_complete(log: EventLog) -> None:
    batch = dataclasses.replace(record(worker="gone"), request_ids=json.dumps([1, "1"]))
    await log.append([new(batch, answer(1, "1"), answer(2, 1))])
    ended = await orphans.end(log, batch, 60.0, None)
    assert ended is not None
    assert (ended.state, ended.last_sequence) == (StreamState.COMPLETE, 2)
