"""An example, started by the command in its own text."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.processes import ROOT, ServerProcess, running
from tests.support.stores import free_port

EXAMPLES = ROOT / "examples"
_COMMAND = re.compile(r"^ *\$ (?=uvicorn |gunicorn |fastmcp |python )(.+)$", re.MULTILINE)
_LISTENS = r"(?:Uvicorn running on|Listening at:) http://127\.0\.0\.1:\d+"
# Whoever runs a server by itself learns the port in its own way.
_PORT = {"gunicorn": "-b 127.0.0.1:{}", "fastmcp": "--port {}", "python": ""}


def command_of(example: str) -> list[str]:
    """How its text says that it is started."""
    (command,) = _COMMAND.findall((EXAMPLES / example).read_text())
    return str(command).split()


@asynccontextmanager
async def started(
    example: str, directory: Path, environ: dict[str, str], python: str = sys.executable
) -> AsyncIterator[int]:
    """The port of the example, which runs meanwhile."""
    program, *arguments = command_of(example)
    log = directory / f"{example}.log"
    if program == "uvicorn":
        app, *more = arguments
        server = ServerProcess(app, log, environ=environ, python=python, arguments=more)
        async with running(server):
            yield server.port
        assert server.complaints == []
        return
    port = free_port()
    command = [str(Path(python).with_name(program)), *arguments]
    command += _PORT[program].format(port).split()
    process = await _spawn(command, environ | {"FASTMCP_PORT": str(port)}, log)
    try:
        await _listening(process, log)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 30)


async def _spawn(
    command: list[str], environ: dict[str, str], log: Path
) -> asyncio.subprocess.Process:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "250"} | environ
    with log.open("wb") as file:
        return await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file
        )


async def _listening(process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(60):
        while not re.search(_LISTENS, log.read_text(errors="replace")):
            assert process.returncode is None, log.read_text(errors="replace")
            await asyncio.sleep(0.05)
