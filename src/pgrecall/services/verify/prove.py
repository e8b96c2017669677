"""Owns the proof that a backup can be assembled: every extent leads to a chunk that was read, every digest agrees.

A range that is exactly one chunk is proven by the pass over packs: the chunk's content was hashed, and the range's
digest is that hash. Only ranges of several pieces, or on packs that are not sound, are read again and assembled.
Maps shared by backups are proven once.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from pgrecall.errors import ObjectDamaged, PgrecallError
from pgrecall.observe.reporter import Reporter
from pgrecall.repository.assembly import Assembly
from pgrecall.repository.chunks import Part
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import NODE_SIZE, RANGE_SIZE, ChunkRef
from pgrecall.repository.extents import Extents, Ranges
from pgrecall.repository.fileblock import StoredFile
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.node import Node
from pgrecall.repository.paths import quote
from pgrecall.services.verify.chunkfacts import RIGHT, UNREAD, WRONG, ChunkFacts

BUFFER_BYTES = NODE_SIZE
"""Of each thread; its chunk reader holds 8 MiB more."""
MOST_KEPT = 500_000
"""Proven ranges of several pieces that are remembered for the next backup: 64 GiB of files in some 50 MB."""


class Unit(NamedTuple):
    """Spans behind one map chunk: a node, or the small files of a block."""

    pointer: ChunkRef
    spans: tuple[Node, ...] | tuple[StoredFile, ...]


class LostSpan(NamedTuple):
    """objects: names that it could not be read from, as far as is known."""

    path: bytes
    offset: int | None
    problem: str
    objects: tuple[str, ...]


class Proven:
    """Sums of one backup, of all threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.proven = 0
        self.unknown = 0
        self.unread = 0
        self.lost: list[LostSpan] = []


class Memory:
    """What was proven already, for all backups. Safe to share between threads."""

    def __init__(self) -> None:
        self._maps: dict[ChunkRef, tuple[int, int]] = {}
        self._ranges: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def of_map(self, pointer: ChunkRef) -> tuple[int, int] | None:
        """(proven bytes, bytes without digest) of a map chunk that was proven whole."""
        return self._maps.get(pointer)

    def proved_map(self, pointer: ChunkRef, proven: int, unknown: int) -> None:
        with self._lock:
            self._maps[pointer] = (proven, unknown)

    def knows(self, key: bytes) -> bool:
        return key in self._ranges

    def proved_range(self, key: bytes) -> None:
        with self._lock:
            self._ranges[key] = None
            if len(self._ranges) > MOST_KEPT:
                self._ranges.popitem(last=False)


class Prover:
    """For one thread: proves units of one backup."""

    def __init__(
        self, store: ClusterStore, reader: ManifestReader, facts: ChunkFacts, memory: Memory, into: Proven
    ) -> None:
        self._keys = store.scope.keys
        self._chunks = reader.chunk_reader()
        self._packs = reader.packs
        self._facts = facts
        self._memory = memory
        self._into = into
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._zeros: bytes | None = None

    def run(self, units: Iterator[Unit], reporter: Reporter) -> None:
        for unit in units:
            parts = [part for part in map(self._part, unit.spans) if len(part.out)]
            size = sum(len(part.out) for part in parts)
            known = self._memory.of_map(unit.pointer)
            if known is None:
                self._unit(unit.pointer, parts)
            else:
                with self._into.lock:
                    self._into.proven += known[0]
                    self._into.unknown += known[1]
            reporter.advance(size)

    def _part(self, span: Node | StoredFile) -> Part:
        """Only the length of its memory counts: nothing is written there yet."""
        if isinstance(span, Node):
            return Part(span.path, span.extents, span.ranges, self._buffer[: span.length], span.offset)
        assert span.extents is not None and span.ranges is not None, "a small file"
        return Part(span.path, span.extents, span.ranges, self._buffer[: span.entry.size])

    def _unit(self, pointer: ChunkRef, parts: Sequence[Part]) -> None:
        if not parts:
            return
        try:
            assembly = Assembly(parts)
        except ObjectDamaged as error:
            self._lose_all(parts, error)
            return
        again = set(assembly.unproven(self._digest_of_zeros))
        lost: list[LostSpan] = []
        unread = unknown = 0
        pieces: list[Part] = []
        for owner, part in enumerate(parts):
            worst = _by_range(part, self._facts.judge(part.extents.rows))
            known = part.ranges.rows["state"]
            for index in range(len(worst)):
                problem = None
                if worst[index] == UNREAD:
                    unread += _length(part, index)
                    continue
                if worst[index] != RIGHT:
                    problem = self._doubtful(part, index, wrong=worst[index] == WRONG)
                elif (owner, index) in again:
                    pieces.append(_piece(part, index))
                if problem is not None:
                    lost.append(problem)
                elif not known[index]:
                    unknown += _length(part, index)
        lost += self._assemble(pieces)
        proven = (
            sum(len(part.out) for part in parts) - unread - unknown - sum(_lost_length(parts, each) for each in lost)
        )
        with self._into.lock:
            self._into.proven += proven
            self._into.unknown += unknown
            self._into.unread += unread
            self._into.lost += lost
        if not lost and not unread:
            self._memory.proved_map(pointer, proven, unknown)

    def _doubtful(self, part: Part, index: int, *, wrong: bool) -> LostSpan | None:
        """A range that rests on a pack which is not sound, or on a chunk that is not there: can it be read?"""
        piece = _piece(part, index)
        problem = self._assemble_one(piece)
        if problem is None and wrong:
            return LostSpan(part.path, piece.base, "its map names a chunk that is not in its pack", ())
        return problem

    def _assemble(self, pieces: Sequence[Part]) -> list[LostSpan]:
        """Read the chunks of these ranges and compare the digests, many at once; one by one if something is wrong."""
        keys = [_key(piece) for piece in pieces]
        left = [(piece, key) for piece, key in zip(pieces, keys, strict=True) if not self._memory.knows(key)]
        lost = []
        most = BUFFER_BYTES // RANGE_SIZE
        for at in range(0, len(left), most):
            batch = left[at : at + most]
            placed = [
                piece._replace(out=self._buffer[number * RANGE_SIZE :][: len(piece.out)])
                for number, (piece, _) in enumerate(batch)
            ]
            try:
                self._chunks.assemble_many(placed)
            except PgrecallError:
                lost += [problem for piece, _ in batch if (problem := self._assemble_one(piece)) is not None]
                continue
            for _, key in batch:
                self._memory.proved_range(key)
        return lost

    def _assemble_one(self, piece: Part) -> LostSpan | None:
        try:
            self._chunks.assemble_many([piece])
        except PgrecallError as error:
            lost = lost_span(piece.path, piece.base, error)
            names = (self._packs.name(pack) for pack in sorted(piece.extents.packs()))
            return lost._replace(objects=(*lost.objects, *names))
        return None

    def _lose_all(self, parts: Sequence[Part], error: ObjectDamaged) -> None:
        with self._into.lock:
            self._into.lost += [lost_span(part.path, part.base, error) for part in parts]

    def _digest_of_zeros(self) -> bytes:
        if self._zeros is None:
            self._zeros = self._keys.chunk_id(bytes(RANGE_SIZE))[:16]
        return self._zeros


def lost_span(path: bytes, offset: int | None, error: PgrecallError) -> LostSpan:
    facts = error.facts
    objects = facts.get("objects") or facts.get("object") or facts.get("key") or ()
    names = (objects,) if isinstance(objects, str) else tuple(objects) if isinstance(objects, list) else ()
    names = tuple(name.split("/", 2)[-1] if name.startswith("clusters/") else name for name in names)
    at = facts.get("offset")
    text = error.message.removeprefix(f"{quote(path)}: ")
    return LostSpan(path, at if isinstance(at, int) else offset, text, names)


def _by_range(part: Part, verdict: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The worst verdict on the rows of each range; one that is unread hides nothing but cannot be assembled."""
    worst = np.full(len(part.ranges), RIGHT, np.uint8)
    rows = part.extents.rows
    for row in np.flatnonzero(verdict != RIGHT).tolist():
        start = int(rows["start"][row])
        first, last = start // RANGE_SIZE, (start + int(rows["length"][row]) - 1) // RANGE_SIZE
        worst[first : last + 1] = np.maximum(worst[first : last + 1], verdict[row])
    return worst


def _piece(part: Part, index: int) -> Part:
    """One range of a part, as a part of its own."""
    start = index * RANGE_SIZE
    length = _length(part, index)
    ranges = Ranges(part.ranges.rows[index : index + 1])
    return Part(part.path, part.extents.slice(start, length), ranges, part.out[:length], part.base + start)


def _length(part: Part, index: int) -> int:
    return min(RANGE_SIZE, len(part.out) - index * RANGE_SIZE)


def _lost_length(parts: Sequence[Part], lost: LostSpan) -> int:
    """Bytes of the range that the loss lies in."""
    for part in parts:
        if part.path == lost.path and lost.offset is not None and part.base <= lost.offset < part.base + len(part.out):
            return _length(part, (lost.offset - part.base) // RANGE_SIZE)
    return 0


def _key(piece: Part) -> bytes:
    """What a range is made of, and what it should be."""
    rows: Extents = piece.extents
    return blake3(rows.rows.tobytes() + piece.ranges.rows.tobytes()).digest(16)
