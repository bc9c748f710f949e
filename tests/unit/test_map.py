"""The map of the house leads to rooms that are there."""

import re
from pathlib import Path

import mcp_persist_middleware

HOUSE = Path(mcp_persist_middleware.__file__).parent


def test_every_file_that_the_map_names_is_there() -> None:
    named = re.findall(r"[\w/]+\.py", mcp_persist_middleware.__doc__ or "")
    assert len(named) > 20
    assert [name for name in named if not (HOUSE / name).is_file()] == []


def test_every_room_that_the_way_of_a_request_passes_is_there() -> None:
    way = (mcp_persist_middleware.__doc__ or "").partition("Where to change what")[0]
    rooms = re.findall(r"`([\w/]+/?)`", way)
    folders = ("", "streams/")
    gone = [
        room
        for room in rooms
        if not any(
            (HOUSE / (folder + room)).is_dir() or (HOUSE / f"{folder}{room}.py").is_file()
            for folder in folders
        )
    ]
    assert gone == []
