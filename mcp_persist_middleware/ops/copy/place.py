"""The place of a copy, which is kept in its target, and how it gets hold of that."""

import dataclasses
import secrets

from mcp_persist_middleware.errors import CopyError
from mcp_persist_middleware.log import mirror
from mcp_persist_middleware.log.mirror import Mirror
from mcp_persist_middleware.ops.copy.rows import Changes, EventKey
from mcp_persist_middleware.ops.copy.store import Readable, Writable


class Checkpoint:
    """How far a copy is: what it does to the target and how far it is then are one transaction."""

    def __init__(self, target: Writable, held: Mirror) -> None:
        self._target = target
        self._held = held

    @classmethod
    async def take(cls, source: Readable, target: Writable) -> "Checkpoint":
        """Get hold of a target: an empty store, or one that this source was copied into and nobody
        has used since.

        Raises:
            CopyError: it is something else.
        """
        meta, there = await source.meta(), await target.meta()
        name, old = meta["store"].hex(), there.get(mirror.NAME)
        if meta["store"] == there["store"]:
            raise CopyError(reason=f"{source.name} and {target.name} are the same store")
        if mirror.NAME in meta and not _read(source, meta[mirror.NAME]).complete:
            raise CopyError(reason=f"{source.name} is not complete: a copy into it has not ended")
        run = secrets.token_hex(8)
        if old is None:
            found = Mirror(source=name, named=source.name, run=run)
        else:
            found = _read(target, old)
            if found.source != name:
                raise CopyError(reason=f"{target.name} is a copy of another store, {found.named}")
            found = dataclasses.replace(found, run=run, complete=False)
        if not await target.begin(old, found.row(), meta["secret"]):
            raise CopyError(
                reason=f"{target.name} is not an empty store, or a server is or was on it; let "
                "TO be a new one (to add to a store that is in use: export and import)"
            )
        return cls(target, found)

    @property
    def position(self) -> EventKey:
        """Behind it nothing has been copied yet."""
        return EventKey(bytes.fromhex(self._held.stream), self._held.sequence)

    @property
    def passed(self) -> bool:
        """Whether all that there was has been copied once."""
        return self._held.passed

    async def advance(self, changes: Changes, to: EventKey) -> None:
        """Apply changes, after which everything up to a position is there."""
        stream, sequence = to.stream.hex(), to.sequence
        await self._apply(
            changes, dataclasses.replace(self._held, stream=stream, sequence=sequence)
        )

    async def apply(self, changes: Changes) -> None:
        """Apply changes."""
        if changes:
            await self._apply(changes, self._held)

    async def hold(self) -> None:
        """See that nobody has taken the target.

        Raises:
            CopyError: somebody has.
        """
        await self._apply(Changes(), self._held)

    async def pass_(self) -> None:
        """All that there was has been copied once."""
        await self._apply(Changes(), dataclasses.replace(self._held, passed=True))

    async def complete(self) -> None:
        """The target may be served."""
        await self._apply(Changes(), dataclasses.replace(self._held, complete=True))

    async def _apply(self, changes: Changes, then: Mirror) -> None:
        await self._target.apply(changes, (self._held.row(), then.row()))
        self._held = then


def _read(store: Readable, value: bytes) -> Mirror:
    try:
        return Mirror.of(value)
    except ValueError:
        raise CopyError(reason=f"the row 'copy' of {store.name} cannot be read") from None
