"""Owns the two map chunks that describe a large file: nodes of 16 MiB and the list of them (format.md §4)."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from pgrecall.errors import ObjectDamaged
from pgrecall.repository.columns import (
    EXTENT,
    NODE_SIZE,
    PACK,
    POINTER,
    RANGE,
    SMALL_FILE,
    ChunkRef,
    ColumnReader,
    ColumnWriter,
    PackRef,
    Rows,
    check_packs,
    check_pointers,
    nodes_in,
    pointer_rows,
    pointer_tuples,
    ranges_in,
)
from pgrecall.repository.extents import Extents, Ranges
from pgrecall.repository.paths import check_path, quote
from pgrecall.storage.base import Buffer

_NODE = struct.Struct("<4sIQIIII")
_LIST = struct.Struct("<4sIQII")
_COUNT = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class Node:
    """One span of at most 16 MiB of the file `path`, which begins at `offset` in it."""

    path: bytes
    offset: int
    length: int
    ranges: Ranges
    extents: Extents

    def encode(self) -> bytes:
        assert self.offset % NODE_SIZE == 0 and 0 < self.length <= NODE_SIZE, "not the span of a node"
        assert len(self.ranges) == ranges_in(self.length), "one range per 128 KiB"
        assert self.extents.length == self.length, "extents do not cover the node"
        counts = (self.length, len(self.ranges), len(self.extents), len(self.path))
        out = ColumnWriter(_NODE.pack(b"PGRN", 1, self.offset, *counts))
        out.add(self.path)
        out.add_columns(self.ranges.rows)
        out.add_columns(self.extents.rows)
        return out.finish()

    @classmethod
    def decode(cls, data: Buffer, what: str = "node") -> Self:
        """Raise ObjectDamaged unless data is a node in every detail."""
        reader = ColumnReader(data, what)
        offset, length, ranges, extents, path_length = reader.head(_NODE, b"PGRN")
        if offset % NODE_SIZE or not 0 < length <= NODE_SIZE:
            raise reader.damaged(f"bytes {offset}+{length} are not the span of a node")
        if ranges != ranges_in(length):
            raise reader.damaged(f"{ranges} ranges for {length} bytes")
        path = bytes(reader.take(path_length))
        check_path(path, what)
        node = cls(
            path, offset, length, Ranges(reader.columns(RANGE, ranges)), Extents(reader.columns(EXTENT, extents))
        )
        reader.end()
        node.ranges.check(what)
        node.extents.check(length, what)
        return node


@dataclass(frozen=True, slots=True, eq=False)
class NodeList:
    """The nodes of one large file in order: a pointer each, and the packs that each node's data lies in."""

    path: bytes
    size: int
    pointers: Rows
    pack_counts: npt.NDArray[np.uint32]
    pack_rows: Rows

    def __len__(self) -> int:
        return len(self.pointers)

    def node(self, index: int) -> ChunkRef:
        return pointer_tuples(self.pointers[index : index + 1])[0]

    def nodes(self) -> list[ChunkRef]:
        return pointer_tuples(self.pointers)

    def packs_of(self, index: int) -> set[PackRef]:
        """The packs that hold the data of one node, its own map chunk not counted."""
        first = int(self.pack_counts[:index].sum(dtype=np.int64))
        return _packs(self.pack_rows[first : first + int(self.pack_counts[index])])

    def data_packs(self) -> set[PackRef]:
        return _packs(self.pack_rows)

    def packs(self) -> set[PackRef]:
        """Every pack needed below this list: of data and of nodes."""
        return _packs(self.pack_rows) | _packs(self.pointers)

    def encode(self) -> bytes:
        assert self.size > SMALL_FILE and len(self.pointers) == nodes_in(self.size), "one pointer per node"
        out = ColumnWriter(_LIST.pack(b"PGRL", 1, self.size, len(self.pointers), len(self.path)))
        out.add(self.path)
        out.add(self.pointers.tobytes())
        out.add(np.ascontiguousarray(self.pack_counts, _COUNT).tobytes())
        out.add_columns(self.pack_rows)
        return out.finish()

    @classmethod
    def decode(cls, data: Buffer, what: str = "node list") -> Self:
        reader = ColumnReader(data, what)
        size, nodes, path_length = reader.head(_LIST, b"PGRL")
        if size <= SMALL_FILE or nodes != nodes_in(size):
            raise reader.damaged(f"{nodes} nodes for a file of {size} bytes")
        path = bytes(reader.take(path_length))
        check_path(path, what)
        pointers = reader.rows(POINTER, nodes)
        check_pointers(pointers, what)
        counts = reader.column(_COUNT, nodes)
        packs = reader.columns(PACK, int(counts.sum(dtype=np.int64)))
        reader.end()
        check_packs(packs, what)
        return cls(path, size, pointers, counts, packs)


class NodeListBuilder:
    """Collects the nodes of one large file in any order. Not thread-safe."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self._nodes: dict[int, tuple[ChunkRef, set[PackRef]]] = {}

    def set(self, index: int, pointer: ChunkRef, packs: Iterable[PackRef]) -> None:
        """Node number index lies at pointer and its data in packs (`Extents.packs()` of it)."""
        self._nodes[index] = (pointer, set(packs))

    def keep(self, index: int, parent: NodeList) -> None:
        """Node number index is the parent's, unchanged."""
        self.set(index, parent.node(index), parent.packs_of(index))

    def build(self, size: int) -> NodeList:
        """The list of a file of size bytes; nodes beyond it (the file shrank while it was read) are left out."""
        count = nodes_in(size)
        missing = [index for index in range(count) if index not in self._nodes]
        assert not missing, f"nodes {missing[:5]} were never set"
        chosen = [self._nodes[index] for index in range(count)]
        packs = [sorted(packs) for _, packs in chosen]
        return NodeList(
            self.path,
            size,
            pointer_rows(pointer for pointer, _ in chosen),
            np.array([len(each) for each in packs], _COUNT),
            np.array([tuple(pack) for each in packs for pack in each], PACK),
        )


def check_node_place(node: Node, path: bytes, index: int, size: int) -> None:
    """A node must be the one that the list asked for: this file, this place, this length."""
    offset = index * NODE_SIZE
    length = min(NODE_SIZE, size - offset)
    if (node.path, node.offset, node.length) != (path, offset, length):
        raise ObjectDamaged(
            f"node {index} of {quote(path)} should describe {length} bytes from {offset}, "
            f"but describes {node.length} bytes from {node.offset} of {quote(node.path)}"
        )


def _packs(rows: Rows) -> set[PackRef]:
    return {PackRef(*pair) for pair in zip(rows["run"].tolist(), rows["pack"].tolist(), strict=True)}
