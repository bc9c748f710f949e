"""What applications and stores are tested with; nothing that serves imports it.

`FaultProxy` stands between a client and a server and cuts what passes, at a byte of your choice.
`MemoryLog` is a whole store on plain dictionaries. `mcp_persist_middleware.testing.contract` has
the tests that every store has to pass; it needs pytest.
"""

from mcp_persist_middleware.testing.fault_proxy.cuts import (
    Cut,
    Disconnect,
    Plan,
    Policy,
    ProxiedExchange,
    ProxiedRequest,
)
from mcp_persist_middleware.testing.fault_proxy.policies import RandomCuts, cut_calls
from mcp_persist_middleware.testing.fault_proxy.proxy import FaultProxy, Route
from mcp_persist_middleware.testing.memory import MemoryLog, Shelf

__all__ = [
    "Cut",
    "Disconnect",
    "FaultProxy",
    "MemoryLog",
    "Plan",
    "Policy",
    "ProxiedExchange",
    "ProxiedRequest",
    "RandomCuts",
    "Route",
    "Shelf",
    "cut_calls",
]
