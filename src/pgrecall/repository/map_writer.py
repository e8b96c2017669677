"""Owns writing map chunks: each once, the parent's taken over where equal, every pack they need noted."""

import threading
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from pgrecall.repository.columns import MAP_CHUNK_MAX, ChunkRef, PackRef
from pgrecall.repository.live import LivePacks
from pgrecall.repository.pack import PackBuilder
from pgrecall.repository.secrets import Keys


class MapWriter:
    """The map packs of one run, shared by all its threads."""

    def __init__(self, builder: PackBuilder, keys: Keys, absent: AbstractSet[PackRef] = frozenset()) -> None:
        """`absent`: packs that are marked bad; nothing in them is taken over."""
        self.builder = builder
        self._keys = keys
        self._absent = absent
        self._live = LivePacks()
        self._lock = threading.Lock()
        self._live_lock = threading.Lock()

    def put(self, raw: bytes, known: Iterable[ChunkRef] = (), *, largest: int = MAP_CHUNK_MAX) -> ChunkRef:
        """Where raw lies: one of the known pointers if it leads to the same bytes, else a new chunk."""
        assert len(raw) <= largest, "a map chunk too large to be read again"
        chunk_id = self._keys.chunk_id(raw)
        for pointer in known:
            if pointer.id16 == chunk_id[:16] and pointer.raw == len(raw) and pointer.pack_ref not in self._absent:
                self.need((pointer.pack_ref,))
                return pointer
        with self._lock:
            pointer = self.builder.add(raw, chunk_id)
        self.need((pointer.pack_ref,))
        return pointer

    def need(self, packs: Iterable[PackRef]) -> None:
        """The backup cannot be restored without these packs."""
        with self._live_lock:
            self._live.add(packs)

    @property
    def live(self) -> LivePacks:
        """All packs needed so far; to be read when nobody writes any more."""
        return self._live
