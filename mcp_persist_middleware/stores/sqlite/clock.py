"""One clock for the processes on one file: the host's monotonic clock, which nobody sets, and how
far the time is ahead of it, as the first of them has seen it."""

from pathlib import Path

from mcp_persist_middleware.log.clock import StoreClock

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def told(clock: StoreClock) -> bytes:
    """What a process that goes by this clock lets the others know."""
    return f"{_boot()} {clock.ahead!r}".encode()


def agreed(told: bytes) -> float | None:
    """What another process on this host has let us know: how far the time is ahead of the
    monotonic clock. None where that cannot be known to be of the same clock, which begins anew with
    the host."""
    boot, _, ahead = told.decode().partition(" ")
    try:
        return float(ahead) if boot and boot == _boot() else None
    except ValueError:
        return None


def _boot() -> str:
    """Which run of the host this is; empty where it does not say."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
