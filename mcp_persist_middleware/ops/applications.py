"""Applications that a command is told by name, and what they are made of."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.middleware import PersistMiddleware
from mcp_persist_middleware.persistence import Persistence

_DEPTH = 32
# Where frameworks keep what a middleware wraps, and what they have not built yet.
_INNER = ("app", "middleware_stack", "_app", "asgi_app", "application")


def application(name: str) -> Any:
    """The application that `module:app` names, or a factory of it made.

    Raises:
        ConfigurationError: there is none.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ConfigurationError(reason=f"--app is {name!r}: expected module:app, as main:app")
    if (here := str(Path.cwd())) not in sys.path:
        # As servers do that are told an application by its name.
        sys.path.insert(0, here)
    try:
        # What it prints is no part of an answer.
        with contextlib.redirect_stdout(sys.stderr):
            found: Any = importlib.import_module(module)
            for part in attribute.removesuffix("()").split("."):
                found = getattr(found, part)
            return found() if attribute.endswith("()") else found
    except Exception as error:
        raise ConfigurationError(reason=f"--app {name}: {type(error).__name__}: {error}") from error


def layers(app: Any) -> Iterator[Any]:
    """What an application is made of, from outside, as far as that can be seen: its layers, and
    what Starlette has of layers that it has not built yet (`cls`, `args`, `kwargs`)."""
    inner = app
    for _ in range(_DEPTH):
        yield inner
        yield from getattr(inner, "user_middleware", ())
        found = (getattr(inner, name, None) for name in _INNER)
        inner = next((each for each in found if callable(each)), None)
        if inner is None:
            return


def persistence_in(app: Any) -> Persistence:
    """The persistence of the first `PersistMiddleware` in an application, from outside.

    Raises:
        ConfigurationError: there is none.
    """
    for layer in layers(app):
        if isinstance(layer, PersistMiddleware):
            return layer.persistence
        if getattr(layer, "cls", None) is PersistMiddleware:
            return PersistMiddleware(app, *layer.args, **layer.kwargs).persistence
    raise ConfigurationError(
        reason=f"there is no PersistMiddleware in the application ({type(app).__name__}); "
        "name the store with --url"
    )
