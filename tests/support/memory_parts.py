"""What a `MemoryLog` consists of beside its streams: sessions, letters and workers, and the `Shelf`
that has them all for as long as the process lives."""

import secrets
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from mcp_persist_middleware.store import (
    Beat,
    Event,
    Inbox,
    Letter,
    LetterName,
    LetterState,
    LetterStatus,
    Listening,
    Posted,
    SessionKey,
    SessionRecord,
    Sessions,
    Standing,
    StoreError,
    StreamRecord,
    WorkerState,
    WorkerTable,
)

_MOST_SEGMENTS = 16


@dataclass
class Post:
    """A letter and where it is."""

    letter: Letter
    state: LetterState
    deadline: float
    reply: bytes = b""


@dataclass
class Shelf:
    """What all logs on it share; whoever changes it holds the lock."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    lock: threading.RLock = field(default_factory=threading.RLock)
    streams: dict[bytes, StreamRecord] = field(default_factory=dict)
    events: dict[bytes, dict[int, Event]] = field(default_factory=dict)
    read_until: dict[bytes, float] = field(default_factory=dict)
    sessions: dict[SessionKey, SessionRecord] = field(default_factory=dict)
    listening: dict[SessionKey, Listening] = field(default_factory=dict)
    workers: dict[str, Beat] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    letters: dict[bytes, Post] = field(default_factory=dict)


class MemoryWorkers(WorkerTable):
    """The workers on a shelf; used from the thread of a heartbeat."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def enrol(self, worker: str) -> None:
        self._shelf.workers[worker] = Beat(1, WorkerState.LIVE, self.now())

    async def beat(self, worker: str, state: WorkerState) -> bool:
        with self._shelf.lock:
            beat = self._shelf.workers.get(worker)
            if beat is None or beat.state is WorkerState.DEAD:
                return False
            self._shelf.workers[worker] = Beat(beat.counter + 1, state, self.now())
            return True

    async def look(self) -> Mapping[str, Beat]:
        with self._shelf.lock:
            return dict(self._shelf.workers)

    async def aclose(self) -> None:
        """Nothing is open."""


class MemorySessions(Sessions):
    """The sessions on a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def create(self, record: SessionRecord) -> bool:
        with self._shelf.lock:
            if record.key in self._shelf.sessions:
                return False
            self._shelf.sessions[record.key] = record
            self._shelf.listening[record.key] = Listening()
            return True

    async def find(self, key: SessionKey) -> SessionRecord | None:
        return self._shelf.sessions.get(key)

    async def move(self, key: SessionKey, generation: int, home: str) -> bool:
        with self._shelf.lock:
            record = self._shelf.sessions.get(key)
            if record is None or record.deleted or record.generation != generation:
                return False
            after = generation + 1
            self._shelf.sessions[key] = replace(record, generation=after, home=home)
            for post in self._shelf.letters.values():
                if post.letter.key == key and post.state is LetterState.WAITING:
                    post.letter = replace(post.letter, worker=home, generation=after)
            return True

    async def note(self, record: SessionRecord) -> None:
        self._change(
            record.key,
            fingerprint=record.fingerprint,
            level=record.level,
            subscriptions=record.subscriptions,
        )

    async def touch(self, keys: Iterable[SessionKey], expires_at: float) -> None:
        for key in keys:
            record = self._shelf.sessions.get(key)
            if record is not None and not record.deleted:
                self._change(key, expires_at=expires_at)

    async def delete(self, key: SessionKey, expires_at: float) -> None:
        empty = {"initialize": b"", "level": "", "subscriptions": ()}
        self._change(key, deleted=True, expires_at=expires_at, **empty)

    def _change(self, key: SessionKey, **values: object) -> None:
        with self._shelf.lock:
            record = self._shelf.sessions.get(key)
            if record is not None:
                self._shelf.sessions[key] = replace(record, **values)

    async def purge(self, now: float, limit: int) -> int:
        with self._shelf.lock:
            late = [r for r in self._shelf.sessions.values() if r.expires_at <= now]
            late = sorted(late, key=lambda record: record.expires_at)[:limit]
            for record in late:
                del self._shelf.sessions[record.key], self._shelf.listening[record.key]
            return len(late)

    async def listening(self, key: SessionKey) -> Listening | None:
        return self._shelf.listening.get(key)

    async def add_segment(self, key: SessionKey, stream: bytes) -> None:
        with self._shelf.lock:
            now = self._shelf.listening.get(key)
            if now is not None and stream not in now.segments:
                segments = (*now.segments, stream)[-_MOST_SEGMENTS:]
                self._shelf.listening[key] = now._replace(segments=segments)

    async def take_turn(self, key: SessionKey, turn: int, worker: str) -> bool:
        with self._shelf.lock:
            now = self._shelf.listening.get(key)
            if now is None or now.turn != turn:
                return False
            self._shelf.listening[key] = now._replace(turn=turn + 1, worker=worker)
            return True

    async def hold_turn(
        self, key: SessionKey, turn: int, worker: str, stream: bytes, sequence: int
    ) -> bool:
        with self._shelf.lock:
            now = self._shelf.listening.get(key)
            if now is None:
                return False
            read = {"stream": stream, "sequence": sequence} if stream else {}
            if held := now.turn == turn:
                now = now._replace(worker=worker, **read)
            elif stream == now.stream and now.sequence < sequence:
                now = now._replace(sequence=sequence)
            self._shelf.listening[key] = now
            return held


class MemoryInbox(Inbox):
    """The letters on a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def publish(self, worker: str, public_key: bytes) -> None:
        self._shelf.keys[worker] = public_key

    async def public_key(self, worker: str) -> bytes | None:
        return self._shelf.keys.get(worker)

    def _of(self, worker: str, state: LetterState) -> list[Post]:
        mine = [p for p in self._shelf.letters.values() if p.letter.worker == worker]
        found = [post for post in mine if post.state is state]
        return sorted(found, key=lambda post: post.letter.id)

    async def put(self, letter: Letter, most: int) -> Posted:
        with self._shelf.lock:
            if letter.id in self._shelf.letters:
                raise StoreError(url="memory", reason="the letter was barred")
            session = self._shelf.sessions.get(letter.key)
            where = (letter.worker, letter.generation)
            if session is None or session.deleted or (session.home, session.generation) != where:
                return Posted.MOVED
            if len(self._of(letter.worker, LetterState.WAITING)) >= most:
                return Posted.FULL
            self._shelf.letters[letter.id] = Post(letter, LetterState.WAITING, letter.deadline)
            return Posted.WAITING

    async def claim(self, worker: str, limit: int, now: float, deadline: float) -> list[Letter]:
        with self._shelf.lock:
            waiting = [p for p in self._of(worker, LetterState.WAITING) if p.deadline > now]
            taken = [post.letter for post in waiting[:limit]]
            for post in waiting[:limit]:
                post.letter = replace(post.letter, content=b"")
                post.state, post.deadline = LetterState.CLAIMED, deadline
            return taken

    async def claimed(self, worker: str) -> list[bytes]:
        return [post.letter.id for post in self._of(worker, LetterState.CLAIMED)]

    async def renew(
        self, worker: str, letters: Collection[bytes], deadline: float
    ) -> Collection[bytes]:
        with self._shelf.lock:
            mine = [p for p in self._of(worker, LetterState.CLAIMED) if p.letter.id in letters]
            for post in mine:
                post.deadline = deadline
            return [post.letter.id for post in mine]

    async def withdraw(self, letter: LetterName) -> bool:
        with self._shelf.lock:
            post = self._shelf.letters.get(letter.id)
            if post is None or post.state is not LetterState.WAITING:
                return False
            del self._shelf.letters[letter.id]
            return True

    async def bar(self, letter: LetterName, deadline: float, reply: bytes = b"") -> bool:
        with self._shelf.lock:
            if letter.id in self._shelf.letters:
                return False
            nobody = Letter(letter.id, SessionKey("", "", ""), "", 0, deadline, b"", sealed=False)
            self._shelf.letters[letter.id] = Post(nobody, LetterState.ANSWERED, deadline, reply)
            return True

    async def answer(self, letter: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        with self._shelf.lock:
            post = self._shelf.letters.get(letter)
            if post is None or post.state is not LetterState.CLAIMED:
                return False
            if post.letter.worker != worker:
                return False
            post.state, post.reply, post.deadline = LetterState.ANSWERED, reply, deadline
            return True

    async def look(self, letter: LetterName) -> LetterStatus | None:
        post = self._shelf.letters.get(letter.id)
        if post is None:
            return None
        is_overdue = post.state is LetterState.CLAIMED and post.deadline < self.now()
        standing = Standing.OVERDUE if is_overdue else Standing.SOUND
        return LetterStatus(post.state, post.letter.worker, post.reply, standing)

    async def remove(self, letters: Collection[LetterName]) -> None:
        for letter in letters:
            self._shelf.letters.pop(letter.id, None)

    async def purge(self, now: float, limit: int) -> int:
        with self._shelf.lock:
            late = [p for p in self._shelf.letters.values() if p.deadline <= now]
            late = sorted(late, key=lambda post: post.deadline)[:limit]
            for post in late:
                del self._shelf.letters[post.letter.id]
            return len(late)
