"""Owns the algebra of extents and ranges: what a span of a file is made of, sliced, joined and overlaid."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from pgrecall.errors import ObjectDamaged
from pgrecall.repository.columns import (
    DATA,
    EXTENT,
    KNOWN,
    RANGE,
    RANGE_SIZE,
    UNKNOWN,
    ZEROS,
    ChunkRef,
    PackRef,
    Rows,
    check_packs,
    check_stored,
)

Piece = tuple[int, int, ChunkRef | None, int]
"""(start, length, chunk, place): bytes start…start+length of the span are the chunk's from place on; None: zeros."""

_NO_ID = bytes(16)
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Extents:
    """Where the bytes 0…length of a span (a node, or a small file) lie: EXTENT rows, sorted, without hole or overlap.

    Rows are copied, never referenced, by every operation that returns new extents.
    """

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and self.rows.tobytes() == other.rows.tobytes()

    def __hash__(self) -> int:
        return hash(self.rows.tobytes())

    @property
    def length(self) -> int:
        """Bytes covered."""
        return int(self.rows["start"][-1]) + int(self.rows["length"][-1]) if len(self.rows) else 0

    @classmethod
    def empty(cls) -> Self:
        return cls(np.empty(0, EXTENT))

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Self:
        """Extents of pieces in any order; they must not overlap nor leave a hole."""
        made = cls(_piece_rows(pieces))
        assert _is_whole(made.rows), "pieces overlap or leave a hole"
        return made

    @classmethod
    def zeros(cls, length: int) -> Self:
        return cls.of([(0, length, None, 0)]) if length else cls.empty()

    @classmethod
    def data(cls, chunk: ChunkRef) -> Self:
        """A span that is exactly one chunk."""
        return cls.of([(0, chunk.raw, chunk, 0)])

    @classmethod
    def concat(cls, parts: Sequence["Extents"]) -> Self:
        """The parts one after the other."""
        rows = np.concatenate([part.rows for part in parts]) if parts else np.empty(0, EXTENT)
        at = 0
        first = 0
        for part in parts:
            rows["start"][first : first + len(part)] += np.uint32(at)
            first += len(part)
            at += part.length
        return cls(_joined(rows))

    def slice(self, start: int, length: int) -> "Extents":
        """The extents of bytes start…start+length of this span, starting at 0; those beyond its end are left out."""
        rows = _clipped(self.rows, np.array([start], np.int64), np.array([start + length], np.int64))
        rows["start"] -= np.uint32(start)
        return Extents(rows)

    def truncate(self, length: int) -> "Extents":
        """This span, cut to length where it is longer."""
        return self.slice(0, length)

    def overlay(self, changes: Iterable[Piece]) -> "Extents":
        """This span with changes written over it; they may lengthen it, but leave no hole and not overlap."""
        new = _piece_rows(changes)
        if not len(new):
            return Extents(self.rows.copy())
        starts = new["start"].astype(np.int64)
        ends = starts + new["length"]
        assert (starts[1:] >= ends[:-1]).all(), "changes overlap"
        gap_starts = np.concatenate(([0], ends))
        gap_ends = np.concatenate((starts, [max(self.length, int(ends[-1]))]))
        kept = _clipped(self.rows, gap_starts, gap_ends)
        rows = np.concatenate((kept, new))
        rows = rows[np.argsort(rows["start"], kind="stable")]
        assert _is_whole(rows), "changes leave a hole"
        return Extents(_joined(rows))

    def packs(self) -> set[PackRef]:
        """Every pack that these bytes need."""
        rows = self.rows[self.rows["kind"] == DATA]
        if not len(rows):
            return set()
        run, pack = rows["run"], rows["pack"]
        new = np.empty(len(rows), bool)
        new[0] = True
        np.logical_or(run[1:] != run[:-1], pack[1:] != pack[:-1], out=new[1:])
        return {PackRef(*pair) for pair in zip(run[new].tolist(), pack[new].tolist(), strict=True)}

    def check(self, length: int, what: str) -> None:
        """Raise ObjectDamaged unless these rows describe exactly length bytes and lie inside their chunks."""
        check_extent_rows(self.rows, what)
        if len(self.rows) and not _is_whole(self.rows):
            raise ObjectDamaged(f"{what}: extents overlap, leave a hole or are out of order")
        if self.length != length:
            raise ObjectDamaged(f"{what}: extents cover {self.length} bytes of {length}")


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """The digest of each 128 KiB of a span, where known: RANGE rows."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self.rows.tobytes() == other.rows.tobytes()

    def __hash__(self) -> int:
        return hash(self.rows.tobytes())

    @classmethod
    def of(cls, digests: Iterable[bytes | None]) -> Self:
        """digest16 of each range in order, None where its content was not looked at."""
        rows = [(UNKNOWN, _NO_ID) if digest is None else (KNOWN, digest) for digest in digests]
        return cls(np.array(rows, RANGE))

    @classmethod
    def unknown(cls, count: int) -> Self:
        return cls(np.zeros(count, RANGE))

    @classmethod
    def concat(cls, parts: Sequence["Ranges"]) -> Self:
        return cls(np.concatenate([part.rows for part in parts]) if parts else np.empty(0, RANGE))

    def digests(self) -> list[bytes | None]:
        """One per range; None where unknown."""
        pairs = zip(self.rows["state"].tolist(), self.rows["digest"].tolist(), strict=True)
        return [digest if state == KNOWN else None for state, digest in pairs]

    def digest(self, index: int) -> bytes | None:
        row = self.rows[index]
        return row["digest"].tobytes() if row["state"] == KNOWN else None

    def check(self, what: str) -> None:
        check_range_rows(self.rows, what)


def check_extent_rows(rows: Rows, what: str) -> None:
    """Each row by itself: a known kind, not empty, inside its chunk."""
    if not len(rows):
        return
    data = rows["kind"] == DATA
    zeros = rows["kind"] == ZEROS
    if not (data | zeros).all():
        raise ObjectDamaged(f"{what}: an extent of unknown kind")
    if not rows["length"].all():
        raise ObjectDamaged(f"{what}: an empty extent")
    empty = rows[zeros]
    if any(empty[name].any() for name in ("run", "pack", "chunk", "offset", "stored", "raw", "place")):
        raise ObjectDamaged(f"{what}: an extent of zeros names a chunk")
    if empty["id"].tobytes().strip(b"\0"):
        raise ObjectDamaged(f"{what}: an extent of zeros names a chunk")
    full = rows[data]
    if not len(full):
        return
    check_packs(full, what)
    if not full["stored"].all():
        raise ObjectDamaged(f"{what}: an extent leads nowhere: its chunk is empty")
    if int(full["raw"].max()) > RANGE_SIZE:
        raise ObjectDamaged(f"{what}: a chunk of {int(full['raw'].max())} bytes exceeds {RANGE_SIZE}")
    if (full["place"].astype(np.int64) + full["length"] > full["raw"]).any():
        raise ObjectDamaged(f"{what}: an extent reaches beyond its chunk")
    check_stored(full, what)


def check_range_rows(rows: Rows, what: str) -> None:
    if not len(rows):
        return
    if int(rows["state"].max()) > KNOWN:
        raise ObjectDamaged(f"{what}: a range of unknown state")
    if rows["digest"][rows["state"] == UNKNOWN].tobytes().strip(b"\0"):
        raise ObjectDamaged(f"{what}: a digest of a range whose content is unknown")


def _piece_rows(pieces: Iterable[Piece]) -> Rows:
    """EXTENT rows of pieces, sorted by start."""
    made = [
        (start, length, 0, 0, 0, 0, 0, 0, 0, ZEROS, _NO_ID)
        if chunk is None
        else (start, length, *chunk[:6], place, DATA, chunk.id16)
        for start, length, chunk, place in pieces
    ]
    made.sort(key=lambda row: row[0])
    return np.array(made, EXTENT)


def _is_whole(rows: Rows) -> bool:
    """Sorted from 0 without hole or overlap."""
    starts = rows["start"].astype(np.int64)
    ends = starts + rows["length"]
    return not len(rows) or bool(starts[0] == 0 and (starts[1:] == ends[:-1]).all())


def _clipped(rows: Rows, starts: _Ints, ends: _Ints) -> Rows:
    """Copies of the rows' parts that lie in any of the spans starts[i]…ends[i], which are sorted and do not overlap."""
    row_starts = rows["start"].astype(np.int64)
    row_ends = row_starts + rows["length"]
    first = np.searchsorted(row_ends, starts, "right")
    counts = np.maximum(np.searchsorted(row_starts, ends, "left") - first, 0)
    span = np.repeat(np.arange(len(starts)), counts)
    before = np.concatenate(([0], np.cumsum(counts)[:-1]))
    index = np.arange(len(span)) - before[span] + first[span]
    new_starts = np.maximum(row_starts[index], starts[span])
    new_ends = np.minimum(row_ends[index], ends[span])
    picked = rows[index]
    skipped = (new_starts - row_starts[index]) * (picked["kind"] == DATA)
    picked["start"] = new_starts
    picked["length"] = new_ends - new_starts
    picked["place"] += skipped.astype(np.uint32)
    found: Rows = picked[picked["length"] > 0]
    return found


def _joined(rows: Rows) -> Rows:
    """Rows with neighbours made one where they are one piece: zeros beside zeros, consecutive places of one chunk."""
    if len(rows) < 2:
        return rows
    left, right = rows[:-1], rows[1:]
    same = left["kind"] == right["kind"]
    for name in ("run", "pack", "chunk"):
        same &= left[name] == right[name]
    same &= (right["kind"] == ZEROS) | (left["place"].astype(np.int64) + left["length"] == right["place"])
    if not same.any():
        return rows
    first = np.concatenate(([True], ~same))
    joined = rows[first]
    joined["length"] = np.add.reduceat(rows["length"].astype(np.int64), np.flatnonzero(first))
    return joined
