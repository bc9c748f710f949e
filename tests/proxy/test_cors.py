"""Pages of the origins that an operator names may speak to the proxy, others may not."""

from pathlib import Path

import pytest

from mcp_persist_middleware import ConfigurationError
from mcp_persist_middleware.ops.proxy import proxy_app, with_cors
from tests.proxy.wired import wired
from tests.support.scripted import serving
from tests.support.sse_client import Response, request

PAGE = "https://app.example"
ANSWER = (
    b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\nvary: Accept\r\n"
    b"access-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\n"
    b"content-length: 0\r\n\r\n"
)


async def preflight(port: int, origin: str = PAGE) -> Response:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "mcp-session-id,last-event-id,mcp-param-region",
    }
    return await request(port, "OPTIONS", "/mcp", headers=asked)


async def test_a_preflight_is_answered_without_the_upstream(tmp_path: Path) -> None:
    async with wired(ANSWER) as upstream:
        proxy = proxy_app(f"http://127.0.0.1:{upstream.port}/mcp", str(tmp_path / "events.db"))
        async with serving(with_cors(proxy, [PAGE])) as port:
            allowed = await preflight(port)
            assert allowed.status == 200
            assert allowed.headers["access-control-allow-origin"] == PAGE
            assert "DELETE" in allowed.headers["access-control-allow-methods"]
            assert "mcp-param-region" in allowed.headers["access-control-allow-headers"]
            other = await preflight(port, "https://other.example")
            assert other.status == 400
            assert "access-control-allow-origin" not in other.headers
        assert not upstream.asked


@pytest.mark.parametrize(
    ("origins", "origin", "told"),
    [
        ([PAGE], PAGE, PAGE),
        (["*"], PAGE, "*"),
        ([PAGE], "https://other.example", None),
        ([PAGE], None, None),
    ],
)
async def test_an_answer_says_who_may_read_it_and_what_the_upstream_says_of_that_is_dropped(
    tmp_path: Path, origins: list[str], origin: str | None, told: str | None
) -> None:
    async with wired(ANSWER) as upstream:
        proxy = proxy_app(f"http://127.0.0.1:{upstream.port}/mcp", str(tmp_path / "events.db"))
        async with serving(with_cors(proxy, origins)) as port:
            sent = {"origin": origin} if origin else {}
            response = await request(port, "POST", "/mcp", headers=sent, body=b"{}")
    assert response.status == 401
    assert response.headers.get("access-control-allow-origin") == told
    assert "access-control-allow-credentials" not in response.headers
    assert "Accept" in response.headers["vary"]
    if told is not None:
        exposed = response.headers["access-control-expose-headers"]
        assert {"Mcp-Session-Id", "WWW-Authenticate"} <= set(exposed.split(", "))


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "null", ""])
def test_what_no_page_can_have_as_its_origin_is_named(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="expected an origin such as"):
        with_cors(proxy_app("http://127.0.0.1:1/mcp"), [origin])
