"""As `python -m MODULE ARGUMENTS`, from that of `tests.support.forks` that listens at SOCKET:
`python -I -S forked.py SOCKET MODULE ARGUMENTS`. Streams, directory and environment are those of
this one, which imports little: that is what it is for."""

import json
import os
import signal
import socket
import sys


def main() -> int:
    """The status of the other process."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        asked = {"module": sys.argv[2], "arguments": sys.argv[3:], "environ": dict(os.environ)}
        asked["directory"] = os.getcwd()  # noqa: PTH109
        line = json.dumps(asked).encode() + b"\n"
        # Rights travel with the first byte.
        socket.send_fds(connection, [line[:1]], [0, 1, 2])
        connection.sendall(line[1:])
        with connection.makefile("rb") as answers:
            pid = int(answers.readline())
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, lambda sign, _: os.kill(pid, sign))
            status = int(answers.readline())
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
