"""Owns the row types of maps (extents, ranges, pointers, packs) and how columns of them lie in bytes (format.md §4)."""

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pgrecall.errors import FormatUnknown, ObjectDamaged
from pgrecall.storage.base import Buffer

RANGE_SIZE = 128 * 1024
"""Bytes of a file that one digest describes; also the most that a data chunk holds, raw."""
NODE_SIZE = 16 * 1024 * 1024
"""Bytes of a file that one node describes."""
SMALL_FILE = 1024 * 1024
"""Files up to this size lie in their directory's file block."""
MAP_CHUNK_MAX = 4 * 1024 * 1024
"""The largest map chunk, raw, but node lists and run tables."""
NODE_LIST_MAX = 64 * 1024 * 1024
"""The largest node list, raw: of a file of 16 TiB whose nodes lie in one pack each, of 7 TiB at eight."""
RUN_TABLE_MAX = 64 * 1024 * 1024
"""The largest run table, raw: some 699,000 packs."""

PACK_MAX = 99_999_999
"""The highest seq: eight digits name it."""

DATA, ZEROS = 1, 2
UNKNOWN, KNOWN = 0, 1

Rows = npt.NDArray[np.void]
"""A structured array of one of the row types below."""

EXTENT = np.dtype(
    [
        ("start", "<u4"),
        ("length", "<u4"),
        ("run", "<u8"),
        ("pack", "<u4"),
        ("chunk", "<u4"),
        ("offset", "<u4"),
        ("stored", "<u4"),
        ("raw", "<u4"),
        ("place", "<u4"),
        ("kind", "u1"),
        ("id", "V16"),
    ]
)
RANGE = np.dtype([("state", "u1"), ("digest", "V16")])
POINTER = np.dtype(
    [
        ("run", "<u8"),
        ("pack", "<u4"),
        ("chunk", "<u4"),
        ("offset", "<u4"),
        ("stored", "<u4"),
        ("raw", "<u4"),
        ("reserved", "<u4"),
        ("id", "V16"),
    ]
)
PACK = np.dtype([("run", "<u8"), ("pack", "<u4")])

_POINTER = struct.Struct("<QIIIIII16s")
_ZERO_ID = bytes(16)


class PackRef(NamedTuple):
    """One pack of the cluster: the number of its run's label, and its place in that run (from 1)."""

    run: int
    pack: int


class ChunkRef(NamedTuple):
    """Where one chunk lies: enough, with its pack's salt, to read and check it by one ranged GET.

    run is a label's number, pack the seq, chunk the frame's number; offset and stored are bytes in the pack, raw the
    length of its content, id16 the first half of the content's keyed hash. Of a map chunk this is a *pointer*.
    """

    run: int
    pack: int
    chunk: int
    offset: int
    stored: int
    raw: int
    id16: bytes

    @property
    def pack_ref(self) -> PackRef:
        return PackRef(self.run, self.pack)

    def to_bytes(self) -> bytes:
        """48 bytes."""
        return _POINTER.pack(self.run, self.pack, self.chunk, self.offset, self.stored, self.raw, 0, self.id16)

    @classmethod
    def from_bytes(cls, data: Buffer, what: str, *, largest: int = MAP_CHUNK_MAX) -> Self:
        """Raise ObjectDamaged for anything that cannot be a pointer to a chunk of at most `largest` bytes, raw; `what`
        names the place for people.
        """
        rows = rows_of(data, POINTER, what)
        if len(rows) != 1:
            raise ObjectDamaged(f"{what}: a pointer has 48 bytes, not {len(data)}")
        check_pointers(rows, what, largest=largest)
        return cls(*pointer_tuples(rows)[0])


Pointer = ChunkRef


def pointer_tuples(rows: Rows) -> list[ChunkRef]:
    """POINTER or EXTENT rows as references."""
    columns = [rows[name].tolist() for name in ("run", "pack", "chunk", "offset", "stored", "raw", "id")]
    return [ChunkRef(*values) for values in zip(*columns, strict=True)]


def pointer_rows(pointers: Iterable[ChunkRef]) -> Rows:
    return np.frombuffer(b"".join(pointer.to_bytes() for pointer in pointers), POINTER)


def check_pointers(rows: Rows, what: str, *, largest: int = MAP_CHUNK_MAX) -> None:
    """Refuse pointers that no writer makes."""
    if not len(rows):
        return
    if rows["reserved"].any():
        raise ObjectDamaged(f"{what}: reserved bytes of a pointer are not zero")
    check_packs(rows, what)
    if not (rows["raw"].all() and rows["stored"].all()):
        raise ObjectDamaged(f"{what}: a pointer leads nowhere: it is empty")
    if int(rows["raw"].max()) > largest:
        raise ObjectDamaged(f"{what}: a map chunk of {int(rows['raw'].max())} bytes exceeds {largest}")
    check_stored(rows, what)


def check_packs(rows: Rows, what: str) -> None:
    """Every row names a run, and a pack that can have a name."""
    if len(rows) and not (rows["run"].all() and rows["pack"].all() and int(rows["pack"].max()) <= PACK_MAX):
        raise ObjectDamaged(f"{what}: a place leads nowhere: no run has such a pack")


def check_stored(rows: Rows, what: str) -> None:
    """No chunk is stored in much more than its raw length: bounds what a reader must fetch."""
    raw = rows["raw"].astype(np.int64)
    if (rows["stored"] > raw + raw // 128 + 2048).any():
        raise ObjectDamaged(f"{what}: a chunk is stored in more bytes than its content can need")


def rows_of(data: Buffer, dtype: np.dtype[Any], what: str) -> Rows:
    """All of data as rows (a view); ObjectDamaged unless the length is a whole number of rows."""
    if len(data) % dtype.itemsize:
        raise ObjectDamaged(f"{what}: {len(data)} bytes are no whole number of rows of {dtype.itemsize}")
    return np.frombuffer(data, dtype)


class ColumnWriter:
    """Collects columns, each padded with zeros to a multiple of 8 bytes."""

    def __init__(self, head: bytes) -> None:
        self._parts: list[Buffer] = [head]

    def add(self, data: Buffer) -> None:
        self._parts.append(data)
        if rest := -len(data) % 8:
            self._parts.append(bytes(rest))

    def add_columns(self, rows: Rows) -> None:
        """Every field of rows, in order, each as one column."""
        for name in rows.dtype.names or ():
            self.add(np.ascontiguousarray(rows[name]).tobytes())

    def finish(self) -> bytes:
        return b"".join(self._parts)


class ColumnReader:
    """Takes columns out of untrusted bytes; every length is checked before anything is made of it."""

    def __init__(self, data: Buffer, what: str) -> None:
        self._data = memoryview(data)
        self._at = 0
        self.what = what

    def damaged(self, message: str) -> ObjectDamaged:
        return ObjectDamaged(f"{self.what}: {message}")

    def head(self, layout: struct.Struct, magic: bytes) -> tuple[int, ...]:
        """The fixed head, which begins with magic and `u32` version 1; returns the fields after these."""
        if len(self._data) < layout.size:
            raise self.damaged(f"{len(self._data)} bytes are too few for a head of {layout.size}")
        found, version, *fields = layout.unpack_from(self._data)
        if found != magic:
            raise self.damaged(f"begins with {bytes(found)!r}, not with {magic!r}")
        if version != 1:
            raise FormatUnknown(
                f"{self.what}: version {version} is unknown; this pgrecall reads version 1",
                hint="Install a newer pgrecall.",
            )
        self._at = layout.size
        return tuple(fields)

    def take(self, length: int) -> memoryview:
        """The next column of length bytes; its padding must be zeros."""
        end = self._at + length
        padded = end + (-length % 8)
        if padded > len(self._data):
            raise self.damaged(f"{len(self._data)} bytes end inside a column that ends at {padded}")
        if any(self._data[end:padded]):
            raise self.damaged("padding is not zero")
        column = self._data[self._at : end]
        self._at = padded
        return column

    def column(self, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        return np.frombuffer(self.take(dtype.itemsize * count), dtype)

    def columns(self, dtype: np.dtype[Any], count: int) -> Rows:
        """Rows gathered from one column per field of dtype."""
        needed = sum(_padded(field[0].itemsize * count) for field in (dtype.fields or {}).values())
        if self._at + needed > len(self._data):
            raise self.damaged(f"{len(self._data)} bytes cannot hold {count} rows")
        rows = np.empty(count, dtype)
        for name in dtype.names or ():
            rows[name] = self.column(dtype[name], count)
        return rows

    def rows(self, dtype: np.dtype[Any], count: int) -> Rows:
        """Whole rows, one after the other, as one column."""
        return self.column(dtype, count)

    def end(self) -> None:
        if self._at != len(self._data):
            raise self.damaged(f"{len(self._data) - self._at} bytes too many")


def _padded(length: int) -> int:
    return length + (-length % 8)


def ranges_in(length: int) -> int:
    """How many ranges describe length bytes."""
    return -(-length // RANGE_SIZE)


def nodes_in(size: int) -> int:
    """How many nodes describe a file of size bytes."""
    return -(-size // NODE_SIZE)
