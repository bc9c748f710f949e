"""Errors by kind: the codes that lines of the log begin with, counted where they are said."""

import logging
import re

from mcp_persist_middleware.telemetry.instrument import NAME
from mcp_persist_middleware.telemetry.storing import errors

_CODE = re.compile(r"MPM-[A-Z]+-\d+")


class _Counts(logging.Filter):
    """Lets everything pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING and (found := _CODE.match(str(record.msg))):
            errors.add(1, {"code": found[0]})
        return True


_COUNTS = _Counts()


def count_codes() -> None:
    """Count what the loggers of this library say from now on, before any of their filters leaves
    something out. No handler does it: with one, Python would say nothing to who has set up none."""
    for name in list(logging.root.manager.loggerDict):
        if name == NAME or name.startswith(f"{NAME}."):
            filters = logging.getLogger(name).filters
            if _COUNTS not in filters:
                filters.insert(0, _COUNTS)
