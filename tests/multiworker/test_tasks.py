"""Tasks of a plain server in two processes: asked for at either, and what becomes of them when
their own is gone."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.multiworker.servers import two_servers
from tests.support.processes import ServerProcess
from tests.support.stores import Store
from tests.support.task_client import TaskClient

pytestmark = pytest.mark.timeout(60)

SOON: dict[str, object] = {"tasks_after": 0.1}
MORTAL: dict[str, object] = {**SOON, "lease_seconds": 3, "store_timeout": 2}


def both(one: ServerProcess, two: ServerProcess) -> tuple[TaskClient, TaskClient]:
    return TaskClient(one.port), TaskClient(two.port)


async def many(store: Store, tmp_path: Path, tasks: int) -> tuple[list[Any], list[str], list[str]]:
    """The ends of tasks that are begun at two workers in turn and read at the other one; what each
    should be; and what ran."""
    async with two_servers(tmp_path, store=store, **SOON) as (one, two):
        clients = both(one, two)
        # One caller for every four.
        callers = [
            [TaskClient(c.port, extra={"authorization": f"Bearer {n % 4}"}) for c in clients]
            for n in range(tasks)
        ]

        async def run(n: int) -> Any:
            begun = await callers[n][n % 2].call("count", n=n + 1, delay=1.5 / (n + 1))
            assert begun["resultType"] == "task", begun
            return await callers[n][1 - n % 2].until(begun["taskId"])

        ends = await asyncio.gather(*map(run, range(tasks)))
        ran = [line for server in (one, two) for line in server.log.splitlines()]
    expected = [f"counted {n + 1}" for n in range(tasks)]
    return ends, expected, [line for line in ran if line.endswith("started")]


@pytest.mark.parametrize("store", ["sqlite", "postgres", "postgres+redis"], indirect=True)
async def test_tasks_are_run_once_and_read_at_the_other_worker(
    tmp_path: Path, store: Store
) -> None:
    ends, expected, ran = await many(store, tmp_path, 12)
    assert [end["status"] for end in ends] == ["completed"] * 12
    assert [end["result"]["content"][0]["text"] for end in ends] == expected
    assert len(ran) == len(set(ran)) == 12


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        # Nothing is written meanwhile that would meet the fence; or much is.
        ("slow", {"seconds": 30}, "slow 30.0 cancelled"),
        ("count", {"n": 5000, "delay": 0.02}, "count 5000 cancelled"),
    ],
    ids=["still", "talking"],
)
@pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)
async def test_a_task_is_cancelled_at_the_other_worker_and_its_own_ends_it(
    tmp_path: Path, store: Store, tool: str, arguments: dict[str, Any], said: str
) -> None:
    async with two_servers(tmp_path, store=store, **SOON) as (one, two):
        here, there = both(one, two)
        task = (await here.call(tool, **arguments))["taskId"]
        answer = await there.ask("tasks/cancel", {"taskId": task})
        assert answer["result"] == {"resultType": "complete"}
        assert {(await client.get(task))["status"] for client in (here, there)} == {"cancelled"}
        await one.wait_for_log(said)
        assert "MPM-LOG-04" not in one.log


@pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)
async def test_a_task_whose_worker_is_killed_has_failed_and_says_so(
    tmp_path: Path, store: Store
) -> None:
    async with two_servers(tmp_path, store=store, **MORTAL) as (one, two):
        here, there = both(one, two)
        task = (await here.call("count", n=300, delay=0.1))["taskId"]
        found = await there.get(task)
        assert (found["status"], "step" in found.get("statusMessage", "step")) == ("working", True)
        await one.kill()
        end = await there.until(task, timeout=10.0)
        assert end["status"] == "failed"
        assert "gone" in end["error"]["message"]
        assert end["error"]["data"]["events"] >= 1
        await one.start()
        assert (await TaskClient(one.port).get(task))["error"] == end["error"]


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_task_whose_worker_shuts_down_ends_there_or_says_so(
    tmp_path: Path, store: Store
) -> None:
    async with two_servers(tmp_path, store=store, **SOON, drain_seconds=2) as (one, two):
        here, there = both(one, two)
        short = (await here.call("slow", seconds=1))["taskId"]
        long = (await here.call("slow", seconds=60))["taskId"]
        await one.terminate()
        assert (await there.get(short))["result"]["content"][0]["text"] == "slept 1.0"
        end = await there.until(long, timeout=5.0)
        assert (end["status"], "shut down" in end["error"]["message"]) == ("failed", True)
        await one.start()
