"""Owns the judgement of pages that looked wrong while they were read: torn and mended by WAL, or corrupt.

A page with a bad checksum is read again until two reads agree. What stays bad is mended by replay only if its LSN lies
between the backup's start and stop (the first change after the start carries a full page image); anything else is
corruption of the source, stored as it is and named. So is a page whose LSN lies beyond the stop: no WAL of this history
wrote it.
"""

import heapq
import threading
from collections.abc import Iterable
from typing import NamedTuple

from pgrecall.domain.lsn import Lsn

MOST_SUSPECTS = 100_000
_NEWEST_KEPT = 4096


class Suspect(NamedTuple):
    path: bytes
    block: int
    """Block number in its relation (segments counted)."""
    lsn: Lsn
    reason: str
    mendable: bool
    """False for pages where a wrong checksum does no harm to a restore (free space maps): a warning, not damage."""


class NewestPage(NamedTuple):
    lsn: Lsn
    path: bytes
    block: int


class Verdict(NamedTuple):
    corrupt: list[Suspect]
    warnings: list[Suspect]
    uncounted: int
    """Suspects that were not kept because there were too many."""


class SuspectPages:
    """What workers saw; safe for use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._suspects: list[Suspect] = []
        self._dropped = 0
        self._newest: list[NewestPage] = []

    def add(self, suspects: Iterable[Suspect]) -> None:
        with self._lock:
            for suspect in suspects:
                if len(self._suspects) < MOST_SUSPECTS:
                    self._suspects.append(suspect)
                else:
                    self._dropped += 1

    def saw(self, page: NewestPage) -> None:
        """The page with the highest LSN of a stretch that was read; the newest few thousand are kept for judgement."""
        with self._lock:
            if len(self._newest) < _NEWEST_KEPT:
                heapq.heappush(self._newest, page)
            elif page.lsn > self._newest[0].lsn:
                heapq.heapreplace(self._newest, page)

    def judge(self, *, start: Lsn, stop: Lsn) -> Verdict:
        corrupt: list[Suspect] = []
        warnings: list[Suspect] = []
        for suspect in self._suspects:
            if not suspect.mendable:
                warnings.append(suspect)
            elif not start <= suspect.lsn <= stop:
                corrupt.append(suspect)
        named = {(suspect.path, suspect.block) for suspect in self._suspects}
        for page in self._newest:
            if page.lsn > stop and (page.path, page.block) not in named:
                reason = f"LSN {page.lsn} lies beyond the end of the backup at {stop}"
                corrupt.append(Suspect(page.path, page.block, page.lsn, reason, mendable=True))
        return Verdict(sorted(corrupt), sorted(warnings), self._dropped)
