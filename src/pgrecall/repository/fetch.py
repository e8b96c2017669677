"""Owns planning reads: many chunks, few ranged GETs."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pgrecall.repository.columns import PackRef, Rows

GAP = 64 * 1024
"""Bytes between two chunks that are rather read than cost another request."""
LARGEST_GET = 8 * 1024 * 1024


class WantedChunk(NamedTuple):
    """One chunk of a get: rows first…last of the sorted rows ask for it."""

    chunk: int
    offset: int
    stored: int
    raw: int
    id16: bytes
    first: int
    last: int


class Get(NamedTuple):
    """One ranged request and the chunks in it."""

    pack: PackRef
    offset: int
    length: int
    chunks: list[WantedChunk]


def sort_by_place(rows: Rows) -> np.typing.NDArray[np.intp]:
    """The order in which rows (EXTENT or POINTER) lie in packs."""
    return np.lexsort((rows["chunk"], rows["offset"], rows["pack"], rows["run"]))


def plan_gets(rows: Rows) -> Iterator[Get]:
    """Requests for the chunks that rows (in the order of `sort_by_place`) name, each chunk once.

    Chunks of one pack no more than GAP apart share a request of at most LARGEST_GET bytes.
    """
    if not len(rows):
        return
    new = np.ones(len(rows), bool)
    before, after = rows[:-1], rows[1:]
    np.logical_or.reduce(
        [after[name] != before[name] for name in ("run", "pack", "chunk", "offset", "stored", "raw", "id")], out=new[1:]
    )
    firsts = np.flatnonzero(new)
    unique = rows[firsts]
    columns = [unique[name].tolist() for name in ("run", "pack", "chunk", "offset", "stored", "raw", "id")]
    lasts = [*firsts[1:].tolist(), len(rows)]
    get: Get | None = None
    end = 0
    for run, pack, chunk, offset, stored, raw, id16, first, last in zip(*columns, firsts.tolist(), lasts, strict=True):
        wanted = WantedChunk(chunk, offset, stored, raw, id16, first, last)
        new_end = max(end, offset + stored)
        if get is not None and get.pack == (run, pack) and offset <= end + GAP and new_end - get.offset <= LARGEST_GET:
            get.chunks.append(wanted)
            end = new_end
            continue
        if get is not None:
            yield get._replace(length=end - get.offset)
        get = Get(PackRef(run, pack), offset, 0, [wanted])
        end = offset + stored
    if get is not None:
        yield get._replace(length=end - get.offset)
