"""Owns the recovery window: which moments can be recovered, computed from what is stored."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from pgrecall.domain.label import BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History
from pgrecall.domain.wal import WalSegment


class Run(NamedTuple):
    """Segment numbers `first…last` of one timeline, all stored."""

    first: int
    last: int


class Stretch(NamedTuple):
    """Contiguous stored WAL along one history: segments `first…last`, each in the file that recovery would read."""

    first: WalSegment
    last: WalSegment

    def holds(self, start: Lsn, stop: Lsn, size: int) -> bool:
        """Whether every segment of `[start, stop)` lies in it."""
        return self.first.number <= start // size and (stop - 1) // size <= self.last.number


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """What the archive says about one segment without its key (format.md §9)."""

    timeline: int
    number: int
    first_commit: datetime | None
    last_commit: datetime | None
    first_record: Lsn | None = None
    first_prev: Lsn | None = None
    last_record: Lsn | None = None
    minimal_at: Lsn | None = None
    """Where wal_level became minimal: recovery cannot pass it."""
    broken_at: Lsn | None = None
    """Where valid WAL ends, when it ends before the segment does: recovery cannot pass it either."""
    writer: str = ""
    tablespaces: int = 0

    @property
    def segment(self) -> WalSegment:
        return WalSegment(self.timeline, self.number)

    def continues(self, previous: "StoredSegment") -> bool:
        """Whether our first record names the last one before it as its predecessor; True where nothing can be said."""
        if self.first_prev is None or previous.last_record is None:
            return True
        return self.first_prev == previous.last_record


@dataclass(frozen=True, slots=True)
class BackupPoint:
    """What the window needs to know of a complete backup."""

    label: BackupLabel
    timeline: int
    start: Lsn
    stop: Lsn
    stopped: datetime


@dataclass(frozen=True, slots=True)
class RecoveryWindow:
    """Any moment in `[opens, closes]` can be recovered on the way to `timeline`; closes is the last commit stored."""

    timeline: int
    opens: datetime
    closes: datetime
    from_lsn: Lsn
    """Stop of the first backup: the first consistent position."""
    to_lsn: Lsn
    """End of the contiguous WAL."""
    backups: tuple[BackupLabel, ...]


class Gap(NamedTuple):
    """Segments `first…last` that recovery along this history needs and that are not stored, though later ones are."""

    first: WalSegment
    last: WalSegment


def runs(numbers: Iterable[int]) -> list[Run]:
    """Contiguous runs of sorted, distinct numbers."""
    found: list[Run] = []
    for number in numbers:
        if found and found[-1].last + 1 == number:
            found[-1] = Run(found[-1].first, number)
        else:
            found.append(Run(number, number))
    return found


def stretches(history: History, stored: Mapping[int, Sequence[Run]], size: int) -> list[Stretch]:
    """Contiguous stored WAL along a history, oldest first. `stored` maps each timeline to its runs."""
    found: list[Stretch] = []
    for timeline, low, high in _spans(history, size):
        for run in stored.get(timeline, ()):
            first, last = max(run.first, low), run.last if high is None else min(run.last, high)
            if first > last:
                continue
            end = WalSegment(timeline, last)
            if found and found[-1].last.number + 1 == first:
                found[-1] = Stretch(found[-1].first, end)
            else:
                found.append(Stretch(WalSegment(timeline, first), end))
    return found


def gaps(history: History, found: Sequence[Stretch], size: int) -> list[Gap]:
    """What lies between stretches."""
    return [
        Gap(history.segment(before.last.number + 1, size), history.segment(after.first.number - 1, size))
        for before, after in pairwise(found)
    ]


def windows(
    history: History,
    found: Sequence[Stretch],
    backups: Iterable[BackupPoint],
    last_commit: Callable[[Stretch], datetime | None],
    size: int,
) -> list[RecoveryWindow]:
    """One interval per stretch that holds a backup; `last_commit` is asked only for those."""
    usable = sorted(
        (point for point in backups if history.contains(point.timeline, point.stop)), key=lambda point: point.stop
    )
    result: list[RecoveryWindow] = []
    for stretch in found:
        inside = [point for point in usable if stretch.holds(point.start, point.stop, size)]
        if not inside:
            continue
        opens = min(point.stopped for point in inside)
        closes = last_commit(stretch)
        result.append(
            RecoveryWindow(
                timeline=history.timeline,
                opens=opens,
                closes=opens if closes is None else max(opens, closes),
                from_lsn=inside[0].stop,
                to_lsn=stretch.last.end(size),
                backups=tuple(point.label for point in inside),
            )
        )
    return result


def _spans(history: History, size: int) -> list[tuple[int, int, int | None]]:
    """Per timeline the numbers `low…high` (None = open) that recovery reads from its files: child first at a switch."""
    parts = history.ranges
    spans: list[tuple[int, int, int | None]] = []
    for index, part in enumerate(parts):
        low = part.begin // size
        high = None if index + 1 == len(parts) else parts[index + 1].begin // size - 1
        if high is None or low <= high:
            spans.append((part.timeline, low, high))
    return spans
