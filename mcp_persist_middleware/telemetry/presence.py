"""Whether anybody has an OpenTelemetry provider: without one nothing is looked at for it."""

import time

from opentelemetry import metrics, trace

# So often (seconds) it is looked for; providers are set once, as a rule before anything is served.
_AGAIN = 0.1
# The API's own do nothing.
_NOTHING = ("opentelemetry.trace", "opentelemetry.metrics")


class _Presence:
    def __init__(self) -> None:
        self._is_there = False
        self._due = 0.0

    def look(self) -> bool:
        """Look now, if there was none so far."""
        if not self._is_there:
            self._due = time.monotonic() + _AGAIN
            providers = (trace.get_tracer_provider(), metrics.get_meter_provider())
            self._is_there = not all(type(p).__module__.startswith(_NOTHING) for p in providers)
        return self._is_there

    def is_there(self) -> bool:
        """Whether there was one, a moment ago at the latest."""
        return self._is_there or (time.monotonic() >= self._due and self.look())


_presence = _Presence()
look, is_there = _presence.look, _presence.is_there
