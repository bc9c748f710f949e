"""Runs cases on a site, looks again at what differs, and shrinks it."""

import asyncio
import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.peers.bare.differ import Difference, differences, frames
from tests.peers.bare.named import name_of
from tests.peers.bare.requests import Case, Request
from tests.peers.bare.seen import Seen
from tests.peers.bare.sites import STORE_TIMEOUT, Site, lives
from tests.peers.bare.wire import Answer, exchange

_AT_ONCE = 6
_BATCH = 150
_BESIDE = 0.25
_LOOKS = 20


@dataclass(slots=True)
class Found:
    """A difference that has no name."""

    case: Case
    step: int
    difference: Difference
    seen: Seen
    also: list[str] = field(default_factory=list)
    """The names of other cases with one of this kind."""

    @property
    def request(self) -> Request:
        """The request that was answered differently."""
        return self.case.all_steps[self.step]


@dataclass(slots=True)
class Outcome:
    """What became of some cases."""

    cases: int = 0
    requests: int = 0
    """How many were answered twice, and compared."""
    named: Counter[str] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)
    passing: list[Found] = field(default_factory=list)
    """Differences that did not come again."""


@dataclass(slots=True)
class Hunt:
    """One state of one server on one HTTP server."""

    site: Site
    server: str
    http: str
    at_once: int = _AT_ONCE

    async def run(self, cases: Sequence[Case], *, shrink: bool = True) -> Outcome:
        """All cases; what differs is run once more, alone."""
        outcome = Outcome(cases=len(cases))
        suspects: list[Found] = []
        for at in range(0, len(cases), _BATCH):
            suspects += await self._batch(cases[at : at + _BATCH], outcome, self.at_once)
        # Once more on servers that know what was asked of them, once on new ones.
        for is_new in (False, True):
            if suspects and is_new:
                await self.site.anew()
            suspects = await self._certain(suspects, outcome)
        outcome.passing = suspects
        if shrink:
            outcome.found = await self._shrunk(outcome.found)
        return outcome

    async def _certain(self, suspects: list[Found], outcome: Outcome) -> list[Found]:
        """Runs them alone and notes what comes again; the rest."""
        wanted = list({id(found.case): found.case for found in suspects}.values())
        certain: list[Found] = []
        for at in range(0, len(wanted), _BATCH):
            certain += await self._batch(wanted[at : at + _BATCH], Outcome(), 1)
        again = {(id(it.case), it.step, it.difference.kind) for it in certain}
        rest = []
        for found in suspects:
            known = (id(found.case), found.step, found.difference.kind) in again
            (outcome.found if known else rest).append(found)
        return rest

    async def _batch(self, cases: Sequence[Case], outcome: Outcome, at_once: int) -> list[Found]:
        gate = asyncio.Semaphore(at_once)
        async with self.site.ready([case.openings for case in cases]) as (bare, ours):

            async def both(case: Case, one: list[str], other: list[str]) -> list[Found]:
                async with gate:
                    sides = await asyncio.gather(
                        self._side(self.site.bare.port, case, one),
                        self._side(self.site.other.port, case, other),
                    )
                return self._judged(case, *sides, outcome)

            found = await asyncio.gather(*map(both, cases, bare, ours))
        return [each for some in found for each in some]

    async def _side(self, port: int, case: Case, sessions: list[str]) -> list[Answer]:
        running: list[asyncio.Task[Answer]] = []
        heard: list[Answer] = []
        for step in case.all_steps:
            given = step.send(port, sessions, asked=await _question(step, heard))
            if self.site.state == "degraded":
                # The store is tried first.
                given = dataclasses.replace(given, listen=given.listen + 3 * STORE_TIMEOUT)
            heard.append(Answer())
            running.append(asyncio.create_task(exchange(port, given, lives(port), heard[-1])))
            if step.beside:
                await asyncio.sleep(_BESIDE)
            elif (await running[-1]).end in ("closed", "cut") or step.half_closes:
                # Its connection is gone, or answered by the server, but the application has it yet.
                await asyncio.sleep(_BESIDE)
        return [_named(await task, port, sessions) for task in running]

    def _judged(
        self, case: Case, bare: list[Answer], ours: list[Answer], outcome: Outcome
    ) -> list[Found]:
        found = []
        for number, (one, other) in enumerate(zip(bare, ours, strict=True)):
            outcome.requests += one.is_reached and other.is_reached
            request = case.all_steps[number]
            before = list(zip(case.all_steps[:number], ours[:number], strict=True))
            seen = Seen(self.site.state, self.server, self.http, request, one, other, before)
            for difference in differences(one, other):
                if (name := name_of(seen, difference)) is not None:
                    outcome.named[name] += 1
                else:
                    found.append(Found(case, number, difference, seen))
        return found

    async def _shrunk(self, found: list[Found]) -> list[Found]:
        """One of each kind, with its case as small as it can be."""
        kinds: dict[str, list[Found]] = {}
        for each in found:
            kinds.setdefault(each.difference.kind, []).append(each)
        shrunk = []
        for same in kinds.values():
            least = await self._smaller(min(same, key=_size))
            least.also = sorted({each.case.name for each in same} - {least.case.name})
            shrunk.append(least)
        return shrunk

    async def _smaller(self, found: Found) -> Found:
        for _ in range(8):
            tries = _smaller_cases(found.case)
            if not tries:
                break
            hits = [
                hit
                for hit in await self._batch(tries, Outcome(), 2)
                if hit.difference.kind == found.difference.kind
            ]
            if not hits:
                break
            found = min(hits, key=_size)
        return found


async def _question(step: Request, heard: Sequence[Answer]) -> str:
    """The id of what the server has asked on a stream, as it stands there. An answer waits for its
    question; a session that came back was longer about it."""
    if step.does != "an answer":
        return ""
    for _ in range(_LOOKS):
        for answer in heard:
            for frame in frames(answer.body) if answer.is_stream else []:
                if frame.data and "elicitation/create" in frame.data:
                    return json.dumps(json.loads(frame.data)["id"])
        await asyncio.sleep(_BESIDE / 10)
    return ""


def _size(found: Found) -> int:
    return sum(1 + len(step.odd) for step in found.case.steps)


def _smaller_cases(case: Case) -> list[Case]:
    smaller = []
    if len(case.steps) > 1:
        for at in range(len(case.steps)):
            rest = (*case.steps[:at], *case.steps[at + 1 :])
            smaller.append(dataclasses.replace(case, steps=rest))
    for at, step in enumerate(case.steps):
        for name in step.odd:
            fields = {each: getattr(step, each) for each in step.odd if each != name}
            steps = (*case.steps[:at], Request(**fields), *case.steps[at + 1 :])
            smaller.append(dataclasses.replace(case, steps=steps))
    return smaller


def _named(answer: Answer, port: int, sessions: list[str]) -> Answer:
    """Session ids and the port have the same name on both sides."""
    names = {f"127.0.0.1:{port}": "HOST"}
    names |= {session: f"SESSION{number}" for number, session in enumerate(sessions) if session}
    if own := answer.header("mcp-session-id"):
        names.setdefault(own, "NEW")
    for value, name in names.items():
        answer.body = answer.body.replace(value.encode(), name.encode())
        answer.headers = [(key, said.replace(value, name)) for key, said in answer.headers]
    return answer
