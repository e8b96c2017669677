"""Owns the arithmetic of assembling spans: extents checked, where each goes, which digests are still to prove."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pgrecall.errors import ObjectDamaged
from pgrecall.repository.columns import DATA, KNOWN, RANGE_SIZE, ZEROS, ranges_in
from pgrecall.repository.extents import Extents, Ranges, check_extent_rows
from pgrecall.repository.fetch import sort_by_place
from pgrecall.repository.paths import quote

_Ints = npt.NDArray[np.int64]


class Part(NamedTuple):
    """One span to assemble: a node or a small file. `out` has exactly its length; base is its offset in the file."""

    path: bytes
    extents: Extents
    ranges: Ranges
    out: memoryview
    base: int = 0


class Assembly:
    """Parts with their extents as they lie in packs: row i of `data`, `lengths`, `places`, `target(i)`."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """ObjectDamaged unless each part's extents and ranges describe exactly its bytes."""
        self._parts = parts
        self._sizes = np.array([len(part.out) for part in parts], np.int64)
        self._rows = np.concatenate([part.extents.rows for part in parts])
        self._owners = np.repeat(np.arange(len(parts)), [len(part.extents) for part in parts])
        self._row_starts: _Ints = self._rows["start"].astype(np.int64)
        self._row_ends: _Ints = self._row_starts + self._rows["length"]
        self._check()
        self._range_rows = np.concatenate([part.ranges.rows for part in parts])
        counts = np.array([len(part.ranges) for part in parts], np.int64)
        self._range_owners = np.repeat(np.arange(len(parts)), counts)
        self._first_range: _Ints = np.cumsum(counts) - counts

        found = np.flatnonzero(self._rows["kind"] == DATA)
        order = found[sort_by_place(self._rows[found])]
        self.data = self._rows[order]
        self._outs = [part.out for part in parts]
        self._data_owners: list[int] = self._owners[order].tolist()
        self._starts: list[int] = self.data["start"].tolist()
        self.lengths: list[int] = self.data["length"].tolist()
        self.places: list[int] = self.data["place"].tolist()

    def target(self, row: int) -> memoryview:
        """The memory that row describes."""
        start = self._starts[row]
        return self._outs[self._data_owners[row]][start : start + self.lengths[row]]

    def fill_zeros(self) -> None:
        zeros = np.flatnonzero(self._rows["kind"] == ZEROS).tolist()
        for row in zeros:
            out = np.frombuffer(self._outs[self._owners[row]], np.uint8)
            out[self._row_starts[row] : self._row_ends[row]] = 0

    def unproven(self, digest_of_zeros: Callable[[], bytes]) -> Iterator[tuple[int, int]]:
        """(part, range) of each known digest that is not the id of the one chunk, or of zeros, that the range is."""
        proven = np.zeros(len(self._range_rows), bool)
        digests = self._range_rows["digest"]
        rows, starts = self._rows, self._row_starts
        aligned = starts % RANGE_SIZE == 0
        span = np.minimum(RANGE_SIZE, self._sizes[self._owners] - starts)
        whole = aligned & (rows["kind"] == DATA) & (rows["place"] == 0)
        whole &= (rows["length"] == rows["raw"]) & (rows["length"] == span)
        index = self._first_range[self._owners[whole]] + starts[whole] // RANGE_SIZE
        proven[index] = rows["id"][whole] == digests[index]
        for row in np.flatnonzero(rows["kind"] == ZEROS).tolist():
            first_range = int(self._first_range[self._owners[row]])
            first = first_range + -(-int(starts[row]) // RANGE_SIZE)
            last = first_range + int(self._row_ends[row]) // RANGE_SIZE
            if first < last:
                proven[first:last] = digests[first:last] == np.void(digest_of_zeros())
        for found in np.flatnonzero((self._range_rows["state"] == KNOWN) & ~proven).tolist():
            owner = int(self._range_owners[found])
            yield owner, found - int(self._first_range[owner])

    def explain(self, row: int, name: str, error: ObjectDamaged) -> ObjectDamaged:
        """The same damage, with the file and place that it makes unreadable."""
        part = self._parts[self._data_owners[row]]
        path, start, length = quote(part.path), part.base + self._starts[row], self.lengths[row]
        return ObjectDamaged(
            f"{path}: bytes {start} to {start + length} cannot be read: {error.message}",
            hint=error.hint,
            path=path,
            offset=start,
            length=length,
            object=name,
            objects=[name],
        )

    def _check(self) -> None:
        try:
            check_extent_rows(self._rows, "extents")
            whole = self._is_whole()
        except ObjectDamaged:
            whole = False
        ranges = [len(part.ranges) for part in self._parts] == [ranges_in(size) for size in self._sizes.tolist()]
        if whole and ranges:
            return
        for part in self._parts:  # whose fault is it?
            what = quote(part.path)
            part.extents.check(len(part.out), what)
            if len(part.ranges) != ranges_in(len(part.out)):
                raise ObjectDamaged(f"{what}: {len(part.ranges)} ranges for {len(part.out)} bytes")
        raise AssertionError("the parts are right one by one, but not together")

    def _is_whole(self) -> bool:
        """Each part's rows follow one another from 0 to its size."""
        counts = np.bincount(self._owners, minlength=len(self._sizes))
        if ((counts > 0) != (self._sizes > 0)).any():
            return False
        filled = counts > 0
        after = np.cumsum(counts)[filled]
        expected = np.empty(len(self._rows), np.int64)
        expected[1:] = self._row_ends[:-1]
        expected[after - counts[filled]] = 0
        return bool((self._row_starts == expected).all() and (self._row_ends[after - 1] == self._sizes[filled]).all())
