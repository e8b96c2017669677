"""Owns collecting one directory's files while they are read, in any order, and cutting them into file blocks."""

import struct
import threading
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pgrecall.errors import Refused
from pgrecall.repository.columns import (
    EXTENT,
    MAP_CHUNK_MAX,
    NODE_LIST_MAX,
    POINTER,
    RANGE,
    SMALL_FILE,
    ChunkRef,
    ranges_in,
)
from pgrecall.repository.extents import Extents, Ranges
from pgrecall.repository.fileblock import BY_LIST, FILE, IN_BLOCK, MOST_FILES, FileBlock, FileEntry
from pgrecall.repository.manifest import DirectoryEntry
from pgrecall.repository.map_writer import MapWriter
from pgrecall.repository.node import NodeList
from pgrecall.repository.paths import join, quote

_FILE = struct.Struct("<IHHHBQqqQIII")
_FEWEST_FILES = 256
_CUT_MASK = 255
_CUT_BYTES = MAP_CHUNK_MAX // 2
_NAME, _RANGES, _EXTENTS, _POINTERS = range(4)

assert _FILE.size == FILE.itemsize


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """path relative to the data directory, `b""` for itself; owner and group index the manifest's principals."""

    path: bytes
    mode: int
    owner: int
    group: int


class DirectoryWriter:
    """The files of one directory. Safe to share between threads; holds 250 bytes per small file until `finish`.

    Blocks are cut where the names say so (by a hash of the name, between 256 and 1,024 files): a file that comes
    or goes changes the block it is in and hardly ever the others.
    """

    def __init__(self, facts: DirectoryFacts, maps: MapWriter, parent_blocks: Sequence[ChunkRef]) -> None:
        self.facts = facts
        self._maps = maps
        self._parent_blocks = parent_blocks
        self._lock = threading.Lock()
        self._files = bytearray()
        self._data = (bytearray(), bytearray(), bytearray(), bytearray())
        self._starts = array("Q")
        """Per file, where its part of each of `_data` begins."""

    def add_small(self, file: FileEntry, ranges: Ranges, extents: Extents) -> None:
        """A file of at most 1 MiB with all it consists of."""
        assert file.size <= SMALL_FILE and len(ranges) == ranges_in(file.size), "not the ranges of this file"
        assert extents.length == file.size, "extents do not cover the file"
        parts = (file.name, ranges.rows.tobytes(), extents.rows.tobytes(), b"")
        self._add(file, (IN_BLOCK, len(ranges), len(extents), 0), parts)

    def add_large(self, file: FileEntry, nodes: NodeList, known: ChunkRef | None = None) -> None:
        """A file of more than 1 MiB; `known` is the parent's node list of the same path, taken over where equal."""
        assert file.size == nodes.size and join(self.facts.path, file.name) == nodes.path, "not the nodes of this file"
        raw = nodes.encode()
        if len(raw) > NODE_LIST_MAX:
            raise Refused(
                f"{quote(nodes.path)}, {nodes.size} bytes, is larger or more fragmented than the format can describe",
                hint="A full backup with --independent is not fragmented.",
            )
        pointer = self._maps.put(raw, (known,) if known else (), largest=NODE_LIST_MAX)
        self._maps.need(nodes.packs())
        self._add(file, (BY_LIST, 0, 0, 1), (file.name, b"", b"", pointer.to_bytes()))

    def _add(self, file: FileEntry, stored: tuple[int, int, int, int], parts: tuple[bytes, ...]) -> None:
        storage, *counts = stored
        facts = (len(file.name), file.mode, file.owner, file.group, storage)
        row = _FILE.pack(*facts, file.size, file.mtime, file.birth, file.inode, *counts)
        with self._lock:
            self._files += row
            self._starts.extend(map(len, self._data))
            for data, part in zip(self._data, parts, strict=True):
                data += part

    def finish(self) -> DirectoryEntry:
        """Write the blocks and forget everything; nothing may be added afterwards."""
        with self._lock:
            files = np.frombuffer(bytes(self._files), FILE)
            starts = np.array(self._starts, np.int64).reshape(len(files), 4)
            pointers = []
            for chosen in self._cuts(files, starts):
                block = self._block(files, starts, chosen)
                pointers.append(self._maps.put(block.encode(), self._parent_blocks))
                self._maps.need(block.packs())
            self._data = (bytearray(), bytearray(), bytearray(), bytearray())
        facts = self.facts
        size = int(files["size"].sum(dtype=np.int64))
        return DirectoryEntry(facts.path, facts.mode, facts.owner, facts.group, len(files), size, tuple(pointers))

    def _cuts(self, files: npt.NDArray[np.void], starts: npt.NDArray[np.int64]) -> Iterator[list[int]]:
        """Indexes of the files of each block, in the order of names."""
        names = self._data[_NAME]
        firsts = starts[:, _NAME].tolist()
        lengths = files["name_end"].tolist()
        weights = (
            FILE.itemsize
            + POINTER.itemsize
            + lengths_of(files, "ranges", RANGE)
            + lengths_of(files, "extents", EXTENT)
            + files["name_end"]
        ).tolist()

        def name(index: int) -> bytes:
            return bytes(names[firsts[index] : firsts[index] + lengths[index]])

        chosen: list[int] = []
        weight = 0
        for index in sorted(range(len(files)), key=name):
            if chosen and (len(chosen) == MOST_FILES or weight + weights[index] > _CUT_BYTES):
                yield chosen
                chosen, weight = [], 0
            chosen.append(index)
            weight += weights[index]
            if len(chosen) >= _FEWEST_FILES and not zlib.crc32(name(index)) & _CUT_MASK:
                yield chosen
                chosen, weight = [], 0
        if chosen:
            yield chosen

    def _block(self, files: npt.NDArray[np.void], starts: npt.NDArray[np.int64], chosen: list[int]) -> FileBlock:
        rows = files[chosen]
        widths = (1, RANGE.itemsize, EXTENT.itemsize, POINTER.itemsize)
        counts = (rows["name_end"], rows["ranges"], rows["extents"], rows["pointers"])
        parts = [
            _gather(data, starts[chosen, kind].tolist(), (counts[kind].astype(np.int64) * widths[kind]).tolist())
            for kind, data in enumerate(self._data)
        ]
        rows["name_end"] = np.cumsum(rows["name_end"])
        return FileBlock(
            self.facts.path,
            parts[_NAME],
            rows,
            np.frombuffer(parts[_RANGES], RANGE),
            np.frombuffer(parts[_EXTENTS], EXTENT),
            np.frombuffer(parts[_POINTERS], POINTER),
        )


def lengths_of(files: npt.NDArray[np.void], column: str, row: np.dtype[np.void]) -> npt.NDArray[np.int64]:
    return np.asarray(files[column].astype(np.int64) * row.itemsize)


def _gather(data: bytearray, starts: list[int], lengths: list[int]) -> bytes:
    view = memoryview(data)
    return b"".join(view[start : start + length] for start, length in zip(starts, lengths, strict=True))
