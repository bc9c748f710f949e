"""Whether the application has forgotten a session, asked in a way that changes nothing.

404 and 400 say many things: a tool that is unknown, a stranger, a session that is gone. Nobody can
find fault with the cancellation of a request that does not exist; so the same question is put once
for the session and once for one that never was. Equal answers are those to an unknown session, if
a session that is known gets another one.
"""

import json
import secrets
from dataclasses import dataclass

from starlette.types import ASGIApp, Scope

from mcp_persist_middleware import asgi
from mcp_persist_middleware.protocol import coding, headers

_ID = headers.SESSION_ID
_NAMES = (_ID, headers.PROTOCOL_VERSION)
_UNKNOWN = frozenset({400, 404})


@dataclass(frozen=True, slots=True)
class ComparableAnswer:
    """An answer, less what differs between any two: the request's id and the session's."""

    status: int
    body: bytes

    @classmethod
    def of(cls, answer: asgi.Answer, session: str) -> "ComparableAnswer":
        """What the application said about a session."""
        body = coding.plain(answer.headers, answer.body, asgi.MAX_ANSWER)
        body = body.replace(session.encode("latin-1"), b"")
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            return cls(answer.status, body)
        if isinstance(message, dict):
            message.pop("id", None)
        return cls(answer.status, json.dumps(message, sort_keys=True).encode())


async def ask(app: ASGIApp, scope: Scope, session: str, version: str) -> asgi.Answer:
    """The question about a session, with the credentials of `scope`."""
    return (await asked(app, scope, session, version))[1]


async def asked(
    app: ASGIApp, scope: Scope, session: str, version: str
) -> tuple[Scope, asgi.Answer]:
    """The same, with the scope that the application's authentication has had."""
    named = [
        (_ID, session.encode("latin-1")),
        (headers.PROTOCOL_VERSION, version.encode("latin-1")),
    ]
    return await asgi.probe_caller(app, scope, revives=True, without=_NAMES, instead=named)


def made_up() -> str:
    """The id of a session that never was."""
    return secrets.token_hex(16)


async def unknown(
    app: ASGIApp, scope: Scope, session: str, version: str
) -> ComparableAnswer | None:
    """What the application says of a session that it does not know, if it says that of this one.

    It may be what it says of any session: who acts on it has to see that one that it does know is
    answered otherwise.
    """
    said = ComparableAnswer.of(await ask(app, scope, session, version), session)
    if said.status not in _UNKNOWN:
        return None
    other = made_up()
    return (
        said if said == ComparableAnswer.of(await ask(app, scope, other, version), other) else None
    )
