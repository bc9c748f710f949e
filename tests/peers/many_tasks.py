"""Many clients have tasks on several workers of one store: each is run once, each result is had
once and by its own client alone; and what is answered to ids that are not one's own says nothing.

The servers are plain ones of the Python SDK. A client begins its tasks at one worker and asks for
them at whichever comes next; half of them end their connections with a reset in between.

Run:     python -m tests.peers.many_tasks [--tasks 200] [--clients 20] [--workers 2]
         [--samples 300] [--long SECONDS] [--store NAME …]
         (--long: also one tool that takes so long, with its own worker killed in the end)
Expect:  of each store a line without a lost, doubled or foreign result, the times of the four kinds
         of wrong ids side by side, and exit code 0.
"""

import argparse
import asyncio
import itertools
import json
import secrets
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from mcp_persist_middleware.protocol import job_id
from tests.support.processes import ServerProcess, mcp_server, running
from tests.support.started import each_started
from tests.support.stores import Store
from tests.support.task_client import TaskClient

STORES = ("sqlite", "postgres", "sqlite+redis", "postgres+redis")
_SETTINGS = {"tasks_after": 0.1, "tasks_ttl": 600, "lease_seconds": 6}
_SHORT = 3.0


@asynccontextmanager
async def served(store: Store, directory: Path, count: int) -> AsyncIterator[list[ServerProcess]]:
    async with AsyncExitStack() as stack:
        workers = [
            mcp_server(directory, name=f"worker{n}", settings=_SETTINGS, store=store)
            for n in range(count)
        ]
        for worker in workers:
            await stack.enter_async_context(running(worker))
        yield workers


def client_of(worker: ServerProcess, name: str) -> TaskClient:
    return TaskClient(worker.port, extra={"authorization": f"Bearer {name}"})


class Crowd:
    """The clients and what they have had."""

    def __init__(self, workers: list[ServerProcess], clients: int) -> None:
        self._workers = itertools.cycle(workers)
        self._names = [f"client-{n}" for n in range(clients)]
        self.tasks: list[tuple[str, str]] = []
        self.results: Counter[str] = Counter()
        self.wrong: list[Any] = []

    def client(self, name: str) -> TaskClient:
        return client_of(next(self._workers), name)

    async def run(self, tasks: int) -> None:
        await asyncio.gather(*[self._task(n) for n in range(tasks)])
        await asyncio.gather(*[self._strange(n) for n in range(tasks)])

    async def _task(self, n: int) -> None:
        name = self._names[n % len(self._names)]
        # No two are the same: the log of a worker says which was run.
        begun = await self.client(name).call("slow", seconds=_SHORT + n / 10_000)
        if begun.get("resultType") != "task":
            self.wrong.append(begun)
            return
        task = begun["taskId"]
        self.tasks.append((name, task))
        if n % 2:
            response = await self.client(name).post("tasks/get", {"taskId": task})
            response.reset()
        while (found := await self.client(name).get(task)).get("status") == "working":
            await asyncio.sleep(found["pollIntervalMs"] / 1000)
        if found.get("status") != "completed":
            self.wrong.append(found)
        else:
            self.results[found["result"]["content"][0]["text"]] += 1

    async def _strange(self, n: int) -> None:
        """Somebody asks for the task of somebody else."""
        name, task = self.tasks[n % len(self.tasks)]
        other = next(each for each in self._names if each != name)
        told = await self.client(other).ask("tasks/get", {"taskId": task})
        if told.get("error", {}).get("code") != -32602:
            self.wrong.append(told)


async def times(worker: ServerProcess, mine: str, foreign: str, samples: int) -> dict[str, Any]:
    """How long (ms) the answers to ids take that are not one's own, in turn."""
    expired = job_id.name(job_id.new(time.time() - 1e6))
    kinds = {
        "foreign": lambda: foreign,
        "guessed": lambda: job_id.name(secrets.token_bytes(24)),
        "old": lambda: expired,
        "no id": lambda: "what-is-this",
    }
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    answers: set[str] = set()
    client = client_of(worker, mine)
    for _ in range(samples):
        for kind, make in kinds.items():
            began = time.perf_counter()
            told = await client.ask("tasks/get", {"taskId": make()})
            took[kind].append((time.perf_counter() - began) * 1000)
            answers.add(json.dumps({**told, "id": 0}))
    median = {kind: round(statistics.median(each), 2) for kind, each in took.items()}
    spread = {kind: round(statistics.quantiles(each, n=10)[-1], 2) for kind, each in took.items()}
    return {"median": median, "p90": spread, "answers": len(answers)}


async def long_call(workers: list[ServerProcess], seconds: float) -> bool:
    """A long tool: its connection is cut, another worker is asked, a third party killed; and one
    whose own worker is killed."""
    own, other = workers[0], workers[1]
    first = await client_of(own, "long").call("count", n=int(seconds), delay=1.0)
    lost = await client_of(other, "lost").call("count", n=int(seconds), delay=1.0)
    await asyncio.sleep(seconds / 4)
    seen = await client_of(other, "long").get(first["taskId"])
    await other.kill()
    await other.start()
    killed = time.monotonic()
    asked = client_of(own, "lost")
    while (gone := await asked.get(lost["taskId"])).get("status") == "working":
        await asyncio.sleep(0.1)
    print(
        f"  long: after {seconds / 4:g} s {seen.get('statusMessage')!r}; own worker killed:"
        f" {gone['status']} in a poll {time.monotonic() - killed:.1f} s after its successor was up:"
        f" {gone['error']['message']!r}"
    )
    done = await client_of(other, "long").until(first["taskId"], timeout=seconds * 2)
    print(f"  long: {done['status']}, {done['result']['content'][0]['text']!r}")
    return gone["status"] == "failed" and done["status"] == "completed"


async def measure(store: Store, directory: Path, given: argparse.Namespace) -> bool:
    async with served(store, directory, given.workers) as workers:
        crowd, began = Crowd(workers, given.clients), time.monotonic()
        await crowd.run(given.tasks)
        took = time.monotonic() - began
        ran = [line for worker in workers for line in worker.log.splitlines()]
        runs = Counter(line for line in ran if line.startswith("tool") and line.endswith("started"))
        twice = sum(count > 1 for count in (*runs.values(), *crowd.results.values()))
        foreign = next(task for name, task in crowd.tasks if name != "client-0")
        timed = await times(workers[0], "client-0", foreign, given.samples)
        print(
            f"{store.name}: {given.tasks} tasks of {given.clients} clients on {given.workers}"
            f" workers in {took:.1f} s: {len(runs)} ran, {len(crowd.results)} results,"
            f" {twice} twice, {len(crowd.wrong)} wrong"
        )
        print(f"  ids that are not one's own, ms: {timed}", flush=True)
        for each in crowd.wrong[:3]:
            print("  wrong:", each)
        right = not (twice or crowd.wrong) and timed["answers"] == 1
        right &= len(runs) == len(crowd.results) == given.tasks
        if given.long:
            right &= await long_call(workers, given.long)
        return right


async def _all(given: argparse.Namespace) -> bool:
    found = [await measure(store, there, given) for store, there in each_started(given.store)]
    return all(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.peers.many_tasks")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--long", type=float, default=0.0)
    parser.add_argument("--store", nargs="+", choices=STORES, default=STORES)
    right = asyncio.run(_all(parser.parse_args()))
    print("as expected" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
