"""Rounds that take turns, and what every measure is given."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tests.benchmarks.report import Row
from tests.benchmarks.servers import Server, Variant, Where

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done."""

    where: Where
    quick: bool
    variants: list[Variant]

    @property
    def rounds(self) -> int:
        """How many rounds are counted; a first one is not."""
        return 3 if self.quick else 5

    def pick(self, quick: int, full: int) -> int:
        """A size that depends on how much time there is."""
        return quick if self.quick else full

    def ours(self, *, peer: bool = True) -> list[Variant]:
        """The variants that are compared with the bare one."""
        skipped = {Variant.BARE} if peer else {Variant.BARE, Variant.PEER}
        return [variant for variant in self.variants if variant not in skipped]

    def all(self, *, peer: bool = True) -> list[Variant]:
        """The bare variant and those compared with it."""
        return [Variant.BARE, *self.ours(peer=peer)]


Measure = Callable[[Plan], Awaitable[list[Row]]]


async def interleaved(
    plan: Plan, running: list[Server], take: Callable[[Server], Awaitable[T]]
) -> dict[Variant, list[T]]:
    """Take a value from every server in every round, turning the order around each time.

    The first round warms caches and the interpreter, and is thrown away.
    """
    taken: dict[Variant, list[T]] = {server.variant: [] for server in running}
    for number in range(plan.rounds + 1):
        for server in running if number % 2 else reversed(running):
            value = await take(server)
            if number:
                taken[server.variant].append(value)
    return taken
