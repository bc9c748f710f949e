"""What is meant where somebody's streams, sessions and relayed requests are asked for."""

from dataclasses import dataclass

from mcp_persist_middleware.model import Owner, SessionKey, surely


@dataclass(frozen=True, slots=True)
class Whose:
    """All that belongs to a principal, to a session, or to a namespace; where several are given,
    what belongs to each of them."""

    principals: frozenset[str] | None = None
    """The names that one principal may have in the store."""
    session: str | None = None
    namespace: str | None = None

    def has(self, owner: Owner) -> bool:
        """Whether a stream of this owner is meant."""
        return (
            (self.principals is None or surely(owner.principal) in self.principals)
            and self.session in (None, owner.session)
            and self.namespace in (None, owner.namespace)
        )

    def has_session(self, key: SessionKey, principal: str) -> bool:
        """Whether this principal's session is meant."""
        return self.has(Owner(key.namespace, key.path, key.id, principal))
