"""Which version this is."""

from importlib import metadata

_NAME = "mcp-persist-middleware"


def line() -> str:
    """The line that `--version` prints."""
    try:
        return f"{_NAME} {metadata.version(_NAME)}"
    except metadata.PackageNotFoundError:
        return f"{_NAME} (not installed)"
