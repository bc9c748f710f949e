"""This worker, among all that share the store."""

from dataclasses import dataclass

from mcp_persist_middleware.log.membership.lease import Lease
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.log.membership.readers import ReaderLeases


@dataclass(frozen=True, slots=True)
class Member:
    """Who this worker is, whether it may run anything, and what it knows of the others."""

    name: str
    lease: Lease
    peers: Peers
    reader_leases: ReaderLeases
