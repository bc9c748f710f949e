"""What upstreams speak, found out by asking: `proxy --check`."""

from collections.abc import Sequence
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from mcp_persist_middleware.ops.endpoint.asker import Asker
from mcp_persist_middleware.ops.endpoint.look import Found, look
from mcp_persist_middleware.ops.proxy.pool import ConnectPolicy
from mcp_persist_middleware.ops.proxy.refusal import NotSentError
from mcp_persist_middleware.ops.proxy.upstream import Upstream


async def check(upstreams: Sequence[Upstream]) -> list[Found]:
    """Ask upstreams what they speak; whatever they answer, or do not, is in what is returned."""
    found = [await _checked(upstream) for upstream in upstreams]
    first = found[0].fingerprint
    return [
        each
        if each.trouble or each.fingerprint == first
        else replace(
            each,
            trouble=f"it promises other things than {found[0].upstream}: no session "
            "of the one can go on at the other",
        )
        for each in found
    ]


def asker(upstream: Upstream) -> Asker:
    """Asks an upstream, without trying for long to be connected.

    Raises:
        NotSentError: by each question, where it cannot be reached.
    """
    pool = upstream.pool
    policy = ConnectPolicy(pool.options.connect_timeout, retries=False)

    async def attempt(scope: Scope, receive: Receive, send: Send) -> None:
        await upstream.attempt(policy, scope, receive, send)

    return Asker(attempt, pool.options.path or pool.path)


async def _checked(upstream: Upstream) -> Found:
    try:
        return await look(upstream.pool.name, asker(upstream))
    except NotSentError as error:
        return Found(upstream=upstream.pool.name, trouble=error.reason)
    finally:
        await upstream.pool.aclose()
