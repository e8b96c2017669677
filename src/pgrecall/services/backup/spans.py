"""Owns the decision what of a span of a file is stored anew: by digest per 128 KiB, by page LSN inside a changed range.

A range whose digest equals the parent's is unchanged, whatever its pages' LSNs say. Inside a range that differs, pages
with an old LSN are taken from the parent only where an LSN proves "unchanged" (parent.py); otherwise the whole range is
stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from pgrecall.postgres.page import BAD_CHECKSUM, CHANGED, HEADER_BAD
from pgrecall.repository.columns import RANGE_SIZE, SMALL_FILE, ChunkRef, PackRef
from pgrecall.repository.extents import Extents, Piece, Ranges

Flags = npt.NDArray[np.uint8]

NOT_THE_PARENTS = CHANGED | BAD_CHECKSUM | HEADER_BAD
"""A corrupt page is stored as it is: its LSN says nothing, and the parent's page is not what the file holds."""


class ChunkSink(Protocol):
    """What stores a chunk: the worker's pack."""

    def add(self, raw: memoryview | bytes, chunk_id: bytes) -> ChunkRef: ...


@dataclass(frozen=True, slots=True)
class ParentSpan:
    """The same span in the parent; `length` bytes, which may be less or more than now."""

    extents: Extents
    digests: Sequence[bytes | None]

    @property
    def length(self) -> int:
        return self.extents.length

    def range_length(self, index: int) -> int:
        """Bytes of range number index; 0 beyond the end."""
        return max(_range_length(self.length, index), 0)


@dataclass(slots=True)
class SpanCounts:
    """What became of the bytes of spans; one per worker, added up at the end."""

    read: int = 0
    unchanged: int = 0
    zeros: int = 0
    shared: int = 0
    """Equal to other bytes of this run."""
    stored: int = 0
    """Before compression."""
    unexplained: list[tuple[str, int]] = field(default_factory=list)
    """(path, offset): ranges that differ although no page's LSN says so."""

    def add(self, other: "SpanCounts") -> None:
        self.read += other.read
        self.unchanged += other.unchanged
        self.zeros += other.zeros
        self.shared += other.shared
        self.stored += other.stored
        self.unexplained += other.unexplained


@dataclass(frozen=True, slots=True)
class SpanResult:
    ranges: Ranges
    extents: Extents
    unchanged: bool
    """Equal to the parent's span in every byte and in length, and all of it is still readable there."""


class KnownContents:
    """Where ranges of small files lie that this run stored already: template databases are stored once.

    Shared by all workers; bounded, because a cluster may have any number of small files.
    """

    MOST = 32_768

    def __init__(self) -> None:
        self._places: dict[bytes, tuple[ChunkRef, int]] = {}

    def find(self, chunk_id: bytes) -> tuple[ChunkRef, int] | None:
        return self._places.get(chunk_id)

    def remember(self, chunk_id: bytes, chunk: ChunkRef, place: int) -> None:
        if len(self._places) < self.MOST:
            self._places[chunk_id] = (chunk, place)


@cache
def zero_digest(id_key: bytes, length: int) -> bytes:
    return blake3(bytes(length), key=id_key).digest()


class OpenSpan:
    """A span whose last pieces may still wait for their chunk; `result` is valid after the store's `flush`."""

    def __init__(self, ranges: Ranges, kept: Extents | None, *, unchanged: bool = False) -> None:
        self._ranges = ranges
        self._kept = kept
        self._unchanged = unchanged
        self.pieces: list[Piece] = []

    def result(self) -> SpanResult:
        extents = Extents.of(self.pieces) if self._kept is None else self._kept
        if self._kept is not None and self.pieces:
            extents = self._kept.overlay(self.pieces)
        return SpanResult(self._ranges, extents, self._unchanged)


class SpanStore:
    """Stores spans into one worker's packs. Not shared between threads.

    Short ranges and single pages are put together into chunks of up to 128 KiB, also across files: `flush` before the
    memory of the data is used again, and before asking a span for its result.
    """

    def __init__(
        self,
        sink: ChunkSink,
        id_key: bytes,
        *,
        page_size: int,
        bad_packs: frozenset[PackRef] = frozenset(),
        known: KnownContents | None = None,
    ) -> None:
        self._sink = sink
        self._id_key = id_key
        self._page_size = page_size
        self._bad_packs = bad_packs
        self._known = known or KnownContents()
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self.counts = SpanCounts()

    def store_whole(self, data: memoryview) -> OpenSpan:
        """Store every range of data; data is what the file holds now, at most a node."""
        ids = self._ids(data)
        span = OpenSpan(Ranges.of(chunk_id[:16] for chunk_id in ids), None)
        self.counts.read += len(data)
        for index, chunk_id in enumerate(ids):
            self._store_range(span, data, index, chunk_id)
        return span

    def store_changed(
        self, data: memoryview, parent: ParentSpan, *, path: str, offset: int, flags: Flags | None
    ) -> OpenSpan:
        """Store what differs from the parent.

        flags are the page flags of data (one per page, from scan_pages) when an LSN proves a page unchanged, else None:
        then ranges that differ are stored whole. path and offset (of the span in the file) name what is not explained.
        """
        ids = self._ids(data)
        ranges = Ranges.of(chunk_id[:16] for chunk_id in ids)
        changed = [index for index, chunk_id in enumerate(ids) if not self._same(parent, index, chunk_id, len(data))]
        self.counts.read += len(data)
        self.counts.unchanged += len(data) - sum(_range_length(len(data), index) for index in changed)
        if not changed and parent.length == len(data):
            return OpenSpan(ranges, parent.extents, unchanged=True)
        span = OpenSpan(ranges, parent.extents.truncate(len(data)))
        for index in changed:
            runs = self._changed_pages(data, parent, index, flags)
            if not runs:
                if runs is not None and parent.range_length(index) == _range_length(len(data), index):
                    self.counts.unexplained.append((path, offset + index * RANGE_SIZE))
                self._store_range(span, data, index, ids[index])
                continue
            self.counts.unchanged += _range_length(len(data), index) - sum(length for _, length in runs)
            for start, length in runs:
                self._wait(_Waiting(span, start, data[start : start + length], None))
        return span

    def flush(self) -> None:
        """Store what waits; afterwards the memory of all data handed in is free."""
        if not self._waiting:
            return
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if len(waiting) == 1:
            raw: memoryview | bytes = waiting[0].data
        else:
            raw = b"".join(each.data for each in waiting)
        chunk_id = waiting[0].id if len(waiting) == 1 else None
        chunk = self._sink.add(raw, chunk_id or blake3(raw, key=self._id_key).digest())
        self.counts.stored += len(raw)
        place = 0
        for each in waiting:
            each.span.pieces.append((each.start, len(each.data), chunk, place))
            if each.id is not None:
                self._known.remember(each.id, chunk, place)
            place += len(each.data)

    def _ids(self, data: memoryview) -> list[bytes]:
        key = self._id_key
        return [blake3(data[at : at + RANGE_SIZE], key=key).digest() for at in range(0, len(data), RANGE_SIZE)]

    def _same(self, parent: ParentSpan, index: int, chunk_id: bytes, length: int) -> bool:
        """True when the parent's bytes of this range equal ours and can still be read."""
        if index >= len(parent.digests) or parent.digests[index] != chunk_id[:16]:
            return False
        return not self._rests_on_bad_packs(parent, index * RANGE_SIZE, _range_length(length, index))

    def _changed_pages(
        self, data: memoryview, parent: ParentSpan, index: int, flags: Flags | None
    ) -> list[tuple[int, int]] | None:
        """Runs (start, length) of changed pages in a range that differs; None to store the range whole."""
        start, length = index * RANGE_SIZE, _range_length(len(data), index)
        known = min(parent.length - start, length)
        if flags is None or known <= 0 or length % self._page_size or known % self._page_size:
            return None
        if self._rests_on_bad_packs(parent, start, known):
            return None
        first = start // self._page_size
        count = length // self._page_size
        changed = (flags[first : first + count] & NOT_THE_PARENTS) != 0
        changed[known // self._page_size :] = True
        if int(changed.sum()) * 2 > count:
            return None
        edges = np.flatnonzero(np.diff(np.concatenate(([False], changed, [False])))).tolist()
        size = self._page_size
        return [(start + a * size, (b - a) * size) for a, b in zip(edges[::2], edges[1::2], strict=True)]

    def _rests_on_bad_packs(self, parent: ParentSpan, start: int, length: int) -> bool:
        return bool(self._bad_packs) and bool(parent.extents.slice(start, length).packs() & self._bad_packs)

    def _store_range(self, span: OpenSpan, data: memoryview, index: int, chunk_id: bytes) -> None:
        start, length = index * RANGE_SIZE, _range_length(len(data), index)
        if chunk_id == zero_digest(self._id_key, length):
            self.counts.zeros += length
            span.pieces.append((start, length, None, 0))
        elif (place := self._known.find(chunk_id)) is not None:
            self.counts.shared += length
            span.pieces.append((start, length, *place))
        elif length == RANGE_SIZE:
            self.counts.stored += length
            chunk = self._sink.add(data[start : start + length], chunk_id)
            span.pieces.append((start, length, chunk, 0))
            if len(data) <= SMALL_FILE:
                self._known.remember(chunk_id, chunk, 0)
        else:
            self._wait(_Waiting(span, start, data[start : start + length], chunk_id))

    def _wait(self, item: "_Waiting") -> None:
        if self._waiting_bytes + len(item.data) > RANGE_SIZE:
            self.flush()
        self._waiting.append(item)
        self._waiting_bytes += len(item.data)


class _Waiting(NamedTuple):
    """Bytes that wait for a chunk to share. id: keyed hash of a whole range, None for single pages."""

    span: OpenSpan
    start: int
    data: memoryview
    id: bytes | None


def _range_length(length: int, index: int) -> int:
    return min(RANGE_SIZE, length - index * RANGE_SIZE)
