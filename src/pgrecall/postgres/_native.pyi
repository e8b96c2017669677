"""The C module: page and WAL scans, CRC-32C. Pure Python twins: page_numpy, walscan_python, crc.

Every function takes contiguous buffers of bytes, checks every access, and releases the GIL while it works on them.
"""

import numpy as np
from numpy.typing import NDArray

from pgrecall.postgres.accel import Buffer

def scan_pages(
    data: Buffer, page_size: int, first_block: int, verify: bool, since_lsn: int, out_flags: NDArray[np.uint8], /
) -> tuple[int, int, int, int, int, int]:
    """(pages, bad checksums, new, changed, bad headers, highest LSN); see page.scan_pages."""

def page_checksum(page: Buffer, block: int, /) -> int: ...
def all_zero(data: Buffer, /) -> bool: ...
def crc32c(data: Buffer, value: int = 0, /) -> int: ...
def scan_wal(
    data: Buffer, start_lsn: int, page_size: int, /
) -> tuple[
    int,
    int,
    int,
    int,
    int,
    int,
    int,
    int,
    int,
    int,
    int,
    int,
    bytes | None,
    bytes | None,
    list[tuple[int, int, bytes]],
]:
    """The fields of walscan_python.RawScan, in order."""
