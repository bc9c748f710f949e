"""What a proxy does, by the request: policies that a test gives it."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from mcp_persist_middleware.testing.fault_proxy.cuts import (
    Cut,
    Plan,
    Policy,
    ProxiedExchange,
    ProxiedRequest,
)

_WITHIN_EVENT = 120


def cut_calls(cut: Callable[[], Cut]) -> Policy:
    """A policy that cuts the response of every `tools/call`, and nothing else."""

    def policy(request: ProxiedRequest) -> Plan | None:
        return Plan(cut=cut()) if request.rpc_method == "tools/call" else None

    return policy


@dataclass(slots=True)
class _CutCall:
    """A call's cuts so far, and how many more events pass until the next."""

    cuts: int
    events: int


class RandomCuts:
    """Cuts every tool call at a random byte after its client holds an id, `cuts` times in all.

    A call that reports `events` events is always cut once before its response is complete: the
    cut falls at most 120 bytes into the event that follows. Further cuts fall on a GET that
    resumes the call, if that gets far enough. The proxy has to call `ended` (its `on_end`).
    """

    def __init__(self, seed: int, events: int, cuts: int = 1) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._cuts = cuts
        self._most = max(1, events // cuts)
        self._calls: dict[ProxiedRequest | str, _CutCall] = {}

    def __call__(self, request: ProxiedRequest) -> Plan | None:
        """The plan for one request."""
        if request.rpc_method == "tools/call":
            call = _CutCall(0, self._random.randrange(self._most))
        else:
            known = self._calls.get(request.headers.get("last-event-id", ""))
            if known is None or known.cuts >= self._cuts:
                return None
            call = known
        self._calls[request] = call
        size = self._random.randrange(_WITHIN_EVENT)
        return Plan(cut=Cut(ids=1, events=call.events, size=size))

    def ended(self, exchange: ProxiedExchange) -> None:
        """Remember which call this exchange's ids belong to, and how far it has come."""
        if (call := self._calls.pop(exchange.request, None)) is None:
            return
        if exchange.last_id is not None:
            self._calls[exchange.last_id] = call
        if exchange.cut:
            call.cuts += 1
            call.events = self._random.randrange(self._most)
        else:
            call.events = max(0, call.events - exchange.events)
