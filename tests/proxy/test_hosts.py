"""A page of somebody else's cannot reach a proxy on this machine under its own name."""

import pytest
from starlette.responses import PlainTextResponse

from mcp_persist_middleware.ops.proxy.hosts import AllowedHosts, names_of
from tests.support.scripted import serving
from tests.support.sse_client import request


@pytest.mark.parametrize(
    ("listening", "allowed", "host", "status"),
    [
        ("127.0.0.1", [], "127.0.0.1:8080", 200),
        ("127.0.0.1", [], "LOCALHOST", 200),
        ("::1", [], "[::1]:8080", 200),
        ("127.0.0.1", [], "[::1]", 200),
        ("127.0.0.1", [], "evil.example:8080", 421),
        ("127.0.0.1", [], "", 421),
        ("127.0.0.1", [], "localhost.evil.example", 421),
        ("127.0.0.1", ["mcp.example"], "mcp.example", 200),
        ("127.0.0.1", ["*"], "evil.example", 200),
        ("0.0.0.0", [], "mcp.example", 200),
        ("0.0.0.0", ["mcp.example"], "evil.example", 421),
    ],
)
async def test_only_names_that_are_served_are_answered(
    listening: str, allowed: list[str], host: str, status: int
) -> None:
    names = names_of(listening, allowed)
    answer = PlainTextResponse("here")
    async with serving(answer if names is None else AllowedHosts(answer, names)) as port:
        response = await request(port, "POST", "/mcp", headers={"host": host}, body=b"{}")
        assert response.status == status
