"""Owns the run table: how to open, without another request, every pack of a run but the last (format.md §4)."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from pgrecall.repository.columns import RUN_TABLE_MAX, ColumnReader, ColumnWriter, Rows
from pgrecall.storage.base import Buffer

_HEAD = struct.Struct("<4sIQII")
_ROW = np.dtype(
    [
        ("seq", "<u4"),
        ("generation", "<u4"),
        ("flags", "<u4"),
        ("frames", "<u4"),
        ("size", "<u8"),
        ("reserved", "<u8"),
        ("salt", "V32"),
        ("hash", "V32"),
    ]
)


class PackRecord(NamedTuple):
    """What is known of one stored pack; `hash` is the hash field of its footer, frames a count, size in bytes."""

    seq: int
    generation: int
    flags: int
    frames: int
    size: int
    salt: bytes
    hash: bytes


@dataclass(frozen=True, slots=True, eq=False)
class RunTable:
    """The packs of a run, by seq."""

    run: int
    rows: Rows

    @classmethod
    def of(cls, run: int, packs: Iterable[PackRecord]) -> Self:
        rows = [(p.seq, p.generation, p.flags, p.frames, p.size, 0, p.salt, p.hash) for p in sorted(packs)]
        return cls(run, np.array(rows, _ROW))

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, seq: int) -> PackRecord | None:
        index = int(np.searchsorted(self.rows["seq"], seq))
        if index == len(self.rows) or int(self.rows["seq"][index]) != seq:
            return None
        return _record(self.rows[index : index + 1])[0]

    def packs(self) -> list[PackRecord]:
        return _record(self.rows)

    def encode(self) -> bytes:
        out = ColumnWriter(_HEAD.pack(b"PGRT", 1, self.run, len(self.rows), 0))
        out.add(self.rows.tobytes())
        table = out.finish()
        assert len(table) <= RUN_TABLE_MAX, "more packs than a table may hold"
        return table

    @classmethod
    def decode(cls, data: Buffer, what: str = "run table") -> Self:
        reader = ColumnReader(data, what)
        run, count, reserved = reader.head(_HEAD, b"PGRT")
        rows = reader.rows(_ROW, count)
        reader.end()
        if reserved or rows["reserved"].any():
            raise reader.damaged("reserved bytes are not zero")
        seqs = rows["seq"].astype(np.int64)
        if count and (seqs[0] < 1 or (seqs[1:] <= seqs[:-1]).any()):
            raise reader.damaged("packs are out of order")
        if not run:
            raise reader.damaged("a table of no run")
        return cls(run, rows)


def _record(rows: Rows) -> list[PackRecord]:
    names = ("seq", "generation", "flags", "frames", "size", "salt", "hash")
    return [PackRecord(*values) for values in zip(*(rows[name].tolist() for name in names), strict=True)]
