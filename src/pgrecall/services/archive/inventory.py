"""Owns what the archive of one system identifier holds: timelines, segments, histories, gaps and recovery windows.

One LIST tells nearly all of it. Objects are opened only where their facts are needed, and then only their first bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History
from pgrecall.domain.wal import (
    WalSegment,
    check_segment_size,
    history_name,
    is_history_name,
    is_partial_name,
    is_segment_name,
)
from pgrecall.domain.window import (
    BackupPoint,
    Gap,
    RecoveryWindow,
    Run,
    StoredSegment,
    Stretch,
    gaps,
    runs,
    stretches,
    windows,
)
from pgrecall.errors import ObjectDamaged, PgrecallError
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.envelope import read_clear
from pgrecall.repository.layout import WAL, parse_wal_name, wal_name, wal_prefix
from pgrecall.services.archive.history import read_history
from pgrecall.services.archive.owner import Owner, read_owner
from pgrecall.services.archive.segment import HEAD_BYTES, SegmentBeginning, SegmentIndex, read_beginning

_READERS = 8
_BATCH = 64


def system_identifiers(store: ClusterStore) -> list[int]:
    """The system identifiers whose WAL is stored, oldest name first."""
    return [int(text) for text in store.list_dirs(WAL) if text.isascii() and text.isdigit()]


@dataclass(frozen=True, slots=True)
class Fork:
    """What a server stored beside a timeline that it does not own, or as evidence of a conflict."""

    timeline: int
    token: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TimelineWindows:
    """What can be recovered on the way to one timeline: intervals, and the gaps between stretches of WAL."""

    history: History
    windows: tuple[RecoveryWindow, ...]
    gaps: tuple[Gap, ...]
    problems: tuple[str, ...]


@dataclass
class _Listing:
    sizes: dict[int, dict[str, int]] = field(default_factory=dict)
    """Timeline → segment file → size of its object."""
    histories: set[int] = field(default_factory=set)
    partials: list[str] = field(default_factory=list)
    forks: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    stored_bytes: int = 0


class WalInventory:
    """The archive of one system identifier as it was when first asked; `refresh` looks again. For one thread.

    segment_size None = what the first stored segment says.
    """

    def __init__(self, store: ClusterStore, system_identifier: int, *, segment_size: int | None = None) -> None:
        self.store = store
        self.system_identifier = system_identifier
        self._size = segment_size
        self._histories: dict[int, History | None] = {}
        self._beginnings: dict[WalSegment, SegmentBeginning] = {}

    def refresh(self) -> None:
        """Forget what was listed; what segments say never changes."""
        for cached in ("_listing", "_stored_runs"):
            self.__dict__.pop(cached, None)
        self._histories.clear()

    # What there is ------------------------------------------------------------------------------------------------
    @cached_property
    def _listing(self) -> _Listing:
        found = _Listing()
        for info in self.store.list(f"{WAL}{self.system_identifier}/"):
            place = parse_wal_name(info.key)
            if place is None:
                continue
            found.stored_bytes += info.size
            if place.fork is not None:
                found.forks.setdefault((place.timeline, place.fork), []).append(place.file)
            elif is_segment_name(place.file):
                found.sizes.setdefault(place.timeline, {})[place.file] = info.size
            elif is_history_name(place.file):
                found.histories.add(place.timeline)
            elif is_partial_name(place.file):
                found.partials.append(place.file)
        return found

    @property
    def segment_size(self) -> int | None:
        """Bytes of a segment; None while no segment is stored."""
        if self._size is None:
            first = next((file for files in self._listing.sizes.values() for file in files), None)
            if first is not None:
                self._size = self._proven_size(first)
        return self._size

    def _proven_size(self, file: str) -> int:
        name = wal_name(self.system_identifier, file)
        clear = read_clear(self._first_bytes(name, self._listing.sizes[int(file[:8], 16)][file]), name)
        said = clear.get("size")
        try:
            size = check_segment_size(said if isinstance(said, int) else 0)
            segment = WalSegment.parse(file, size)
        except PgrecallError as error:
            raise ObjectDamaged(f"{name} does not say what a segment's size is: {error.message}", key=name) from error
        self._beginnings[segment] = self._read_whole_beginning(segment, name, file)
        return size

    @property
    def stored_bytes(self) -> int:
        return self._listing.stored_bytes

    @property
    def segments(self) -> int:
        return sum(len(files) for files in self._listing.sizes.values())

    def timelines(self) -> list[int]:
        """Timelines with a segment or a history."""
        return sorted(self._listing.sizes.keys() | self._listing.histories)

    def forks(self) -> list[Fork]:
        return [Fork(*place, tuple(files)) for place, files in sorted(self._listing.forks.items())]

    def partials(self) -> list[str]:
        return sorted(self._listing.partials)

    def owner(self, timeline: int) -> Owner | None:
        return read_owner(self.store, self.system_identifier, timeline)

    def has(self, segment: WalSegment) -> bool:
        size = self.segment_size
        return size is not None and segment.name(size) in self._listing.sizes.get(segment.timeline, ())

    @cached_property
    def _stored_runs(self) -> dict[int, list[Run]]:
        size = self.segment_size
        return {
            timeline: runs(sorted(WalSegment.parse(file, size).number for file in files))
            for timeline, files in self._listing.sizes.items()
            if size is not None
        }

    def runs(self, timeline: int) -> list[Run]:
        """Contiguous runs of stored segment numbers."""
        return self._stored_runs.get(timeline, [])

    # Timelines ----------------------------------------------------------------------------------------------------
    def history(self, timeline: int) -> History | None:
        """None where a timeline's history file was never stored."""
        if timeline not in self._histories:
            self._histories[timeline] = read_history(self.store, self.system_identifier, timeline)
        return self._histories[timeline]

    def history_or_root(self, timeline: int) -> History:
        return self.history(timeline) or History.root(timeline)

    def missing_histories(self, history: History) -> list[str]:
        """History files of the path that are not stored: without its own no server recovers to a timeline."""
        return [history_name(each) for each in history.path() if each > 1 and each not in self._listing.histories]

    def missing(self, timeline: int, start: Lsn, stop: Lsn, *, start_timeline: int | None = None) -> list[WalSegment]:
        """Segments of `[start, stop)` on the way to a timeline that are not stored; empty = all there."""
        size = self.segment_size
        assert size is not None, "without a stored segment the caller gives the segment size"
        history = self.history_or_root(timeline)
        wanted = history.segments(start_timeline or history.timeline_at(start), start, stop, size)
        return [segment for segment in wanted if not self.has(segment)]

    def stretches(self, history: History) -> list[Stretch]:
        size = self.segment_size
        return [] if size is None else stretches(history, self._stored_runs, size)

    def segments_of(self, history: History) -> Iterator[WalSegment]:
        """Every stored segment on the way to a timeline, oldest first."""
        for stretch in self.stretches(history):
            for number in range(stretch.first.number, stretch.last.number + 1):
                yield history.segment(number, self._size or 0)

    def last_commit(self, stretch: Stretch, history: History) -> datetime | None:
        """The time of the last commit or abort in a stretch, read from its end."""
        size = self.segment_size
        assert size is not None
        for number in range(stretch.last.number, stretch.first.number - 1, -1):
            moment = self.facts([history.segment(number, size)])[0].last_commit
            if moment is not None:
                return moment
        return None

    def windows(self, backups: Sequence[BackupPoint]) -> list[TimelineWindows]:
        """Per timeline that leads somewhere of its own, oldest first: what can be recovered on the way to it."""
        size = self.segment_size
        if size is None:
            return []
        result = []
        for timeline in self.timelines():
            history = self.history_or_root(timeline)
            if self._is_passed_through(timeline, size):
                continue
            found = self.stretches(history)
            problems = [
                f"{file} was never stored" for file in self.missing_histories(history) if file == history_name(timeline)
            ]
            intervals = windows(history, found, backups, lambda each: self.last_commit(each, history), size)  # noqa: B023
            result.append(
                TimelineWindows(history, tuple(intervals), tuple(gaps(history, found, size)), tuple(problems))
            )
        return result

    def _is_passed_through(self, timeline: int, size: int) -> bool:
        """Whether another timeline goes on where this one's WAL ends: then its windows tell it all."""
        last = max((run.last for run in self.runs(timeline)), default=-1)
        for other in self.timelines():
            switch = self.history_or_root(other).switch_point(timeline) if other != timeline else None
            if switch is not None and last <= switch // size:
                return True
        return False

    # What segments say --------------------------------------------------------------------------------------------
    def facts(self, segments: Sequence[WalSegment]) -> list[StoredSegment]:
        return [each.facts for each in self.beginnings(segments)]

    def beginnings(self, segments: Sequence[WalSegment]) -> list[SegmentBeginning]:
        """Read once, kept while we live."""
        unknown = [each for each in segments if each not in self._beginnings]
        if len(unknown) > 1:
            with ThreadPoolExecutor(_READERS) as pool:
                for segment, beginning in zip(unknown, pool.map(self._read_beginning, unknown), strict=True):
                    self._beginnings[segment] = beginning
        elif unknown:
            self._beginnings[unknown[0]] = self._read_beginning(unknown[0])
        return [self._beginnings[each] for each in segments]

    def walk(self, segments: Iterable[WalSegment]) -> Iterator[tuple[WalSegment, SegmentBeginning]]:
        """Beginnings in order, read in batches: for those who stop early."""
        batch: list[WalSegment] = []
        for segment in segments:
            batch.append(segment)
            if len(batch) == _BATCH:
                yield from zip(batch, self.beginnings(batch), strict=True)
                batch = []
        yield from zip(batch, self.beginnings(batch), strict=True)

    def index(self, segment: WalSegment) -> SegmentIndex:
        """What a segment tells to holders of the key. Unsealed, it is only believed: fetch checks the whole object."""
        index = self.beginnings([segment])[0].index
        assert index is not None, "a beginning is read as far as its index goes"
        return index

    def _read_beginning(self, segment: WalSegment) -> SegmentBeginning:
        return self._read_whole_beginning(segment, *self._name(segment))

    def _read_whole_beginning(self, segment: WalSegment, name: str, file: str) -> SegmentBeginning:
        stored = self._listing.sizes[segment.timeline][file]
        try:
            found = read_beginning(self.store.scope, name, segment, self._first_bytes(name, stored), file=file)
            if found.index is None:  # it proves the clear part, so it is read however long it is
                data = self.store.get_range(name, 0, min(stored, found.index_bytes))
                found = read_beginning(self.store.scope, name, segment, data, file=file)
            if found.index is None:
                raise ObjectDamaged(f"{name} ends before its index does")
            return found
        except PgrecallError as error:
            raise ObjectDamaged(f"{name}: {error.message}", hint=error.hint, key=name) from error

    def _first_bytes(self, name: str, stored: int) -> bytes:
        return self.store.get_range(name, 0, min(stored, HEAD_BYTES))

    def _name(self, segment: WalSegment) -> tuple[str, str]:
        size = self.segment_size
        assert size is not None
        file = segment.name(size)
        return wal_prefix(self.system_identifier, segment.timeline) + file, file
