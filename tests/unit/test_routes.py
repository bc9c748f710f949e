"""Where a request of a session is served: a table."""

import pytest

from mcp_persist_middleware.model import SessionKey, SessionRecord
from mcp_persist_middleware.relay.outcome import RelayFailure
from mcp_persist_middleware.relay.route import Here, Home, SessionState, There, route

RECORD = SessionRecord(SessionKey("d", "/mcp", "s"), "ann", "2025-11-25", b"", 1, "one", 1.0)
HERE, NOWHERE, ELSEWHERE, VACANT = Home


@pytest.mark.parametrize(
    ("state", "way"),
    [
        (SessionState(HERE), Here()),
        (SessionState(NOWHERE), Here()),
        (SessionState(ELSEWHERE, RECORD), There(RECORD)),
        (SessionState(ELSEWHERE, RECORD, is_to_a_call=True), There(RECORD)),
        # What may not lie in the store takes its session along,
        (SessionState(ELSEWHERE, RECORD, may_travel=False), Here(takes_over=True)),
        # or is refused where that would tell nobody anything.
        (
            SessionState(ELSEWHERE, RECORD, may_travel=False, is_to_a_call=True),
            RelayFailure.UNSEALED,
        ),
        (SessionState(VACANT), Here(takes_over=True)),
        (SessionState(VACANT, may_travel=False, is_to_a_call=True), Here(takes_over=True)),
    ],
)
def test_a_request_is_served_where_its_session_is(
    state: SessionState, way: Here | There | RelayFailure
) -> None:
    assert route(state) == way
