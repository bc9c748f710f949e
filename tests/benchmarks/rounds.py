"""Rounds that take turns, and what every measure is given."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.benchmarks.contenders import BARE, Contender, Role
from tests.benchmarks.report import Taken
from tests.benchmarks.servers import Server, Servers

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done, and with whom."""

    servers: Servers
    contenders: Sequence[Contender]
    """All but the bare application, which is in every measure."""
    rounds: int
    """How many are counted; a first one is not."""
    quick: bool

    def pick(self, quick: int, full: int) -> int:
        """A size that depends on how much time there is."""
        return quick if self.quick else full

    @property
    def ours(self) -> list[Contender]:
        """Those that are ours."""
        return [each for each in self.contenders if each.role is Role.OURS]

    async def interleaved(
        self, app: str, take: Callable[[Server], Awaitable[T]], *, peers: bool = True
    ) -> dict[Contender, list[T]]:
        """Take a value from every contender's server of `app` in every round, turning the order
        around each time.

        The first round warms caches and the interpreter, and is thrown away.
        """
        running = await self.servers.of(app, [BARE, *(self.contenders if peers else self.ours)])
        taken: dict[Contender, list[T]] = {server.contender: [] for server in running}
        for number in range(self.rounds + 1):
            for server in running if number % 2 else reversed(running):
                value = await take(server)
                if number:
                    taken[server.contender].append(value)
        return taken


Measure = Callable[[Plan], Awaitable[list[Taken]]]


def over_bare(
    goals: Mapping[str, str],
    taken: Mapping[Contender, Sequence[Any]],
    floors: Mapping[Contender, float] | None = None,
) -> list[Taken]:
    """What each contender's rounds gave, beside the bare application's: for each goal the field
    of a round that it is about."""
    return [
        Taken(
            goal,
            who,
            [getattr(each, field) for each in rounds],
            [getattr(each, field) for each in taken[BARE]],
            (floors or {}).get(who),
        )
        for goal, field in goals.items()
        for who, rounds in taken.items()
        if who is not BARE
    ]
