"""The same commands on PostgreSQL with Redis in front."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from anyio.from_thread import BlockingPortal
from sqlalchemy import make_url

from tests.cli.scene import GONE, SESSION, WORKER, Scene, played, run


@pytest.fixture
def served(
    portal: BlockingPortal, new_postgres: Callable[[], str], redis_url: str
) -> Iterator[Scene]:
    """The scene there."""
    given = {"url": new_postgres(), "redis": redis_url}
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(portal.wrap_async_context_manager(played(given)))


def test_every_command_works_on_postgresql_behind_redis(served: Scene) -> None:
    def told(*command: str) -> object:
        ran = served.run(*command, "--json")
        assert (ran.err, ran.code in (0, 1)) == ("", True), command
        return ran.json

    assert told("stats")["namespaces"][0]["streams"] == 5
    states = {row["worker"]: row["state"] for row in told("workers")}
    assert states == {WORKER: "live", GONE: "gone"}
    assert [row["stream"] for row in told("orphans")] == [served.orphan]
    assert [row["stream"] for row in told("stuck")] == [served.running]
    assert told("streams", "list", "--open", "--since", "1h")
    assert told("streams", "show", served.finished, "--payloads")["list"][-1]["data"]
    assert len(told("sessions", "show", SESSION)[0]["streams"]) == 5
    assert told("schema", "verify") == []
    assert told("keys", "check")[0]["key"] == ""
    assert told("vacuum")["before"] > 0
    checks = {row["check"]: row["level"] for row in told("doctor")}
    assert (checks.pop("workers"), checks.pop("disk")) == ("warning", "skipped")
    assert set(checks.values()) == {"ok"}
    assert told("top", "--seconds", "0")["workers"]
    assert served.run("tail", "-n", "2").code == 0
    assert {row["rate"] > 0 for row in told("bench", "--seconds", "0.1")["measures"]} == {True}
    assert told("streams", "end", served.running) == {"stream": served.running, "ended": True}
    assert told("sessions", "end", SESSION) == {"ended": 1}


def test_what_keeps_an_operator_out_is_one_sentence(served: Scene) -> None:
    place = make_url(served.environ["MCP_PERSIST_URL"])
    for wrong, said in (
        (place.set(database="nowhere"), "Create the database 'nowhere'"),
        (place.set(username="nobody", password="hunter2"), "Check the user and the password"),
    ):
        ran = run("stats", "--url", wrong.render_as_string(hide_password=False))
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.err
        assert "hunter2" not in ran.err


def test_a_redis_that_is_gone_is_told(served: Scene) -> None:
    ran = served.run("doctor", "--json", MCP_PERSIST_REDIS="redis://:hunter2@127.0.0.1:9/0")
    (found,) = [row for row in ran.json if row["check"] == "redis"]
    assert (ran.code, found["level"]) == (1, "failure")
    assert "redis://127.0.0.1:9/0 cannot be reached" in found["said"]
    assert "hunter2" not in ran.out
