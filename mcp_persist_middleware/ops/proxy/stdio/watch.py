"""Run as a program of its own, beside the proxy: ends the process groups of its children when the
proxy is gone, whatever became of it. Needs nothing but the standard library.

Reads lines of its input: `+N` for a group that is there, `-N` for one that is not any more. The end
of the input is the end of the proxy: the system closes a pipe also after `kill -9`.
"""

import contextlib
import os
import signal
import sys
import time

_PATIENCE = 2.0
_PAUSE = 0.05


def main() -> None:
    """Listen until the proxy is gone, then end what it has left behind."""
    # Ctrl+C in a terminal is for the proxy.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        sign, group = line[0], int(line[1:])
        (groups.add if sign == "+" else groups.discard)(group)
    end(groups)


def end(groups: set[int]) -> None:
    """Ask each to end, and kill what does not."""
    groups = {group for group in groups if _signalled(group, signal.SIGTERM)}
    until = time.monotonic() + _PATIENCE
    while groups and time.monotonic() < until:
        time.sleep(_PAUSE)
        groups = {group for group in groups if _signalled(group, 0)}
    for group in groups:
        _signalled(group, signal.SIGKILL)


def _signalled(group: int, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    main()
