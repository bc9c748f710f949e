"""How the first word of a shutdown is heard, and what is left of the listening."""

import asyncio
import gc
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from sse_starlette import EventSourceResponse

from mcp_persist_middleware.shutdown import ShutdownWatch
from mcp_persist_middleware.streams import exit_guard
from tests.support.scripted import until


@pytest.fixture
def handler() -> Iterator[list[int]]:
    """A server's own handler for SIGTERM; the signals that it was given."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, before)


async def test_a_servers_own_handler_is_called_as_before_and_put_back(handler: list[int]) -> None:
    own, told = signal.getsignal(signal.SIGTERM), asyncio.Event()
    watch = ShutdownWatch(told.set)
    watch.start()
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(told.wait(), 5)
    await watch.aclose()
    assert handler == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is own


async def test_closed_in_any_order_two_watches_leave_the_servers_handler_in_charge(
    handler: list[int],
) -> None:
    calls: list[str] = []
    first = ShutdownWatch(lambda: calls.append("first"))
    second = ShutdownWatch(lambda: calls.append("second"))
    first.start()
    second.start()
    await first.aclose()
    signal.raise_signal(signal.SIGTERM)
    await until(lambda: calls)
    await second.aclose()
    signal.raise_signal(signal.SIGTERM)
    assert (handler, calls) == ([signal.SIGTERM] * 2, ["second"])


async def test_a_second_signal_of_either_kind_is_told_and_the_servers_handlers_are_put_back(
    handler: list[int],
) -> None:
    interrupts: list[int] = []
    # What runs this test has a handler of its own there, which would end it.
    before = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        own = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        first, second = asyncio.Event(), asyncio.Event()
        watch = ShutdownWatch(first.set, second.set)
        watch.start()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(first.wait(), 5)
        assert not second.is_set()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(second.wait(), 5)
        second.clear()
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(second.wait(), 5)
        await watch.aclose()
        assert (handler, interrupts) == ([signal.SIGTERM] * 2, [signal.SIGINT])
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == own
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("disposition", [signal.SIG_DFL, signal.SIG_IGN])
async def test_a_process_without_a_handler_is_left_without_one(disposition: Any) -> None:
    before = signal.signal(signal.SIGTERM, disposition)
    try:
        watch = ShutdownWatch(lambda: None)
        watch.start()
        assert signal.getsignal(signal.SIGTERM) is disposition
        await watch.aclose()
    finally:
        signal.signal(signal.SIGTERM, before)


class _Uvicorn:
    should_exit = False

    def handle_exit(self, *_: object) -> None:
        self.should_exit = True


async def test_uvicorns_handler_is_not_touched_and_is_heard_through_sse_starlette() -> None:
    server, told = _Uvicorn(), asyncio.Event()
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        watch = ShutdownWatch(told.set)
        watch.start()
        assert signal.getsignal(signal.SIGTERM) == server.handle_exit
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(told.wait(), 5)
        await watch.aclose()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_no_handler_is_installed(handler: list[int]) -> None:
    own = signal.getsignal(signal.SIGTERM)

    async def main() -> None:
        watch = ShutdownWatch(lambda: None)
        watch.start()
        await watch.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert signal.getsignal(signal.SIGTERM) is own
    assert not handler


async def test_only_a_covered_stream_is_shielded_from_the_exit_switch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def exits() -> None:
        """The server is already shutting down."""

    monkeypatch.setattr(EventSourceResponse, "_listen_for_exit_signal", staticmethod(exits))
    assert exit_guard.install()
    installed = EventSourceResponse._listen_for_exit_signal
    assert exit_guard.install()
    assert EventSourceResponse._listen_for_exit_signal is installed

    async def covered() -> None:
        exit_guard.protect()
        await EventSourceResponse._listen_for_exit_signal()

    with anyio.fail_after(5):
        await EventSourceResponse._listen_for_exit_signal()
    waiting = asyncio.create_task(covered())
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    waiting.cancel()


@pytest.mark.parametrize("found", [None, "a text", classmethod(lambda _: None)])
async def test_an_unknown_sse_starlette_is_left_alone_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, found: Any
) -> None:
    monkeypatch.setattr(EventSourceResponse, "_listen_for_exit_signal", found)
    assert not exit_guard.install()
    assert vars(EventSourceResponse)["_listen_for_exit_signal"] is found
    assert "not known" in caplog.text


@pytest.mark.parametrize("turns", range(10))
def test_closed_within_any_turn_of_the_loop_it_leaves_nothing_that_was_never_awaited(
    turns: int,
) -> None:
    unraised: list[Any] = []

    async def listen() -> None:
        watch = ShutdownWatch(lambda: None)
        watch.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        await watch.aclose()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before, sys.unraisablehook = sys.unraisablehook, unraised.append
        try:
            thread = threading.Thread(target=lambda: asyncio.run(listen()))
            thread.start()
            thread.join(10)
            gc.collect()
        finally:
            sys.unraisablehook = before
    assert not thread.is_alive()
    assert [str(warning.message) for warning in caught] == []
    assert unraised == []
