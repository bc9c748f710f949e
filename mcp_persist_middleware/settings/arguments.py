"""What settings may be, beside numbers and texts."""

from collections.abc import Callable
from typing import Any, Literal

from starlette.requests import HTTPConnection
from starlette.types import Scope

Synchronous = Literal["normal", "full"]
ModernStreams = Literal["resume", "pass"]
OnStoreFailure = Literal["degrade", "refuse"]
RedisDurability = Literal["memory", "replica", "sql"]
SessionRouting = Literal["relay", "revive", "local"]
NamespaceOf = Callable[[HTTPConnection], str]
PrincipalOf = Callable[[HTTPConnection], str | None]
PersistOf = Callable[[HTTPConnection], bool]
RerunOf = Callable[[str | None, dict[str, Any]], bool]
RelayScope = tuple[Callable[[Scope], Any], Callable[[Scope, Any], None]]
