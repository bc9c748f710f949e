"""What serves, looked at: an application that is started here, or servers elsewhere."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mcp_persist_middleware.errors import ConfigurationError, PersistError
from mcp_persist_middleware.ops.applications import application, persistence_in
from mcp_persist_middleware.ops.doctor import Finding, Level, sealing
from mcp_persist_middleware.ops.doctor import application as checks
from mcp_persist_middleware.ops.endpoint import in_process
from mcp_persist_middleware.ops.endpoint.asker import Asker
from mcp_persist_middleware.ops.proxy_command import read_headers
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.settings import Settings


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What the application tells a server's log, or prints, is no part of an answer."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(before)


@dataclass(frozen=True, slots=True)
class Look:
    """How it is looked at."""

    upstreams: Sequence[str]
    path: str
    header_file: Path | None
    origin: str | None

    def check(self) -> None:
        """Whether that can be done.

        Raises:
            ConfigurationError: it cannot, and why.
        """
        read_headers(self.header_file)
        if not self.path.startswith("/"):
            raise ConfigurationError(reason=f"--path is {self.path!r}: expected a path as /mcp")
        if not self.upstreams:
            return
        try:
            from mcp_persist_middleware.ops.proxy import servers
        except ImportError as error:
            raise ConfigurationError(
                reason="--upstream needs aiohttp, which the extra proxy brings: "
                'pip install "mcp-persist-middleware[proxy]"'
            ) from error
        servers(self.upstreams)

    async def at_application(self, name: str, settings: Settings) -> list[Finding]:
        """A line for each that is to know of an application."""
        given = [(n.lower().encode(), v.encode("latin-1")) for n, v in self._headers]
        try:
            app = application(name)
            # Of a server object's application the lifespan opens it by itself.
            access_to(persistence_in(app)).switch_off()
            with _silence():
                async with in_process.running(app) as served:
                    ask = Asker(served, self.path, given)
                    seen = await checks.seen(ask, f"{name} at {self.path}", self.origin)
                shared = await sealing.is_shared(app, name) if seen.seals else None
        except PersistError as error:
            return [Finding("application", Level.FAILURE, str(error))]
        more = replace(
            seen,
            inner_cors=checks.has_inner_cors(app),
            shared_key=shared,
            primes_json=settings.prime_json,
        )
        return checks.findings(more)

    async def at_upstreams(self) -> list[Finding]:
        """A line for each that is to know of each server."""
        if not self.upstreams:
            return []
        # The client is an extra.
        from mcp_persist_middleware.ops.proxy import UpstreamOptions, servers
        from mcp_persist_middleware.ops.proxy.check import asker
        from mcp_persist_middleware.ops.proxy.refusal import NotSentError

        found: list[Finding] = []
        promised: dict[str, str] = {}
        for upstream in servers(self.upstreams, UpstreamOptions(headers=self._headers)):
            try:
                seen = await checks.seen(asker(upstream), upstream.pool.name, self.origin)
            except NotSentError as error:
                said = f"{upstream.pool.name}: {error.reason}"
                fix = "Start the server, or correct --upstream"
                found.append(Finding("application", Level.FAILURE, said, fix))
            else:
                found += checks.findings(seen)
                if seen.found.fingerprint is not None:
                    promised[upstream.pool.name] = seen.found.fingerprint
            finally:
                await upstream.pool.aclose()
        if len(set(promised.values())) > 1:
            said = f"{', '.join(promised)} promise different things: no session can move"
            fix = "Let all that share a store be of one version, or give each a store of its own"
            found.append(Finding("replicas", Level.WARNING, said, fix))
        return found

    @property
    def _headers(self) -> tuple[tuple[str, str], ...]:
        return read_headers(self.header_file)
