"""Owns what the one pass over packs remembers of their chunks: 8 bytes each, enough to tell whether a map is right."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pgrecall.repository.columns import DATA, PackRef, Rows
from pgrecall.repository.frames import FrameRef

_Words = npt.NDArray[np.uint64]
_FACTORS = tuple(
    np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
)

RIGHT, WRONG, UNSOUND, UNREAD = 0, 1, 2, 3
"""Of the chunk that an extent names: it is there; it is not; its pack is damaged or lost; it was not looked at."""


@dataclass(frozen=True, slots=True)
class PackFacts:
    """An intact pack: hash of its footer, size in bytes, one word per chunk."""

    hash: bytes
    size: int
    words: _Words


def words_of_frames(frames: Sequence[FrameRef]) -> _Words:
    ids = b"".join(frame.id[:16] for frame in frames)
    columns = (np.array([getattr(frame, name) for frame in frames], np.uint64) for name in ("offset", "stored", "raw"))
    return _mix(ids, *columns)


def _mix(ids: bytes, offset: _Words, stored: _Words, raw: _Words) -> _Words:
    """No secret and no proof against forgers: ids are keyed hashes, and reading checks them again."""
    halves = np.frombuffer(ids, "<u8").reshape(-1, 2)
    a, b, c, d = _FACTORS
    return np.asarray(halves[:, 0] ^ halves[:, 1] * a ^ offset * b ^ stored * c ^ raw * d, np.uint64)


class ChunkFacts:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._packs: dict[PackRef, PackFacts] = {}
        self._unsound: set[PackRef] = set()
        self._lock = threading.Lock()

    def add(self, pack: PackRef, facts: PackFacts) -> None:
        with self._lock:
            self._packs[pack] = facts

    def set_unsound(self, packs: Iterable[PackRef]) -> None:
        """Damaged, lost or unreadable: only reading tells which of their chunks can still be had."""
        with self._lock:
            self._unsound.update(packs)

    @property
    def unsound(self) -> frozenset[PackRef]:
        return frozenset(self._unsound)

    def pack(self, pack: PackRef) -> PackFacts | None:
        return self._packs.get(pack)

    def judge(self, rows: Rows) -> npt.NDArray[np.uint8]:
        """RIGHT, WRONG, UNSOUND or UNREAD for each EXTENT row; rows of zeros are RIGHT."""
        verdict = np.full(len(rows), RIGHT, np.uint8)
        data = np.flatnonzero(rows["kind"] == DATA)
        if not len(data):
            return verdict
        chosen = rows[data]
        places, owners = np.unique(chosen[["run", "pack"]], return_inverse=True)
        words = _mix(chosen["id"].tobytes(), *(chosen[name].astype(np.uint64) for name in ("offset", "stored", "raw")))
        for index, place in enumerate(places.tolist()):
            mine = np.flatnonzero(owners == index)
            verdict[data[mine]] = self._judge(PackRef(*place), chosen["chunk"][mine], words[mine])
        return verdict

    def _judge(self, pack: PackRef, numbers: npt.NDArray[np.uint32], words: _Words) -> npt.NDArray[np.uint8]:
        facts = self._packs.get(pack)
        if facts is None:
            return np.full(len(numbers), UNSOUND if pack in self._unsound else UNREAD, np.uint8)
        inside = numbers < len(facts.words)
        right = inside.copy()
        right[inside] = facts.words[numbers[inside]] == words[inside]
        return np.where(right, RIGHT, WRONG).astype(np.uint8)
