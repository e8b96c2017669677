"""Owns the file block: up to 1,024 files of one directory, small ones with their ranges and extents (format.md §4)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pgrecall.repository.columns import (
    EXTENT,
    NODE_LIST_MAX,
    POINTER,
    RANGE,
    RANGE_SIZE,
    SMALL_FILE,
    ChunkRef,
    ColumnReader,
    ColumnWriter,
    PackRef,
    Rows,
    check_pointers,
    pointer_tuples,
)
from pgrecall.repository.extents import Extents, Ranges, check_extent_rows, check_range_rows
from pgrecall.repository.paths import check_directory, check_name, join
from pgrecall.storage.base import Buffer

MOST_FILES = 1024
IN_BLOCK, BY_LIST = 1, 2

FILE = np.dtype(
    [
        ("name_end", "<u4"),
        ("mode", "<u2"),
        ("owner", "<u2"),
        ("group", "<u2"),
        ("storage", "u1"),
        ("size", "<u8"),
        ("mtime", "<i8"),
        ("birth", "<i8"),
        ("inode", "<u8"),
        ("ranges", "<u4"),
        ("extents", "<u4"),
        ("pointers", "<u4"),
    ]
)
_HEAD = struct.Struct("<4sIIIIIII")
_SIZE_MAX = 1 << 53


class FileEntry(NamedTuple):
    """What a backup knows of one file besides its bytes. owner and group are indexes into the manifest's `principals`;
    mtime and birth are nanoseconds since 1970, birth 0 where the file system does not tell."""

    name: bytes
    size: int
    mode: int
    owner: int
    group: int
    mtime: int
    birth: int
    inode: int


class StoredFile(NamedTuple):
    """A file as its block describes it: with ranges and extents (up to 1 MiB), else with its node list's place."""

    directory: bytes
    entry: FileEntry
    ranges: Ranges | None
    extents: Extents | None
    node_list: ChunkRef | None

    @property
    def path(self) -> bytes:
        return join(self.directory, self.entry.name)


@dataclass(frozen=True, slots=True, eq=False)
class FileBlock:
    """Columns of one block; ranges, extents and pointers of all files in order. Iterate for the files."""

    directory: bytes
    names: bytes
    files: Rows
    ranges: Rows
    extents: Rows
    pointers: Rows

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> bytes:
        first = int(self.files["name_end"][index - 1]) if index else 0
        return self.names[first : int(self.files["name_end"][index])]

    def find(self, name: bytes) -> int | None:
        """Index of the file of this name."""
        low, high = 0, len(self.files)
        while low < high:
            middle = (low + high) // 2
            if self.name(middle) < name:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self.files) and self.name(low) == name else None

    def file(self, index: int) -> StoredFile:
        """One file. For many, iterate instead."""
        return next(self._stored(index, index + 1))

    def __iter__(self) -> Iterator[StoredFile]:
        return self._stored(0, len(self.files))

    def _stored(self, first: int, last: int) -> Iterator[StoredFile]:
        range_at, extent_at, pointer_at = (
            int(self.files[name][:first].sum(dtype=np.int64)) for name in ("ranges", "extents", "pointers")
        )
        name_at = int(self.files["name_end"][first - 1]) if first else 0
        for row in self.files[first:last].tolist():
            name_end, mode, owner, group, storage, size, mtime, birth, inode, ranges, extents, pointers = row
            entry = FileEntry(self.names[name_at:name_end], size, mode, owner, group, mtime, birth, inode)
            if storage == BY_LIST:
                yield StoredFile(
                    self.directory, entry, None, None, pointer_tuples(self.pointers[pointer_at : pointer_at + 1])[0]
                )
            else:
                yield StoredFile(
                    self.directory,
                    entry,
                    Ranges(self.ranges[range_at : range_at + ranges]),
                    Extents(self.extents[extent_at : extent_at + extents]),
                    None,
                )
            name_at = name_end
            range_at += ranges
            extent_at += extents
            pointer_at += pointers

    def packs(self) -> set[PackRef]:
        """Packs of small files' data and of node lists."""
        pointed = zip(self.pointers["run"].tolist(), self.pointers["pack"].tolist(), strict=True)
        return Extents(self.extents).packs() | {PackRef(*pair) for pair in pointed}

    def encode(self) -> bytes:
        counts = (len(self.files), len(self.ranges), len(self.extents), len(self.pointers))
        out = ColumnWriter(_HEAD.pack(b"PGRF", 1, *counts, len(self.names), len(self.directory)))
        out.add(self.directory)
        out.add(self.names)
        out.add_columns(self.files)
        out.add_columns(self.ranges)
        out.add_columns(self.extents)
        out.add(self.pointers.tobytes())
        return out.finish()

    @classmethod
    def decode(cls, data: Buffer, what: str = "file block") -> Self:
        """Raise ObjectDamaged unless data is a file block in every detail."""
        reader = ColumnReader(data, what)
        files, ranges, extents, pointers, names, path = reader.head(_HEAD, b"PGRF")
        if not 0 < files <= MOST_FILES:
            raise reader.damaged(f"{files} files in one block")
        directory = bytes(reader.take(path))
        check_directory(directory, what)
        block = cls(
            directory,
            bytes(reader.take(names)),
            reader.columns(FILE, files),
            reader.columns(RANGE, ranges),
            reader.columns(EXTENT, extents),
            reader.rows(POINTER, pointers),
        )
        reader.end()
        _check_names(block, reader)
        _check_files(block, reader)
        check_range_rows(block.ranges, what)
        check_extent_rows(block.extents, what)
        _check_extents(block, reader)
        check_pointers(block.pointers, what, largest=NODE_LIST_MAX)
        return block


def _check_names(block: FileBlock, reader: ColumnReader) -> None:
    """Every name is one, and they ascend (so none comes twice)."""
    at, before = 0, b""
    for end in block.files["name_end"].tolist():
        if not at < end <= len(block.names):
            raise reader.damaged("names are out of bounds")
        name = block.names[at:end]
        check_name(name, reader.what)
        if name <= before:
            raise reader.damaged(f"name {name[:80]!r} comes twice or out of order")
        at, before = end, name
    if at != len(block.names):
        raise reader.damaged("names hold more than the files' names")


def _check_files(block: FileBlock, reader: ColumnReader) -> None:
    files = block.files
    in_block = files["storage"] == IN_BLOCK
    by_list = files["storage"] == BY_LIST
    if not (in_block | by_list).all():
        raise reader.damaged("a file of unknown storage")
    if int(files["mode"].max()) > 0o7777:
        raise reader.damaged("a mode holds more than permission bits")
    if int(files["size"].max()) > _SIZE_MAX:
        raise reader.damaged("a file larger than any")
    small = files["size"] <= SMALL_FILE
    if not (small == in_block).all():
        raise reader.damaged("a file is stored the way of the other size")
    sizes = files["size"].astype(np.int64)
    wanted = np.where(in_block, -(-sizes // RANGE_SIZE), 0)
    if not ((files["ranges"] == wanted) & (files["pointers"] == by_list)).all():
        raise reader.damaged("ranges or pointers do not fit the files' sizes")
    if files["extents"][by_list].any():
        raise reader.damaged("extents of a file that has a node list")
    for name, rows in (("ranges", block.ranges), ("extents", block.extents), ("pointers", block.pointers)):
        if int(files[name].sum(dtype=np.int64)) != len(rows):
            raise reader.damaged(f"the files' {name} do not sum to {len(rows)}")


def _check_extents(block: FileBlock, reader: ColumnReader) -> None:
    """Each file's extents start at 0, follow one another and end at its size."""
    starts = block.extents["start"].astype(np.int64)
    ends = starts + block.extents["length"]
    counts = block.files["extents"].astype(np.int64)
    sizes = block.files["size"].astype(np.int64)
    small = block.files["storage"] == IN_BLOCK
    if not ((counts > 0) == ((sizes > 0) & small)).all():
        raise reader.damaged("a file without its extents")
    owners = counts > 0
    after: npt.NDArray[np.int64] = np.cumsum(counts)[owners]
    first = after - counts[owners]
    expected = np.empty(len(starts), np.int64)
    expected[1:] = ends[:-1]
    expected[first] = 0
    if not (starts == expected).all() or not (ends[after - 1] == sizes[owners]).all():
        raise reader.damaged("extents overlap, leave a hole or do not sum to their file's size")
