"""Run as a program of its own, before a child's: a child ends with the proxy, also when that is
killed. Needs nothing but the standard library.

    python launch.py PARENT PROGRAM ARGUMENT…
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the program."""
    parent, *command = sys.argv[1:]
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    except (ImportError, OSError, AttributeError):
        pass  # Its closed input tells it, and the guard.
    if os.getppid() != int(parent):
        sys.exit(1)  # The proxy was gone before it could be told.
    try:
        os.execvp(command[0], command)  # noqa: S606  # it is there for that
    except OSError as error:
        print(f"cannot be run: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main()
