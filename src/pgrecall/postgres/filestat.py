"""Owns what Python's os module does not offer of files: birth time."""

import ctypes
import os
import sys
from functools import cache

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
STATX_BTIME = 0x800
STATX_BYTES = 256  # struct statx, linux/stat.h
_MASK_AT, _BTIME_AT = 0, 80


@cache
def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):
        return None


def birth_ns(file: int | str | os.PathLike[str]) -> int:
    """Nanoseconds since 1970 at which the file was made; 0 where the system cannot tell.

    A file name that was removed and made again keeps no birth time: that is what it is for. Links are followed.
    Raise OSError if there is no such file.
    """
    status = os.stat(file)  # noqa: PTH116 (a descriptor as well)
    birth = getattr(status, "st_birthtime_ns", None)
    if birth is not None:
        return int(birth)
    if sys.platform == "linux":
        return _statx_birth_ns(file)
    return int(getattr(status, "st_birthtime", 0) * 1_000_000_000)


def _statx_birth_ns(file: int | str | os.PathLike[str]) -> int:
    library = _libc()
    if library is None or not hasattr(library, "statx"):
        return 0
    result = ctypes.create_string_buffer(STATX_BYTES)
    if isinstance(file, int):
        directory, name, flags = file, b"", AT_EMPTY_PATH
    else:
        directory, name, flags = AT_FDCWD, os.fsencode(file), 0
    failed = library.statx(
        ctypes.c_int(directory), ctypes.c_char_p(name), ctypes.c_int(flags), ctypes.c_uint(STATX_BTIME), result
    )
    raw = result.raw
    mask = int.from_bytes(raw[_MASK_AT : _MASK_AT + 4], sys.byteorder)
    if failed != 0 or not mask & STATX_BTIME:
        return 0
    seconds = int.from_bytes(raw[_BTIME_AT : _BTIME_AT + 8], sys.byteorder, signed=True)
    nanoseconds = int.from_bytes(raw[_BTIME_AT + 8 : _BTIME_AT + 12], sys.byteorder)
    return seconds * 1_000_000_000 + nanoseconds
