"""The check of the extras: which are here, and which this configuration needs."""

import importlib.util
from collections.abc import AsyncIterator

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.codecs import compression
from mcp_persist_middleware.ops.doctor import Finding, Level, Patient

_EXTRAS = {
    "postgres": "asyncpg",
    "redis": "redis",
    "relay": "cryptography",
    "crypto": "cryptography",
    "proxy": "aiohttp",
}


async def extras(patient: Patient) -> AsyncIterator[Finding]:
    """What is installed."""
    here = {name: importlib.util.find_spec(module) is not None for name, module in _EXTRAS.items()}
    here["zstd"] = compression.has_zstd()
    told = f"version {telemetry.VERSION}"
    with_ = [name for name, there in here.items() if there]
    without = [name for name, there in here.items() if not there]
    told += f", with {', '.join(with_)}" if with_ else ""
    told += f", without {', '.join(without)}" if without else ""
    if not here["relay"] and patient.settings.session_routing == "relay":
        fix = 'Several workers: pip install "mcp-persist-middleware[relay]" on each'
        yield Finding("extras", Level.WARNING, told + ": credentials are not relayed", fix)
    else:
        yield Finding("extras", Level.OK, told)


CHECKS = {"extras": extras}
