"""Checks of an application, or of a server elsewhere, as a client sees it."""

from collections.abc import Callable
from dataclasses import dataclass

from mcp_persist_middleware.ops.applications import layers
from mcp_persist_middleware.ops.doctor import Finding, Level
from mcp_persist_middleware.ops.endpoint.asker import MODERN, Asker
from mcp_persist_middleware.ops.endpoint.look import Found, look
from mcp_persist_middleware.ops.endpoint.pages import Pages, look_at_pages

PAGE = "https://page.example"
"""The origin of a page of nobody's."""
_SEALED = "invalid_request_state"
_ONE_KEY = (
    "Give all workers one key: MCPServer(…, request_state_security=RequestStateSecurity("
    'keys=[os.environ["REQUEST_STATE_KEY"]])), of 32 bytes or more'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationFacts:
    """What was seen of it."""

    found: Found
    pages: Pages
    asked_for_pages: bool
    """Whether somebody named the origin."""
    inner_cors: bool | None = None
    """Whether the layer for pages is inside of the middleware; None where that is not seen."""
    seals: bool = False
    """Whether it looks at a `requestState` before it looks for the tool."""
    shared_key: bool | None = None
    """Whether its processes have one key for that; None where that is not seen."""
    primes_json: bool = False


async def seen(ask: Asker, name: str, origin: str | None) -> ApplicationFacts:
    """Ask it everything."""
    found = await look(name, ask)
    version = next((each for each in found.revisions if each != MODERN), None)
    pages = Pages(origin or PAGE, allowed=False)
    if version is not None:
        pages = await look_at_pages(ask, pages.origin, version)
    seals = False
    if MODERN in found.revisions:
        said = (await ask.returned("made up")).error.get("data")
        seals = isinstance(said, dict) and said.get("reason") == _SEALED
    return ApplicationFacts(
        found=found, pages=pages, asked_for_pages=origin is not None, seals=seals
    )


def has_inner_cors(app: object) -> bool:
    """Whether a layer for pages is inside of the middleware in an application: what the middleware
    answers by itself, a stream that is resumed for one, then lacks its headers."""
    is_inside = False
    for layer in layers(app):
        name = getattr(getattr(layer, "cls", type(layer)), "__name__", "")
        is_inside = is_inside or name == "PersistMiddleware"
        if is_inside and name == "CORSMiddleware":
            return True
    return False


def findings(seen: ApplicationFacts) -> list[Finding]:
    """A line for each."""
    found = seen.found
    if found.trouble is None:
        said = f"{found.server or 'a server without a name'}, {found.upstream}"
        return [Finding("application", Level.OK, said), *(check(seen) for check in CHECKS)]
    if found.auth is not None:
        fix = "Give a credential with --header-file (a line 'Authorization: …'), to see more"
        said = f"{found.upstream} asks for a credential ({found.auth})"
        return [Finding("application", Level.WARNING, said, fix)]
    fix = (
        "Start it, or correct the address. Of an application --path says where its endpoint is; "
        "one that answers 421 serves other names: --header-file with a line 'Host: …'"
    )
    return [Finding("application", Level.FAILURE, f"{found.upstream}: {found.trouble}", fix)]


def _eras(seen: ApplicationFacts) -> Finding:
    revisions = ", ".join(seen.found.revisions)
    return Finding("eras", Level.OK, revisions)


def _sessions(seen: ApplicationFacts) -> Finding:
    match seen.found.sessions:
        case None:
            said = "there are none at this revision"
        case True:
            said = "it keeps sessions, which come back on another worker"
        case False:
            said = "it keeps none (stateless)"
    return Finding("sessions", Level.OK, said)


def _answers(seen: ApplicationFacts) -> Finding:
    match seen.found.answers:
        case "json" if not seen.primes_json:
            fix = (
                "Leave out json_response=True, or set prime_json=True: a JSON answer that is cut "
                "cannot be fetched again"
            )
            return Finding("answers", Level.WARNING, "JSON, in one piece at the end", fix)
        case "json":
            return Finding("answers", Level.OK, "JSON, behind a stream of ours (prime_json)")
        case None:
            return Finding("answers", Level.SKIPPED, "not seen at this revision")
        case said:
            return Finding("answers", Level.OK, said)


def _buffering(seen: ApplicationFacts) -> Finding:
    match seen.found.buffering:
        case None:
            return Finding("buffering", Level.SKIPPED, "there was no event stream to see it by")
        case "none seen":
            return Finding("buffering", Level.OK, "none seen")
        case said:
            fix = (
                "Take out what collects event streams: a layer that compresses or reads whole "
                "bodies; at nginx proxy_buffering off"
            )
            return Finding("buffering", Level.WARNING, said, fix)


def _tasks(seen: ApplicationFacts) -> Finding:
    if not (tasks := seen.found.tasks):
        return Finding("tasks", Level.OK, "none of its own")
    return Finding("tasks", Level.OK, f"its own at {', '.join(tasks)}, which are left to it")


def _cors(seen: ApplicationFacts) -> Finding:
    pages = seen.pages
    if not pages.allowed:
        said = f"pages of {pages.origin} may not speak to it"
        if not seen.asked_for_pages:
            return Finding("cors", Level.SKIPPED, f"{said}; --origin names pages of yours")
        fix = f"Add CORSMiddleware(allow_origins=[{pages.origin!r}], …) as the outermost layer"
        return Finding("cors", Level.WARNING, said, fix)
    if seen.inner_cors:
        fix = "Add CORSMiddleware after PersistMiddleware, so that it is outside"
        said = "it is inside of PersistMiddleware: a page cannot read a stream that it resumes"
        return Finding("cors", Level.WARNING, said, fix)
    if pages.refused is not None:
        fix = (
            f"Let it take that Origin (MCP SDK: TransportSecuritySettings(allowed_origins="
            f"[{pages.origin!r}]))"
        )
        said = f"the application refuses pages of {pages.origin} with {pages.refused}"
        level = Level.WARNING if seen.asked_for_pages else Level.SKIPPED
        return Finding("cors", level, said, fix)
    lacking = [
        *([f"may not send {', '.join(pages.unsent)}"] if pages.unsent else ()),
        *([f"cannot read {', '.join(pages.unread)}"] if pages.unread else ()),
    ]
    if not lacking:
        said = f"pages of {pages.origin} may send and read what a client needs"
        return Finding("cors", Level.OK, said)
    fix = (
        'CORSMiddleware(…, allow_methods=["GET", "POST", "DELETE"], allow_headers=["*"], '
        'expose_headers=["Mcp-Session-Id"])'
    )
    return Finding("cors", Level.WARNING, f"pages of {pages.origin} {' and '.join(lacking)}", fix)


def _request_state(seen: ApplicationFacts) -> Finding:
    name = "request state"
    match seen.shared_key:
        case True:
            return Finding(name, Level.OK, "another process reads what this one seals")
        case False if seen.seals:
            said = (
                "sealed with a key of each process: a call that waits for input is refused by "
                "another worker, and after a restart"
            )
            return Finding(name, Level.WARNING, said, _ONE_KEY)
    if seen.seals:
        said = "sealed; whether with one key for all workers shows `doctor --app` beside the server"
        return Finding(name, Level.SKIPPED, said)
    return Finding(name, Level.SKIPPED, "nothing that is sealed was seen")


CHECKS: tuple[Callable[[ApplicationFacts], Finding], ...] = (
    _eras,
    _sessions,
    _answers,
    _buffering,
    _tasks,
    _cors,
    _request_state,
)
