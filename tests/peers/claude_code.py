"""Claude Code against a plain server that has never heard of tasks, behind the middleware.

No account is needed: a stand-in for the model, on loopback, asks for the calls. Everything between
it and the tool is real: Claude Code from npm, without a terminal (`--print`) and on one.

Run:     python -m tests.peers.claude_code [--cache DIRECTORY]
         (needs npm; the package is installed into the cache directory once)
Expect:  `mcp list` connects; a call of `--print`, which declares no tasks, has its result; on a
         terminal a call that gets long is a task whose result arrives; one whose server is killed
         is told to have failed; exit code 0.
"""

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import sys
import tempfile
import termios
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.peers.npm import install
from tests.support.processes import ServerProcess, mcp_server, running
from tests.support.scripted import serving, until

# Named: npm takes one without tasks where node is older than 22, although it does not run on that.
_PACKAGE = "@anthropic-ai/claude-code@2.1.332"
_KEY, _TOOL = "no-account", "mcp__ours__count"
_ASKED = re.compile(r"CALL (\w+) (\d+)")
_TASKS_AFTER, _LONGEST = 2, 45.0


class Model:
    """Stands in for the model: for each `CALL name n` that it reads it asks once for the tool."""

    def __init__(self) -> None:
        self.heard = ""
        """All that it was told last, without what quotes it."""
        self._asked: set[str] = set()
        self.app = Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/{rest:path}", self._other, methods=["GET", "HEAD", "POST"]),
            ]
        )

    async def _messages(self, request: Request) -> Response:
        body = await request.json()
        self.heard = json.dumps(body["messages"])
        message: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        asks = next((m for m in _ASKED.finditer(self.heard) if m[1] not in self._asked), None)
        if asks is not None and any(tool["name"] == _TOOL for tool in body.get("tools", ())):
            self._asked.add(asks[1])
            block = {"type": "tool_use", "id": f"toolu_{asks[1]}", "name": _TOOL, "input": {}}
            given = json.dumps({"n": int(asks[2]), "delay": 1})
            delta, reason = {"type": "input_json_delta", "partial_json": given}, "tool_use"
        else:
            block = {"type": "text", "text": ""}
            delta, reason = {"type": "text_delta", "text": f"heard {_said(self.heard)}"}, "end_turn"
        events = (
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": None},
                "usage": {"output_tokens": 1},
            },
            {"type": "message_stop"},
        )
        frames = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events]
        return Response("".join(frames), media_type="text/event-stream")

    @staticmethod
    async def _other(_: Request) -> Response:
        return JSONResponse({"input_tokens": 1})


def _said(heard: str) -> str:
    return ", ".join(re.findall(r"counted \d+", heard)) or "nothing yet"


class Claude:
    """Claude Code in a home of its own."""

    def __init__(self, cache: Path, home: Path, model: int, server: ServerProcess) -> None:
        self._program = str(install(cache, _PACKAGE) / ".bin" / "claude")
        self._home = home
        project = {
            "hasTrustDialogAccepted": True,
            "mcpServers": {"ours": {"type": "http", "url": server.url}},
        }
        known = {
            "hasCompletedOnboarding": True,
            "hasSeenAutoDefaultNotice": True,
            "fullscreenUpsellSeenCount": 3,
            "customApiKeyResponses": {"approved": [_KEY], "rejected": []},
            "projects": {str(home): project},
        }
        (home / ".claude.json").write_text(json.dumps(known))
        self._environ: Mapping[str, str] = os.environ | {
            "HOME": str(home),
            "TERM": "xterm",
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{model}",
            "ANTHROPIC_API_KEY": _KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "ENABLE_TOOL_SEARCH": "false",
            "MCP_CONNECTION_NONBLOCKING": "0",
        }

    async def run(self, *arguments: str) -> str:
        """What a command prints."""
        process = await asyncio.create_subprocess_exec(
            *(self._program, *arguments),
            cwd=self._home,
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), _LONGEST)
        finally:
            if process.returncode is None:
                process.kill()
        return out.decode()

    @contextlib.asynccontextmanager
    async def on_a_terminal(self) -> AsyncIterator[int]:
        """It runs; what is written to the descriptor is typed."""
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 150, 0, 0))
        process = await asyncio.create_subprocess_exec(
            *(self._program, "--allowedTools", _TOOL),
            cwd=self._home,
            env=self._environ,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        loop, shown = asyncio.get_running_loop(), bytearray()
        loop.add_reader(ours, lambda: shown.extend(os.read(ours, 65536)))
        try:
            # It is ready when it shows its prompt and stands still.
            await until(lambda: b"\xe2\x9d\xaf" in shown, _LONGEST)
            yield ours
        finally:
            loop.remove_reader(ours)
            process.kill()
            await process.wait()
            os.close(ours)
            os.close(its)


async def _type(terminal: int, text: str) -> None:
    os.write(terminal, text.encode())
    # Keys that come together are taken for a paste.
    await asyncio.sleep(1)
    os.write(terminal, b"\r")


class Findings:
    """What is as expected, and what is not."""

    def __init__(self) -> None:
        self.wrong = 0

    def tell(self, what: str, *, right: bool) -> None:
        """Print one."""
        self.wrong += not right
        print(f"{'ok   ' if right else 'WRONG'} {what}", flush=True)


async def _heard(model: Model, pattern: str) -> str:
    """What the model is told sooner or later, or an empty text."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: re.search(pattern, model.heard), _LONGEST)
    found = re.search(pattern, model.heard)
    return found[0] if found is not None else ""


async def _story(claude: Claude, model: Model, server: ServerProcess) -> int:
    findings = Findings()
    print((await claude.run("--version")).strip())
    listed = await claude.run("mcp", "list")
    findings.tell("mcp list: the server is connected", right="Connected" in listed)
    said = await claude.run("--print", "CALL short 4", "--allowedTools", _TOOL)
    findings.tell(f"--print, no tasks declared: {said.strip()}", right="counted 4" in said)
    async with claude.on_a_terminal() as terminal:
        await _type(terminal, "CALL long 9")
        task = await _heard(model, r"started server-side task \w+")
        findings.tell(f"on a terminal: {task}", right=bool(task))
        end = await _heard(model, r"<status>completed</status>.*?counted 9")
        findings.tell("its result arrives by itself", right=bool(end))
        await _type(terminal, "CALL lost 60")
        second = r"(?s)toolu_lost.*started server-side task \w+"
        findings.tell("another task", right=bool(await _heard(model, second)))
        await server.kill()
        await server.start()
        end = await _heard(model, r"<status>failed</status>.*?</result>")
        findings.tell(f"its server is killed: {end}", right=bool(end))
    return findings.wrong


async def _main(cache: Path) -> int:
    model = Model()
    settings = {"tasks_after": _TASKS_AFTER}
    with tempfile.TemporaryDirectory(prefix="claude-code-") as name:
        directory = Path(name)
        server = mcp_server(directory, settings=settings)
        async with running(server), serving(model.app) as port:
            return await _story(Claude(cache, directory, port, server), model, server)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.peers.claude_code")
    default = Path.home() / ".cache" / "mcp-persist-middleware-claude-code"
    parser.add_argument("--cache", type=Path, default=default)
    wrong = asyncio.run(_main(parser.parse_args().cache))
    print(f"{wrong} not as expected" if wrong else "as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
