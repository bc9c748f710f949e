"""One request on a raw socket, and all that can be seen of its answer: nothing is normalised."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_LARGEST = 64 << 20
_BODILESS = (204, 304)


@dataclass(frozen=True, slots=True)
class Send:
    """What goes out: pieces of bytes with pauses (seconds) between them."""

    pieces: tuple[bytes, ...]
    pauses: tuple[float, ...] = ()
    method: str = "POST"
    half_close: bool = False
    """The client says that it has nothing more to send, and reads on."""
    listen: float = 0.4
    """An open event stream that has been silent for so long is left."""
    patience: float = 8.0
    """Any other answer is waited for so long."""


@dataclass(slots=True)
class Answer:
    """What came back."""

    status: int = 0
    """0: no head came."""
    interim: list[int] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    end: str = "nothing"
    """"complete", "open" (still there when its client left), "cut" (it ended in its middle),
    "nothing" (no head in time), "closed" or "reset" (before a head), "unreachable"."""
    kept: bool = False
    """The connection served another request afterwards."""
    first: float = 0.0
    """Seconds until the head."""
    silence: float = 0.0
    """The longest time without a byte after the head."""
    total: float = 0.0

    def header(self, name: str) -> str:
        """The first header of this name, or nothing."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def is_reached(self) -> bool:
        """Whether a server has had the request."""
        return self.end != "unreachable"

    @property
    def is_stream(self) -> bool:
        """Whether the body is an event stream."""
        return self.header("content-type").startswith("text/event-stream")


class _Pipe:
    """What arrives, with the times between it."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.held = bytearray()
        self.ended = ""
        self.last = time.monotonic()
        self.longest = 0.0
        self._reader = reader

    async def more(self, until: float) -> bool:
        """Whether something came before this time; an end is noted."""
        if self.ended or len(self.held) > _LARGEST:
            return False
        try:
            async with asyncio.timeout_at(until):
                data = await self._reader.read(1 << 16)
        except TimeoutError:
            return False
        except OSError:
            self.ended = "reset"
            return False
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now
        if not data:
            self.ended = "closed"
            return False
        self.held += data
        return True


async def exchange(
    port: int, given: Send, again: bytes = b"", answer: Answer | None = None
) -> Answer:
    """Send it on a connection of its own and listen.

    Args:
        again: a request for the same connection, which shows whether it lives on.
        answer: is filled as it comes, for who wants to look at it meanwhile.
    """
    answer = answer or Answer()
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    except (OSError, TimeoutError):
        answer.end = "unreachable"
        return answer
    pipe, began = _Pipe(reader), time.monotonic()
    sending = asyncio.create_task(_send(writer, given))
    try:
        await _head(pipe, answer, given, began)
        if answer.status:
            await _body(pipe, answer, given)
        answer.silence = pipe.longest
        answer.total = time.monotonic() - began
        if again and answer.end == "complete" and not given.half_close and not pipe.ended:
            answer.kept = sending.done() and await _lives(pipe, writer, again)
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await sending
        writer.transport.abort()
    return answer


async def _send(writer: asyncio.StreamWriter, given: Send) -> None:
    pauses = (*given.pauses, *(0.0 for _ in given.pieces))
    with contextlib.suppress(OSError):
        for piece, pause in zip(given.pieces, pauses, strict=False):
            writer.write(piece)
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)
        if given.half_close:
            writer.write_eof()


async def _head(pipe: _Pipe, answer: Answer, given: Send, began: float) -> None:
    while True:
        while b"\r\n\r\n" not in pipe.held:
            if not await pipe.more(asyncio.get_running_loop().time() + _left(given, began)):
                answer.end = pipe.ended or "nothing"
                return
        raw, _, rest = bytes(pipe.held).partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        pipe.held[:] = rest
        if status >= 200:
            break
        answer.interim.append(status)
    pairs = [line.partition(":") for line in lines]
    answer.headers = [(name.strip().lower(), value.strip()) for name, _, value in pairs]
    answer.status, answer.first = status, time.monotonic() - began
    pipe.longest = 0.0


def _left(given: Send, began: float) -> float:
    return max(0.0, began + given.patience - time.monotonic())


async def _body(pipe: _Pipe, answer: Answer, given: Send) -> None:
    length = answer.header("content-length")
    if given.method == "HEAD" or answer.status in _BODILESS:
        answer.end = "complete"
    elif "chunked" in answer.header("transfer-encoding"):
        await _chunks(pipe, answer, given)
    elif length:
        while len(pipe.held) < int(length) and await _waits(pipe, answer, given):
            pass
        answer.body = bytes(pipe.held[: int(length)])
        del pipe.held[: int(length)]
        answer.end = "complete" if len(answer.body) == int(length) else _broken(pipe)
    else:
        while await _waits(pipe, answer, given):
            pass
        answer.body = bytes(pipe.held)
        answer.end = "complete" if pipe.ended == "closed" else _broken(pipe)


def _broken(pipe: _Pipe) -> str:
    return "cut" if pipe.ended else "open"


async def _waits(pipe: _Pipe, answer: Answer, given: Send) -> bool:
    quiet = given.listen if answer.is_stream else given.patience
    return await pipe.more(asyncio.get_running_loop().time() + quiet)


async def _chunks(pipe: _Pipe, answer: Answer, given: Send) -> None:
    found, place = bytearray(), 0
    while True:
        line = pipe.held.find(b"\r\n", place)
        size = int(bytes(pipe.held[place:line]).split(b";")[0], 16) if line >= 0 else -1
        if line >= 0 and len(pipe.held) >= line + 2 + size + 2:
            found += pipe.held[line + 2 : line + 2 + size]
            place = line + 2 + size + 2
            answer.body = bytes(found) if answer.is_stream else b""
            if size == 0:
                answer.end = "complete"
                break
        elif not await _waits(pipe, answer, given):
            answer.end = _broken(pipe)
            break
    answer.body = bytes(found)
    del pipe.held[:place]


async def _lives(pipe: _Pipe, writer: asyncio.StreamWriter, again: bytes) -> bool:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        writer.write(again)
        await writer.drain()
        while b"\r\n\r\n" not in pipe.held:
            if not await pipe.more(loop.time() + 3):
                return False
        return True
    return False


def head(
    method: str, target: str, headers: Sequence[tuple[str, str]], *, version: str = "HTTP/1.1"
) -> bytes:
    """The head of a request."""
    lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
