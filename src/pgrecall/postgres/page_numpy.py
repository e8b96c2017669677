"""Page checksums, flags and LSNs with numpy: the twin of `_native.scan_pages`, where no C compiler was there.

Layout: PostgreSQL storage/bufpage.h (PageHeaderData); checksum: storage/checksum_impl.h (FNV-1a in 32 lanes). Both are
in the byte order of the machine, as PostgreSQL writes them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgrecall.postgres.accel import Buffer, is_page_size

BAD_CHECKSUM, NEW, CHANGED, HEADER_BAD = 1, 2, 4, 8

LANES = 32
FNV_PRIME = np.uint32(16777619)
LANE_SEEDS = np.array(
    [
        *(0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C),
        *(0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB),
        *(0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4),
        *(0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756),
    ],
    dtype=np.uint32,
)
VALID_PD_FLAGS = 0x0007
BLOCK_BYTES = 1 << 20  # as many pages as keep a lane array in the cache; smaller blocks fight for the GIL
ZERO_BLOCK_BYTES = 1 << 18

# places of PageHeaderData, in u16
_CHECKSUM, _FLAGS, _LOWER, _UPPER, _SPECIAL = 4, 5, 6, 7, 8

Pages = NDArray[np.uint32]


def scan_pages(
    data: Buffer, page_size: int, first_block: int, verify: bool, since_lsn: int, out_flags: NDArray[np.uint8]
) -> tuple[int, int, int, int, int, int]:
    """As `_native.scan_pages`: (pages, bad checksums, new, changed, bad headers, highest LSN)."""
    if not is_page_size(page_size):
        raise ValueError(f"page size {page_size}")
    octets = np.frombuffer(data, np.uint8) if memoryview(data).nbytes else np.zeros(0, np.uint8)
    count = octets.size // page_size
    if out_flags.size < count:
        raise ValueError(f"{count} pages do not fit {out_flags.size} flags")
    pages = octets[: count * page_size].view(np.uint32).reshape(count, page_size // 4)
    step = max(1, BLOCK_BYTES // page_size)
    highest = 0
    for start in range(0, count, step):
        part = pages[start : start + step]
        flags = out_flags[start : start + step][: len(part)]
        highest = max(highest, _scan_block(part, first_block + start, verify, since_lsn, flags))
    seen = out_flags[:count]
    totals = [int(np.count_nonzero(seen & bit)) for bit in (BAD_CHECKSUM, NEW, CHANGED, HEADER_BAD)]
    return (count, *totals, highest)  # type: ignore[return-value]


def page_checksum(page: Buffer, block: int) -> int:
    """pg_checksum_page of one whole page, as if block were its number."""
    octets = np.frombuffer(page, np.uint8)
    if not is_page_size(octets.size):
        raise ValueError(f"page of {octets.size} bytes")
    return int(_checksums(octets.view(np.uint32).reshape(1, -1), block)[0])


def all_zero(data: Buffer) -> bool:
    view = memoryview(data)
    if not view.nbytes:
        return True
    octets = np.frombuffer(view, np.uint8)
    return not any(octets[at : at + ZERO_BLOCK_BYTES].any() for at in range(0, octets.size, ZERO_BLOCK_BYTES))


def _scan_block(pages: Pages, first_block: int, verify: bool, since_lsn: int, out: NDArray[np.uint8]) -> int:
    head: NDArray[Any] = pages[:, :6].copy()
    words = head.view(np.uint16)
    lsn = head[:, 0].astype(np.uint64) << np.uint64(32) | head[:, 1]
    lower, upper, special = words[:, _LOWER], words[:, _UPPER], words[:, _SPECIAL]
    plausible = (
        (words[:, _FLAGS] & ~np.uint16(VALID_PD_FLAGS) == 0)
        & (lower <= upper)
        & (upper <= special)
        & (special <= pages.shape[1] * 4)
        & (special % 8 == 0)
    )
    unused = upper == 0
    new = unused.copy()
    for index in np.flatnonzero(unused):
        new[index] = not pages[index].any()
    out[:] = np.where((lsn >= np.uint64(since_lsn)) | (lsn == 0), CHANGED, 0)
    out[new] |= NEW
    out[np.where(unused, ~new, ~plausible)] |= HEADER_BAD
    if verify:
        out[(_checksums(pages, first_block) != words[:, _CHECKSUM]) & ~unused] |= BAD_CHECKSUM
    return int(lsn.max(initial=0))


def _checksums(pages: Pages, first_block: int) -> NDArray[np.uint32]:
    count, words = pages.shape
    first_row = pages[:, :LANES].copy()
    first_row.view(np.uint16)[:, _CHECKSUM] = 0
    sums = np.broadcast_to(LANE_SEEDS, (count, LANES)).copy()
    high = np.empty_like(sums)
    _mix(sums, first_row, high)
    for at in range(LANES, words, LANES):
        _mix(sums, pages[:, at : at + LANES], high)
    for _ in range(2):
        _mix(sums, np.uint32(0), high)
    blocks = (np.arange(count, dtype=np.uint64) + np.uint64(first_block)).astype(np.uint32)
    folded: NDArray[np.uint32] = np.bitwise_xor.reduce(sums, axis=1) ^ blocks
    return folded % np.uint32(65535) + np.uint32(1)


def _mix(sums: NDArray[np.uint32], row: NDArray[np.uint32] | np.uint32, high: NDArray[np.uint32]) -> None:
    np.bitwise_xor(sums, row, out=sums)
    np.right_shift(sums, np.uint32(17), out=high)
    np.multiply(sums, FNV_PRIME, out=sums)
    np.bitwise_xor(sums, high, out=sums)
