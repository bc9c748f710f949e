"""What tools answer: the traffic that codecs are measured with. Imports nothing of ours."""

import asyncio
import base64
import functools
import json
import random
from pathlib import Path

_LIBRARY = Path(asyncio.__file__).parent
_SIZES = {"2k": 2_000, "200k": 200_000, "1m": 1_000_000}
KINDS = tuple(_SIZES)
"""A list of files as JSON, source text, and a picture (bytes that nothing shrinks) in base64."""


@functools.cache
def text(kind: str) -> str:
    """The text of a result of this kind."""
    size = _SIZES[kind]
    match kind:
        case "2k":
            files = [
                {"path": f"src/{path.name}", "bytes": path.stat().st_size, "kind": "file"}
                for path in sorted(_LIBRARY.glob("*.py"))
            ]
            return json.dumps({"files": files})[:size]
        case "200k":
            return "".join(path.read_text() for path in sorted(_LIBRARY.glob("*.py")))[:size]
        case _:
            return base64.b64encode(random.Random(1).randbytes(size * 3 // 4)).decode()
