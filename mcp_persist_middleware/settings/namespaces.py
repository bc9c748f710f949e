"""A value that may be another in each namespace."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_persist_middleware import rarely

logger = rarely.logger(__name__)

DEFAULT = "default"
"""Names the value of every namespace that has none of its own."""


@dataclass(frozen=True, slots=True)
class ByNamespace:
    """Values by namespace: named ones, or what a callable says."""

    otherwise: Any
    """Where nothing is named, or the callable says nothing that could be a value."""
    named: tuple[tuple[str, Any], ...] = ()
    of: Callable[[str], Any] | None = None
    check: Callable[[Any], Any] | None = field(default=None, compare=False)
    """What a value is that the callable returns; it raises `ValueError` where it is none."""

    def __call__(self, namespace: str) -> Any:
        """The value in a namespace."""
        if self.of is None or self.check is None:
            return dict(self.named).get(namespace, self.otherwise)
        try:
            return self.check(self.of(namespace))
        except Exception as error:  # noqa: BLE001
            # It is asked when a stream ends: that is to end all the same.
            logger.warning(
                "MPM-CONFIG-13: What a callable says of a namespace is of no use: %s", error
            )
            return self.otherwise

    @property
    def values(self) -> tuple[Any, ...]:
        """The values that are known without asking."""
        return (self.otherwise, *dict(self.named).values())

    def __repr__(self) -> str:
        if self.of is not None:
            return f"<{getattr(self.of, '__qualname__', type(self.of).__qualname__)}>"
        return repr({DEFAULT: self.otherwise} | dict(self.named))


def in_namespace(value: Any, namespace: str) -> Any:
    """The value of a setting in a namespace."""
    return value(namespace) if isinstance(value, ByNamespace) else value


def entries(text: str) -> Mapping[str, str] | None:
    """Values as a variable of the environment spells them, `free=1h, default=24h`; None where it is
    one value."""
    if "=" not in text:
        return None
    pairs = (part.rpartition("=") for part in text.split(",") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}
