"""Log lines of the parts below: to stderr, one line each, with time and level, harmless on any terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

ROOT = "pgrecall"


def configure(stream: TextIO, *, quiet: bool, verbose: int, escape: Callable[[str], str]) -> None:
    """WARNING and worse; with -v INFO, with -vv DEBUG; with -q ERROR. `escape` makes text printable. Repeatable."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_OneLine(escape))
    logger = logging.getLogger(ROOT)
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.ERROR if quiet else {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG))


class _OneLine(logging.Formatter):
    """`2026-11-20T14:05:00Z warning services.archive.push: …`"""

    def __init__(self, escape: Callable[[str], str]) -> None:
        super().__init__()
        self._escape = escape

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        source = record.name.removeprefix(f"{ROOT}.")
        return self._escape(f"{at} {record.levelname.lower()} {source}: {record.getMessage()}")
