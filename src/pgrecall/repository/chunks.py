"""Owns reading data back: extents into the caller's memory, every chunk opened once, every known digest checked."""

from collections.abc import Sequence

from pgrecall.errors import ObjectDamaged
from pgrecall.repository.assembly import Assembly, Part
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import RANGE_SIZE
from pgrecall.repository.envelope import FrameOpener
from pgrecall.repository.extents import Extents, Ranges
from pgrecall.repository.fetch import Get, WantedChunk, plan_gets
from pgrecall.repository.pack_index import PackIndex
from pgrecall.repository.paths import quote
from pgrecall.repository.secrets import Keys

__all__ = ["ChunkReader", "Part"]


class ChunkReader:
    """Assembles spans. For one thread; holds one buffer of at most 8 MiB for stored bytes."""

    def __init__(self, store: ClusterStore, packs: PackIndex, keys: Keys) -> None:
        """`keys` are of the generation that the backup was made under: its digests are made with their id key."""
        self._store = store
        self._packs = packs
        self._keys = keys
        self._buffer = memoryview(bytearray())
        self._zero_digest: bytes | None = None

    def assemble(self, extents: Extents, ranges: Ranges, path: bytes, out: memoryview, base: int = 0) -> None:
        """Fill out with the span, and prove it: ObjectDamaged names path, place and object of what is not right."""
        self.assemble_many([Part(path, extents, ranges, out, base)])

    def assemble_many(self, parts: Sequence[Part]) -> None:
        """Like `assemble` for many spans (a batch of small files), with shared requests."""
        if not parts:
            return
        assembly = Assembly(parts)
        assembly.fill_zeros()
        for get in plan_gets(assembly.data):
            self._fetch(get, assembly)
        for owner, index in assembly.unproven(self._digest_of_zeros):
            self._prove(parts[owner], index)

    def _fetch(self, get: Get, assembly: Assembly) -> None:
        name = self._packs.name(get.pack)
        opener = self._packs.opener(get.pack)
        if len(self._buffer) < get.length:
            self._buffer = memoryview(bytearray(get.length))
        stored = self._buffer[: get.length]
        self._store.get_into(name, get.offset, stored)
        for wanted in get.chunks:
            at = wanted.offset - get.offset
            try:
                _open(opener, stored[at : at + wanted.stored], wanted, assembly)
            except ObjectDamaged as error:
                raise assembly.explain(wanted.first, name, error) from error

    def _prove(self, part: Part, index: int) -> None:
        """Compare one range of a part with its digest."""
        start = index * RANGE_SIZE
        content = part.out[start : start + RANGE_SIZE]
        if self._keys.chunk_id(content)[:16] == part.ranges.digest(index):
            return
        path, at, length = quote(part.path), part.base + start, len(content)
        raise ObjectDamaged(
            f"{path}: bytes {at} to {at + length} are not what was backed up: their digest differs",
            hint="The chunks are intact, so the map leads to wrong ones. Restore this file from another backup.",
            path=path,
            offset=at,
            length=length,
            objects=[self._packs.name(pack) for pack in sorted(part.extents.slice(start, length).packs())],
        )

    def _digest_of_zeros(self) -> bytes:
        """Of one whole range of zeros."""
        if self._zero_digest is None:
            self._zero_digest = self._keys.chunk_id(bytes(RANGE_SIZE))[:16]
        return self._zero_digest


def _open(opener: FrameOpener, stored: memoryview, wanted: WantedChunk, assembly: Assembly) -> None:
    """One chunk to wherever its bytes belong; straight there when it is wanted whole and once."""
    chunk, _, _, raw, id16, first, last = wanted
    if last - first == 1 and assembly.lengths[first] == raw:
        opener.open(stored, chunk, raw, id16, assembly.target(first))
        return
    content = memoryview(opener.open(stored, chunk, raw, id16))
    for row in range(first, last):
        place = assembly.places[row]
        assembly.target(row)[:] = content[place : place + assembly.lengths[row]]
