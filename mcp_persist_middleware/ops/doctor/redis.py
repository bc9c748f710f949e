"""The check of the Redis in front: all that a server tries there, tried."""

import importlib.util
from collections.abc import AsyncIterator

from mcp_persist_middleware.ops.doctor import Finding, Level, Patient

_SECONDS = 2.0
_INSTALL = 'pip install "mcp-persist-middleware[redis]"'


async def redis(patient: Patient) -> AsyncIterator[Finding]:
    """Whether it is there, of a version and a policy that keep what they are given, and lets this
    user do what a server does."""
    settings = patient.settings
    if settings.redis is None:
        yield Finding("redis", Level.SKIPPED, "there is none")
        return
    if importlib.util.find_spec("redis") is None:
        yield Finding("redis", Level.FAILURE, "the driver redis is not installed", _INSTALL)
        return
    # The driver is an extra.
    from mcp_persist_middleware.stores.redis import url
    from mcp_persist_middleware.stores.redis.client import RedisClient
    from mcp_persist_middleware.stores.redis.rights import Rights
    from mcp_persist_middleware.stores.redis.scripts import Keys

    target = url.parse(settings.redis)
    secret = (await patient.store.meta("secret") or {}).get("secret", b"")
    keys = Keys(settings.table_prefix, secret)
    rights = Rights(lambda: keys, settings.table_prefix, target.username or "default")
    client = RedisClient(target, rights, timeout=_SECONDS)
    try:
        await client.open()
        if not client.is_up:
            fix = "Start it, or correct redis=; meanwhile events go to SQL by themselves"
            yield Finding("redis", Level.FAILURE, f"{client.name} cannot be reached", fix)
        elif not client.says_who_it_is:
            said = f"{client.name} takes events; whether it may evict them is not known"
            fix = "Let the user run INFO, or see yourself that maxmemory-policy is noeviction"
            yield Finding("redis", Level.WARNING, said, fix)
        else:
            yield Finding("redis", Level.OK, f"{client.name} takes events, and evicts none")
    finally:
        await client.aclose()


CHECKS = {"redis": redis}
