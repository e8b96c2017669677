"""Owns the choice between our C module and its Python twins (C where it was built, unless PGRECALL_PURE=1 is set)."""

import importlib
import os
from mmap import mmap
from types import ModuleType

Buffer = bytes | bytearray | memoryview | mmap

PURE_VARIABLE = "PGRECALL_PURE"


def load_native() -> ModuleType | None:
    """The C module, or None where it is not built or not wanted."""
    if os.environ.get(PURE_VARIABLE, "") not in ("", "0"):
        return None
    try:
        return importlib.import_module("pgrecall.postgres._native")
    except ImportError:
        return None


def is_page_size(size: int) -> bool:
    """True for the block sizes that PostgreSQL can be built with."""
    return 1024 <= size <= 32768 and size & (size - 1) == 0
