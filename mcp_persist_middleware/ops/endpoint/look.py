"""What an endpoint speaks."""

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from mcp_persist_middleware.ops.endpoint.asker import MODERN, Asker, Heard
from mcp_persist_middleware.protocol import eras, headers
from mcp_persist_middleware.sessions.initialize import InitializeResult

# A GET stream begins as soon as it is asked for, on every official server (seconds).
_HEAD_TIMEOUT = 3.0
_REFUSALS = (401, 403)
_TASKS = "io.modelcontextprotocol/tasks"
_HANDSHAKE = tuple(v for v, era in reversed(eras.ERAS.items()) if era.keeps_sessions)
_ID_FIELD = re.compile(rb"^id:", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was seen of one endpoint; None is what could not be seen."""

    upstream: str
    trouble: str | None = None
    """Why the proxy can keep nothing of it, or only a part."""
    server: str | None = None
    """Its name and version, as it says."""
    revisions: tuple[str, ...] = ()
    """Those that it speaks and that are kept, the newest first."""
    sessions: bool | None = None
    answers: str | None = None
    """`event streams`; or `json`, where nothing leaves before the result."""
    get_stream: bool | None = None
    event_ids: bool | None = None
    """Whether its events have ids, which are replaced."""
    tasks: tuple[str, ...] = ()
    """Revisions at which it has tasks of its own, which are left to it."""
    auth: str | None = None
    """How it asks for a credential, or `none asked for`."""
    buffering: str | None = None
    """What keeps events back on the way, or `none seen`."""
    fingerprint: str | None = None
    """Of what it promises to a session: a session moves between servers that promise the same."""

    def as_json(self) -> dict[str, object]:
        """What is known."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}

    def __str__(self) -> str:
        lines = [self.upstream]
        for name, value in self.as_json().items():
            if name not in ("upstream", "fingerprint"):
                lines.append(f"  {name.replace('_', ' '):<10}  {_shown(value)}")
        return "\n".join(lines)


async def look(name: str, ask: Asker) -> Found:
    """Ask an endpoint what it speaks; whatever it answers is in what is returned."""
    return await _Look(name, ask).run()


class _Look:
    """One endpoint on its way to being known."""

    def __init__(self, name: str, ask: Asker) -> None:
        self._name = name
        self._ask = ask

    async def run(self) -> Found:
        """Ask everything."""
        newest, *older = _HANDSHAKE
        greeted, discovered = await self._ask.initialize(newest), await self._ask.discover()
        for refused in (greeted, discovered):
            if refused.status in _REFUSALS:
                return self._refused(refused)
        greeting = InitializeResult.parse(greeted.headers, greeted.body)
        spoken = {MODERN} if MODERN in discovered.result.get("supportedVersions", ()) else set()
        if greeting is not None:
            spoken |= {greeting.version, *[v for v in older if await self._speaks(v)]}
        found = Found(
            upstream=self._name,
            server=_named(greeted.result.get("serverInfo")),
            revisions=tuple(v for v in reversed(eras.ERAS) if v in spoken),
            tasks=_tasks(greeted, discovered),
            auth="none asked for",
        )
        if not found.revisions:
            statuses = f"initialize with {greeted.status} and server/discover with "
            trouble = f"no MCP endpoint: it answers {statuses}{discovered.status}"
            return Found(upstream=self._name, trouble=trouble)
        return found if greeting is None else await self._in_session(found, greeting, greeted)

    def _refused(self, heard: Heard) -> Found:
        challenge = heard.header(b"www-authenticate") or f"HTTP status {heard.status}"
        trouble = "it asks for a credential: give one with --header-file to see more"
        return Found(upstream=self._name, trouble=trouble, auth=challenge)

    async def _speaks(self, version: str) -> bool:
        heard = await self._ask.initialize(version)
        greeting = InitializeResult.parse(heard.headers, heard.body)
        if (session := heard.header(headers.SESSION_ID)) is not None:
            await self._ask.end(session, version)
        return greeting is not None and greeting.version == version

    async def _in_session(self, found: Found, greeting: InitializeResult, greeted: Heard) -> Found:
        session = greeted.header(headers.SESSION_ID)
        await self._ask.initialized(session, greeting.version)
        stream = await self._ask.get_stream(session, greeting.version, _HEAD_TIMEOUT)
        if session is not None:
            await self._ask.end(session, greeting.version)
        is_stream = greeted.is_stream
        return replace(
            found,
            sessions=session is not None,
            answers="event streams" if is_stream else "json",
            get_stream=stream.is_stream if stream is not None else None,
            event_ids=bool(_ID_FIELD.search(greeted.body)) if is_stream else None,
            buffering=_buffering(greeted, stream),
            fingerprint=greeting.fingerprint,
        )


def _named(server: Any) -> str | None:
    match server:
        case {"name": str(name), "version": str(version)}:
            return f"{name} {version}".rstrip()
    return None


def _tasks(greeted: Heard, discovered: Heard) -> tuple[str, ...]:
    def capabilities(heard: Heard) -> dict[str, Any]:
        found = heard.result.get("capabilities")
        return found if isinstance(found, dict) else {}

    has = {
        MODERN: _TASKS in (capabilities(discovered).get("extensions") or ()),
        _HANDSHAKE[0]: "tasks" in capabilities(greeted),
    }
    return tuple(version for version, is_there in has.items() if is_there)


def _buffering(*answers: Heard | None) -> str | None:
    """What shows it: a head that does not come before there is an event, or one of a stream that
    was there as a whole."""
    streams = [heard for heard in answers if heard is not None and heard.is_stream]
    if None in answers:
        return f"the GET stream did not begin within {_HEAD_TIMEOUT:g} s"
    if any(heard.header(b"content-encoding") for heard in streams):
        return "event streams are compressed, though nobody asked for that"
    if any(heard.header(b"content-length") for heard in streams):
        return "event streams are collected: they come with a Content-Length"
    return "none seen" if streams else None


def _shown(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join(value)
    return str(value)
