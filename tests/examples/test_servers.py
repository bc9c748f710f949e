"""Each server file starts by the command in its text, and a call that is cut ends whole."""

from pathlib import Path

import pytest

from tests.examples.cut import STEPS, Call, cut_and_check
from tests.examples.started import EXAMPLES, started
from tests.matrix.environments import prepare

SPELL = Call(
    path="/letters/mcp", tool="spell", arguments={"word": "a" * STEPS}, result="-".join("a" * STEPS)
)
SERVERS = {
    "server_sdk.py": [Call(), Call(handshake=True)],
    "server_fastmcp.py": [Call()],
    "server_fastmcp_auth.py": [Call(token="ann-token")],
    "server_fastmcp_run.py": [Call()],
    "server_fastmcp_cli.py": [Call()],
    "server_fastapi.py": [Call()],
    "server_two.py": [Call(path="/numbers/mcp"), SPELL],
    "server_stateless.py": [Call()],
    "server_asgi.py": [Call(handshake=True)],
}
# What is installed beside the tests and not with them: see `pytest -m packages`.
ASIDE = {
    "server_sdk_1.py": ("v1", (), Call(handshake=True)),
    "gunicorn.conf.py": ("v2", ("gunicorn", "uvicorn_worker"), Call()),
}
BALANCED = {"server_workers.py"}  # by test_balanced.py
FOLLOWING = {"webhooks.py"}  # by test_webhooks.py


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        *SERVERS,
        *ASIDE,
        *BALANCED,
        *FOLLOWING,
    }


def environ(tmp_path: Path) -> dict[str, str]:
    """A store of the test's own, and clients that are soon back."""
    return {
        "MCP_PERSIST_URL": str(tmp_path / "events.db"),
        "MCP_PERSIST_RETRY_MS": "200",
        "MCP_PERSIST_MODERN_RETRY_MS": "200",
    }


@pytest.mark.parametrize("example", SERVERS)
async def test_a_call_that_is_cut_ends_whole(tmp_path: Path, example: str) -> None:
    async with started(example, tmp_path, environ(tmp_path)) as port:
        for call in SERVERS[example]:
            await cut_and_check(port, call)
    assert (tmp_path / "events.db").exists()


@pytest.mark.packages
@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", ASIDE)
async def test_a_call_that_is_cut_ends_whole_in_an_environment_of_its_own(
    tmp_path: Path, example: str
) -> None:
    name, also, call = ASIDE[example]
    python = prepare(tmp_path / "environments", name, also)
    async with started(example, tmp_path, environ(tmp_path), python) as port:
        await cut_and_check(port, call)
