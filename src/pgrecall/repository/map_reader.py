"""Owns reading map chunks: many in few requests, the last ones kept."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import POINTER, ChunkRef, pointer_rows
from pgrecall.repository.fetch import plan_gets, sort_by_place
from pgrecall.repository.pack_index import PackIndex

_BYTES_KEPT = 8 * 1024 * 1024


class MapReader:
    """Safe to share between threads. Keeps up to 8 MiB of chunks read last."""

    def __init__(self, store: ClusterStore, packs: PackIndex) -> None:
        self._store = store
        self._packs = packs
        self._kept: OrderedDict[ChunkRef, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def read(self, pointer: ChunkRef) -> bytes:
        return self.read_many([pointer])[0]

    def read_many(self, pointers: Sequence[ChunkRef]) -> list[bytes]:
        """The raw bytes behind each pointer, in order; neighbours share a request. Callers bound the sum."""
        found = {pointer: raw for pointer in pointers if (raw := self._look_up(pointer)) is not None}
        missing = [pointer for pointer in dict.fromkeys(pointers) if pointer not in found]
        found |= self._fetch(missing)
        return [found[pointer] for pointer in pointers]

    def _fetch(self, pointers: Sequence[ChunkRef]) -> dict[ChunkRef, bytes]:
        rows = pointer_rows(pointers) if pointers else np.empty(0, POINTER)
        order = sort_by_place(rows)
        sorted_pointers = [pointers[index] for index in order.tolist()]
        read: dict[ChunkRef, bytes] = {}
        for get in plan_gets(rows[order]):
            opener = self._packs.opener(get.pack)
            stored = memoryview(self._store.get_range(self._packs.name(get.pack), get.offset, get.length))
            for wanted in get.chunks:
                at = wanted.offset - get.offset
                raw = opener.open(stored[at : at + wanted.stored], wanted.chunk, wanted.raw, wanted.id16)
                for index in range(wanted.first, wanted.last):
                    read[sorted_pointers[index]] = raw
                self._keep(sorted_pointers[wanted.first], raw)
        return read

    def _look_up(self, pointer: ChunkRef) -> bytes | None:
        with self._lock:
            raw = self._kept.get(pointer)
            if raw is not None:
                self._kept.move_to_end(pointer)
            return raw

    def _keep(self, pointer: ChunkRef, raw: bytes) -> None:
        with self._lock:
            if pointer not in self._kept:
                self._kept_bytes += len(raw)
            self._kept[pointer] = raw
            while self._kept_bytes > _BYTES_KEPT:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= len(dropped)
