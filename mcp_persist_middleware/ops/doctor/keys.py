"""Checks of what payloads are written with: are the keys at hand, and the codecs installed?"""

from collections.abc import AsyncIterator

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.log.codecs import chain
from mcp_persist_middleware.ops import key_use
from mcp_persist_middleware.ops.doctor import Finding, Level, Patient

_SAMPLE = 2000


async def keys(patient: Patient) -> AsyncIterator[Finding]:
    """Whether the newest events can be read with the settings that are here."""
    try:
        chain.Chain(patient.settings)
    except ConfigurationError as error:
        yield Finding("keys", Level.FAILURE, str(error))
        return
    ring = patient.settings.encryption_keys
    found = await key_use.sampled(patient.store, _SAMPLE)
    missing = [name for name in found if name and (ring is None or name not in ring)]
    if missing:
        said = f"events are encrypted with {', '.join(missing)}, which is not among encryption_keys"
        behind = ", behind the current one" if ring is not None else ""
        fix = f"Give {', '.join(missing)} to encryption_keys{behind}; see `keys check`"
        yield Finding("keys", Level.FAILURE, said, fix)
    elif ring is None:
        yield Finding("keys", Level.OK, "nothing is encrypted, and there are no keys")
    elif set(found) - {ring.current}:
        old = ", ".join(sorted(name or "no key" for name in set(found) - {ring.current}))
        fix = "Once every worker has the current key: `keys rotate`"
        yield Finding("keys", Level.WARNING, f"some events are written with {old}", fix)
    else:
        yield Finding("keys", Level.OK, f"{ring.current} is the current one")


CHECKS = {"keys": keys}
