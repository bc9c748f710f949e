"""A body costs what its bytes cost, however a client cuts it up."""

import contextvars
import weakref
from collections.abc import Iterable
from typing import Any

import pytest

from mcp_persist_middleware.asgi import body as bodies
from mcp_persist_middleware.asgi.attempt import Attempt
from mcp_persist_middleware.asgi.body import Body, Repeatable
from mcp_persist_middleware.asgi.client import nowhere


def sent(parts: Iterable[bytes]) -> Any:
    """A `receive` that gives these parts of a body."""
    waiting = iter([*parts, None])
    after: list[bytes | None] = [next(waiting)]

    async def receive() -> dict[str, Any]:
        part = after.pop()
        after.append(next(waiting, None))
        return {"type": "http.request", "body": part, "more_body": after[0] is not None}

    return receive


async def test_empty_messages_without_end_are_not_kept() -> None:
    parts = [b"", b"{"] + [b""] * 50_000 + [b"}"]
    attempt = Attempt(sent(parts), nowhere)
    body = await bodies.read(attempt.receive, 1000)
    assert (body.content, body.complete, len(body.messages)) == (b"{}", True, 2)


async def test_a_body_in_very_many_parts_is_kept_as_few_and_read_again_whole() -> None:
    parts = [b"%d," % number for number in range(20_000)]
    attempt = Attempt(sent(parts), nowhere)
    for _ in range(2):
        attempt.rewind()
        body = await bodies.read(attempt.receive, 1_000_000)
        assert body.complete
        assert body.content == b"".join(parts)
        assert len(body.messages) <= 257
    request = Repeatable(sent(parts), 1_000_000)
    assert await request.whole() == b"".join(parts)
    assert (await request.receive())["body"] == b"".join(parts)


@pytest.mark.parametrize("parts", [[b"x" * 1500], [b"x" * 600] * 2, [b"x" * 600] * 5])
async def test_the_rest_of_a_large_body_is_read_to_its_end_and_not_beyond(
    parts: list[bytes],
) -> None:
    attempt = Attempt(sent(parts), nowhere)
    body = await bodies.read(attempt.receive, 1000)
    assert not body.complete

    async def receive() -> dict[str, Any]:
        message: dict[str, Any] = dict(await attempt.receive())
        assert message["body"] is not None, "nothing is left to come"
        return message

    assert await bodies.read_on(body, receive, lambda _: True, 1.0)
    assert (body.complete, body.content) == (True, b"".join(parts))


async def test_a_body_that_is_too_large_to_be_kept_passes_whole() -> None:
    parts = [b"x" * 600] * 3
    request = Repeatable(sent(parts), 1000)
    assert await request.whole() is None
    read, more = b"", True
    while more:
        message = await request.receive()
        read, more = read + message["body"], message["more_body"]
    assert read == b"".join(parts)


class _Connection:
    """What a server has for a request."""

    async def receive(self) -> dict[str, Any]:
        raise AssertionError("its request is over")

    async def send(self, _: Any) -> None:
        raise AssertionError("its request is over")


async def test_what_keeps_the_context_of_a_request_keeps_no_connection() -> None:
    connection = _Connection()
    attempt = Attempt(connection.receive, connection.send)
    with attempt:
        kept = contextvars.copy_context()
    assert attempt in kept.values()
    alive = weakref.ref(connection)
    del connection
    assert alive() is None
    assert await attempt.receive() == {"type": "http.disconnect"}


class _Message(dict[str, Any]):
    """One that can be watched."""


async def test_what_keeps_a_receive_keeps_no_message_that_it_has_given() -> None:
    body = Body([_Message(type="http.request", body=b"{}", more_body=False)], complete=True)
    receive = bodies.replay(body, nowhere)  # type: ignore[arg-type]
    alive = weakref.ref(await receive())
    del body
    assert alive() is None
