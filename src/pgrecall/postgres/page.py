"""Owns the reading of data pages: checksums, LSNs, new and implausible pages, by C or by numpy.

Semantics are those of PostgreSQL's PageIsVerified (storage/page/bufpage.c), but for one: a page that claims to be new
(pd_upper 0) must be all zeros.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pgrecall.domain.lsn import Lsn
from pgrecall.postgres import page_numpy
from pgrecall.postgres.accel import Buffer, is_page_size, load_native
from pgrecall.postgres.page_numpy import BAD_CHECKSUM, CHANGED, HEADER_BAD, NEW

__all__ = [
    "BAD_CHECKSUM",
    "CHANGED",
    "HEADER_BAD",
    "IMPLEMENTATION",
    "NEW",
    "PageSummary",
    "all_zero",
    "is_page_size",
    "page_checksum",
    "scan_pages",
]

_native = load_native()
_backend = _native if _native is not None else page_numpy

IMPLEMENTATION: Literal["native", "numpy"] = "numpy" if _native is None else "native"


@dataclass(frozen=True, slots=True)
class PageSummary:
    """Counts of pages that carry each flag, and the highest page LSN seen (0/0 if there was none)."""

    pages: int
    bad_checksums: int
    new: int
    changed: int
    bad_headers: int
    max_lsn: Lsn


def scan_pages(
    data: Buffer, *, page_size: int, first_block: int, verify: bool, since: int, out: NDArray[np.uint8]
) -> PageSummary:
    """Look at every whole page of data (bytes after the last whole page are left alone) and set out[i] of page i:

    BAD_CHECKSUM (1)  verify was asked and the stored checksum is not that of this content at this block number
    NEW (2)           all zeros: allocated, never written; has no checksum
    CHANGED (4)       its LSN is since or newer, or 0
    HEADER_BAD (8)    a header that PostgreSQL refuses, or a page that says it is new and is not all zeros

    first_block is the first page's number in the *relation*: segment number * RELSEG_SIZE + block in the segment. out
    must hold a byte for each page. Releases the GIL; give it 1 MiB or more at a time.
    """
    pages, bad, new, changed, headers, highest = _backend.scan_pages(
        data, page_size, first_block, verify, int(since), out
    )
    return PageSummary(pages, bad, new, changed, headers, Lsn(highest))


def page_checksum(page: Buffer, block: int) -> int:
    """The checksum that this page must carry as block number `block` of its relation; ValueError if it is no page."""
    result: int = _backend.page_checksum(page, block)
    return result


def all_zero(data: Buffer) -> bool:
    """True if every byte is zero (also when there is none)."""
    result: bool = _backend.all_zero(data)
    return result
