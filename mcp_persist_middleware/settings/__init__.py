"""Every setting: a value comes from the argument, else from `MCP_PERSIST_<NAME>` in the environment
(but `log`, which can only be a callable), else it is the default. Nothing here touches a store."""

from mcp_persist_middleware.settings.arguments import SettingsArguments
from mcp_persist_middleware.settings.checks import namespace_complaint
from mcp_persist_middleware.settings.given import Given, shown, shown_url, source_of
from mcp_persist_middleware.settings.loading import is_given
from mcp_persist_middleware.settings.values import Settings

__all__ = [
    "Given",
    "Settings",
    "SettingsArguments",
    "is_given",
    "namespace_complaint",
    "shown",
    "shown_url",
    "source_of",
]
