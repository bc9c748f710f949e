"""The way to Redis: a server, a Sentinel group or a Cluster behind one face. It is up or away,
and comes back by itself."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.errors import StoreUnavailableError
from mcp_persist_middleware.grouped import Grouped
from mcp_persist_middleware.stores.redis import errors
from mcp_persist_middleware.stores.redis.errors import RedisAwayError
from mcp_persist_middleware.stores.redis.rights import Rights, is_denied, listened
from mcp_persist_middleware.stores.redis.scripts import ScriptCall
from mcp_persist_middleware.stores.redis.url import Target
from mcp_persist_middleware.supervision import Supervisor, Tasks, end

logger = rarely.logger(__name__)

_CONNECTIONS = 16
_PROBE_SECONDS, _CHECK_SECONDS = 0.25, 30.0
_REFUSING = (AuthenticationError, AuthorizationError, NoPermissionError)

# One line for both: of a Redis that comes and goes the last that is told is what it is.
_UNTRUSTED = (
    "Name the file of its authority in redis= (?ssl_ca_certs=/path/ca.pem), and the host as in its"
    " certificate"
)


class RedisClient:
    """Runs commands in pipelines, at most `_CONNECTIONS` at once, each within `timeout`.

    A first failure marks it as away; from then on nobody waits for it, and a probe that writes
    brings it back.
    """

    def __init__(self, target: Target, rights: Rights, *, timeout: float) -> None:
        self.name = target.name
        self.target = target
        self._rights = rights
        self._timeout = timeout
        self._client: Any = None
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._back = asyncio.Event()
        self._left = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._warned = ""
        self._denied = ""
        # An exchange has its time limit, and is finished even when who asked for it is cancelled:
        # the driver does not always let a cancellation through, and loses the connection to it.
        self._running = Tasks("mcp-persist-redis-exchange")
        # The driver works longer for an exchange than for a call.
        late = partial(RedisAwayError, "no answer in time")
        self._grouped = Grouped(self._together, self._running, 4 * timeout, late)
        self.away_since = time.monotonic()
        self.says_who_it_is = True
        """Whether it may be asked for `INFO`."""

    @property
    def is_up(self) -> bool:
        """Whether it is worth asking."""
        return self._back.is_set()

    async def open(self) -> None:
        """Connect. A Redis that cannot be reached is waited for in the background.

        Raises:
            StoreUnavailableError: it refuses us or a command that is needed, is too old, or would
                evict what it was given.
        """
        self._client = self.target.connect(self._timeout, _CONNECTIONS)
        try:
            await self._greet()
            self._back.set()
        except RedisAwayError as error:
            logger.warning(
                "MPM-REDIS-01: Redis %s is away (%s); events go to SQL until it is there.",
                *self._say(error),
            )
        self._watching = Supervisor().keep(self._watch, "mcp-persist-redis-watch")

    async def aclose(self) -> None:
        """Release the connections. May be called twice."""
        watching, self._watching = self._watching, None
        await end(watching)
        self._back.clear()
        await self._running.ended(2 * self._timeout)
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await client.aclose()

    def pubsub(self) -> Any:
        """A client whose connection is the caller's own, for subscriptions; close it."""
        return self.target.listener(self._client, self._timeout)

    async def run(self, calls: Sequence[ScriptCall], *, certain: bool = False) -> list[Any]:
        """The replies of one pipeline; what the server refused is an error in its place.

        Args:
            certain: they are sent even for somebody who is cancelled before their turn.

        Raises:
            RedisAwayError: no answer. Each call may have been done or not.
        """
        if not self.is_up:
            raise RedisAwayError("it is away")
        return await self._grouped.run(calls, certain=certain)

    async def alone(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """The same for what may have much to say: nobody else's wait for it."""
        return await self._running.whole(self.exchange(calls))

    async def _together(self, asked: Sequence[Sequence[ScriptCall]]) -> list[list[Any]]:
        replies = iter(await self.exchange([call for calls in asked for call in calls]))
        return [list(itertools.islice(replies, len(calls))) for calls in asked]

    async def exchange(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """The same for a caller whom nobody cancels, without those of anybody else."""
        if not self.is_up:
            raise RedisAwayError("it is away")
        replies = await self._run(calls)
        for error in errors.refusals(replies):
            if errors.is_unfit(error):
                self.leave(str(error))
                break
            if is_denied(error):
                # The watch finds out all that is refused, and says so.
                self._denied = str(error)
                self.leave(self._denied, quiet=True)
                break
        return replies

    async def _run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        if self._client is None:
            raise RedisAwayError("it is not open")
        try:
            async with asyncio.timeout(self._timeout * 2), self._slots:
                replies = await self._pipe([call.command for call in calls])
                # A server that was restarted knows no script, and has done nothing then.
                late = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                if late:
                    again = await self._pipe([calls[n].whole for n in late])
                    for n, reply in zip(late, again, strict=True):
                        replies[n] = reply
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            self.leave(type(error).__name__)
            raise RedisAwayError(type(error).__name__) from error
        return replies

    async def _pipe(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
            return replies

    def leave(self, why: str, *, quiet: bool = False) -> None:
        """Nobody asks any more until a probe was answered. `quiet`: the watch will say why."""
        if self.is_up:
            self._back.clear()
            self._left.set()
            self.away_since = time.monotonic()
            telemetry.redis_away.add(1)
            if not quiet:
                logger.warning(
                    "MPM-REDIS-01: Redis %s is away (%s); events go to SQL until it is back.",
                    self.name,
                    why,
                )

    def look(self) -> None:
        """See soon whether it is still there, and not only when somebody needs it."""
        self._left.set()

    async def back(self, deadline: float) -> bool:
        """Wait until it is up, or until a time of the monotonic clock; whether it is up."""
        wait = deadline - time.monotonic()
        if not self.is_up and wait > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._back.wait()
        return self.is_up

    async def _watch(self) -> None:
        """Probe it while it is away, and look now and then whether it still keeps what it is
        given."""
        while True:
            if self.is_up:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CHECK_SECONDS):
                        await self._left.wait()
            self._left.clear()
            if not self.is_up:
                await asyncio.sleep(_PROBE_SECONDS)
            was_up = self.is_up
            try:
                await self._running.whole(self._greet())
            except (RedisAwayError, StoreUnavailableError) as error:
                said = was_up or isinstance(error, StoreUnavailableError)
                if said:
                    self._warn(str(error))
                self._denied = ""
                self.leave(str(error), quiet=said)
            else:
                if was_up:
                    continue
                if self._denied:
                    # Not here: on another node of a cluster, or it has been allowed again.
                    self._warn(f"{self.name} says: {self._denied}")
                    self._denied = ""
                    await asyncio.sleep(_CHECK_SECONDS)
                    continue
                self._warned = ""
                self._back.set()
                logger.warning("MPM-REDIS-02: Redis %s is back.", self.name)

    def _warn(self, text: str) -> None:
        if text != self._warned:
            self._warned = text
            logger.error("MPM-REDIS-03: Redis is not used, events go to SQL: %s", text)

    def _say(self, error: Exception) -> tuple[str, str]:
        return self.name, str(error)

    async def _greet(self) -> None:
        """See that it takes a write and keeps it, and that it refuses nothing that is needed."""
        infos: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(self._timeout * 2), self._slots:
                with contextlib.suppress(NoPermissionError):
                    infos = [
                        await self.target.info(self._client, part) for part in ("server", "memory")
                    ]
                self._judge(infos)
                refused = await self._tried()
                if not self.is_up:
                    refused += await listened(self.pubsub(), self._rights.channel)
        except _REFUSING as error:
            raise self._refused(
                type(error).__name__, "Check user and password in redis="
            ) from error
        except ResponseError as error:
            if errors.is_unfit(error):
                raise RedisAwayError(str(error)) from error
            fix = "Check that redis= names a Redis server, and how: redis+cluster:// for a cluster"
            raise self._refused(str(error), fix) from error
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            if reason := errors.distrust(error):
                raise self._refused(reason, _UNTRUSTED) from error
            raise RedisAwayError(type(error).__name__) from error
        if judged := self._rights.judged(refused):
            raise self._refused(*judged)
        for _, text in refused:
            raise RedisAwayError(text)

    async def _tried(self) -> list[tuple[str, str]]:
        """What it refuses of all that is run here, and why."""
        calls = self._rights.calls()
        replies = await self._pipe([call.command for call in calls])
        for n, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                (replies[n],) = await self._pipe([calls[n].whole])
            error = replies[n]
            if isinstance(error, ResponseError) and not is_denied(error):
                raise error
        return self._rights.refused(replies)

    def _judge(self, infos: Sequence[dict[str, Any]]) -> None:
        self.says_who_it_is = bool(infos)
        if not infos:
            text = (
                "INFO is forbidden, so relayed requests between workers lie in SQL, and its "
                "maxmemory-policy cannot be known: it must be noeviction"
            )
            if self._warned != text:
                self._warned = text
                logger.warning("MPM-REDIS-04: Redis %s: %s.", self.name, text)
            return
        if judged := errors.unsuited(*infos):
            raise self._refused(*judged)

    def _refused(self, reason: str, fix: str) -> StoreUnavailableError:
        return StoreUnavailableError(url=self.name, reason=reason, fix=fix)
