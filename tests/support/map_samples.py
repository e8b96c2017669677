"""Valid rows of every kind, for tests of the map codecs."""

from collections.abc import Sequence

import numpy as np

from pgrecall.repository.columns import EXTENT, NODE_SIZE, POINTER, RANGE, RANGE_SIZE, ChunkRef, PackRef, pointer_rows
from pgrecall.repository.extents import Extents, Ranges
from pgrecall.repository.fileblock import BY_LIST, FILE, IN_BLOCK, FileBlock
from pgrecall.repository.node import Node, NodeList, NodeListBuilder
from pgrecall.repository.runtable import PackRecord, RunTable

RUN = 0x69_1E_0000_0
ID = b"0123456789abcdef"


def chunk(number: int = 0, raw: int = RANGE_SIZE, pack: int = 1, run: int = RUN) -> ChunkRef:
    return ChunkRef(run, pack, number, 96 + number * 1000, 900, raw, ID)


def node(path: bytes = b"base/5/16384", length: int = 3 * RANGE_SIZE - 8192) -> Node:
    """A whole chunk, zeros with a page in the middle, half a chunk."""
    last = length - 2 * RANGE_SIZE
    extents = Extents.of(
        [
            (0, RANGE_SIZE, chunk(0), 0),
            (RANGE_SIZE, 8192, None, 0),
            (RANGE_SIZE + 8192, 8192, chunk(1, 16384, pack=2), 8192),
            (RANGE_SIZE + 16384, RANGE_SIZE - 16384, None, 0),
            (2 * RANGE_SIZE, last, chunk(2), 0),
        ]
    )
    return Node(path, 0, length, Ranges.of([ID, None, ID]), extents)


def node_list(path: bytes = b"base/5/16384", size: int = NODE_SIZE + 5) -> NodeList:
    builder = NodeListBuilder(path)
    for index in range(-(-size // NODE_SIZE)):
        builder.set(index, chunk(index, 3000, pack=9), {PackRef(RUN, 1), PackRef(RUN, 2 + index)})
    return builder.build(size)


def block(
    names: Sequence[bytes] = (b"1259", b"1259_fsm", b"PG_VERSION", b"large"), directory: bytes = b"base/5"
) -> FileBlock:
    """Small files of two ranges, one empty file (the second), and one by node list (the last)."""
    joined = b"".join(names)
    files = np.zeros(len(names), FILE)
    files["name_end"] = np.cumsum([len(name) for name in names])
    files["mode"], files["storage"] = 0o600, IN_BLOCK
    files["size"], files["ranges"], files["extents"] = RANGE_SIZE + 10, 2, 2
    files["mtime"], files["birth"], files["inode"] = -1, 0, 1 << 63
    for name in ("size", "ranges", "extents"):
        files[name][1] = 0
    files["storage"][-1], files["size"][-1], files["pointers"][-1] = BY_LIST, 1 << 30, 1
    files["ranges"][-1] = files["extents"][-1] = 0
    small = len(names) - 2
    ranges = Ranges.of([ID, None] * small).rows if small else np.empty(0, RANGE)
    one = Extents.of([(0, RANGE_SIZE, chunk(0), 0), (RANGE_SIZE, 10, chunk(1), 5)]).rows
    extents = np.concatenate([one] * small) if small else np.empty(0, EXTENT)
    assert POINTER.itemsize == 48
    return FileBlock(directory, joined, files, ranges, extents, pointer_rows([chunk(7, 2000, pack=4)]))


def run_table() -> RunTable:
    return RunTable.of(RUN, [PackRecord(seq, 1, 1, 3, 5000, bytes([seq]) * 32, b"h" * 32) for seq in (3, 1, 2)])
