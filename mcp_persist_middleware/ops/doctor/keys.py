"""Checks of what payloads are written with: are the keys at hand, and the codecs installed?"""

from collections.abc import AsyncIterator

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.log.codecs import chain
from mcp_persist_middleware.ops import key_use
from mcp_persist_middleware.ops.doctor import Finding, Level, Patient

_SAMPLE = 2000
_BESIDE = "sessions, requests, tasks or rows of the journal"


async def keys(patient: Patient) -> AsyncIterator[Finding]:
    """Whether the newest of what is encrypted can be read with the settings that are here."""
    try:
        chain.Chain(patient.settings)
    except ConfigurationError as error:
        yield Finding("keys", Level.FAILURE, str(error))
        return
    ring = patient.settings.encryption_keys
    events, beside = await key_use.sampled(patient.store, _SAMPLE)
    found = {*events, *beside}
    missing = sorted(name for name in found if name and (ring is None or name not in ring))
    if missing:
        what = "events" if events.keys() & {*missing} else _BESIDE
        said = f"{what} are encrypted with {', '.join(missing)}, which is not among encryption_keys"
        behind = ", behind the current one" if ring is not None else ""
        fix = f"Give {', '.join(missing)} to encryption_keys{behind}; see `keys check`"
        yield Finding("keys", Level.FAILURE, said, fix)
    elif ring is None:
        yield Finding("keys", Level.OK, "nothing is encrypted, and there are no keys")
    elif found - {ring.current}:
        what = "events" if events.keys() - {ring.current} else _BESIDE
        old = ", ".join(sorted(name or "no key" for name in found - {ring.current}))
        fix = "Once every worker has the current key: `keys rotate`"
        yield Finding("keys", Level.WARNING, f"some {what} are written with {old}", fix)
    else:
        yield Finding("keys", Level.OK, f"{ring.current} is the current one")


CHECKS = {"keys": keys}
