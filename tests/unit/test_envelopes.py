"""What travels between two workers arrives as it was sent, and only where it was sent to."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware.model import Event, EventKind, StreamKind
from mcp_persist_middleware.quota import Quota
from mcp_persist_middleware.relay import sealing
from mcp_persist_middleware.relay.envelope import (
    BufferedResponse,
    NotExecuted,
    Reply,
    RequestEnvelope,
    StreamResponse,
    unpack_reply,
)
from mcp_persist_middleware.relay.sealing import Seal, UnreadableError, seal

HEADERS = st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=50)))
IDS = st.one_of(st.none(), st.integers(), st.text(max_size=20))


def scope(**more: Any) -> dict[str, Any]:
    """What a server hands over, and what layers have put there."""
    return {
        "type": "http",
        "method": "POST",
        "path": "/a/mcp",
        "root_path": "/a",
        "raw_path": b"/a/mcp",
        "scheme": "https",
        "http_version": "2",
        "query_string": b"q=\xff",
        "client": ("10.0.0.1", 5),
        "server": ("mcp.test", 443),
        "headers": [],
        "user": object(),
        "state": {"pool": object()},
        **more,
    }


@given(HEADERS, st.binary(max_size=200))
def test_a_request_arrives_with_its_named_parts_and_nothing_else(
    headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    sent = scope(headers=headers)
    got = RequestEnvelope.unpack(RequestEnvelope(sent, body, "n", {"tenant": 7}).pack())
    assert got.body == body
    assert got.outer == {"tenant": 7}
    assert got.namespace == "n"
    assert got.scope == {k: v for k, v in sent.items() if k not in ("user", "state")}


@given(
    st.one_of(
        st.builds(
            StreamResponse,
            st.binary(min_size=16, max_size=16),
            st.sampled_from(StreamKind),
            IDS,
            HEADERS,
            st.integers(0, 1 << 40),
            st.booleans(),
            st.integers(0, 1 << 40),
            st.lists(
                st.builds(
                    Event,
                    st.integers(1, 1 << 40),
                    st.integers(1, 1 << 30),
                    st.sampled_from(EventKind),
                    st.binary(max_size=50),
                    st.just(0),
                ),
                max_size=4,
            ).map(tuple),
        ),
        st.builds(BufferedResponse, st.integers(100, 599), HEADERS, st.binary(max_size=200)),
        st.builds(NotExecuted, st.booleans()),
    )
)
def test_a_reply_arrives_as_it_was_sent(reply: Reply) -> None:
    assert unpack_reply(reply.pack()) == reply


def test_a_box_opens_for_its_addressee_and_its_request_alone() -> None:
    assert sealing.is_available()
    one, two = Seal(), Seal()
    box = seal(b"a secret", one.public, b"letter")
    assert b"a secret" not in box
    assert box != seal(b"a secret", one.public, b"letter")
    assert one.open(box, b"letter") == b"a secret"
    for key, content, relayed in (
        (two, box, b"letter"),
        (one, box, b"another"),
        (one, box[:-1] + bytes([box[-1] ^ 1]), b"letter"),
        (one, bytes([box[0] ^ 1]) + box[1:], b"letter"),
        (one, box[:10], b"letter"),
        (one, b"", b"letter"),
    ):
        with pytest.raises(UnreadableError):
            key.open(content, relayed)


def test_large_bodies_have_room_until_their_owner_or_everybody_has_his_share() -> None:
    rooms = Quota(100, 50)
    with rooms.of("ann") as one, rooms.of("ann") as two, rooms.of("bob") as three:
        assert one.take(30)
        assert not two.take(30)
        assert two.take(20)
        assert three.take(50)
        with rooms.of("eve") as four:
            assert not four.take(1)
    with rooms.of("eve") as four:
        assert four.take(50)
    assert not rooms._taken
