"""Owns judging the archive as a whole: do neighbours follow one another, is everything there that backups need."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History
from pgrecall.domain.wal import WalSegment, history_name, is_segment_name, segments_between
from pgrecall.domain.window import StoredSegment
from pgrecall.errors import PgrecallError
from pgrecall.repository.catalog import BackupRecord
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.commit import Commit
from pgrecall.repository.layout import owner_name, parse_wal_name, wal_name
from pgrecall.services.archive.history import read_history
from pgrecall.services.verify.report import Flaws, Kind
from pgrecall.services.verify.sweep import Swept


class _Place(NamedTuple):
    system_identifier: int
    timeline: int


class ArchiveCheck:
    """The WAL of a cluster, as the pass saw it."""

    def __init__(self, store: ClusterStore, swept: Swept, findings: Flaws) -> None:
        self._store = store
        self._swept = swept
        self._findings = findings
        self._timelines: dict[_Place, list[str]] = defaultdict(list)
        for name in sorted(swept.sizes):
            wal = parse_wal_name(name)
            if wal is not None and wal.fork is None and is_segment_name(wal.file):
                self._timelines[_Place(wal.system_identifier, wal.timeline)].append(name)
        self._histories: dict[_Place, History | None] = {}

    def check(self, commits: Iterable[Commit]) -> None:
        """What no backup needs by itself: gaps and breaks shorten the recovery window, and are warnings. A gap before a
        backup that brought its own WAL is none: there was no archive."""
        brought = {self._first_segment(commit) for commit in commits if commit.self_contained}
        for place, names in self._timelines.items():
            if not self._swept.has(owner_name(*place)):
                text = "is not there: who may write this timeline is not known"
                self._findings.add(Kind.WARNING, owner_name(*place), text)
            if place.timeline > 1 and not self._swept.has(self._history_name(place, place.timeline)):
                text = "is not there: no server recovers to this timeline"
                self._findings.add(Kind.WARNING, self._history_name(place, place.timeline), text)
            for before, name in pairwise(names):
                if name not in brought:
                    self._check_gap(place, before, name)
            self._check_links(place, names)

    def needed_by(self, commit: Commit) -> list[str]:
        """Names of the segments and histories without which a backup cannot be recovered."""
        place = _Place(commit.system_identifier, commit.timeline)
        history = self._history(place)
        size = commit.wal_segment_size
        segments = segments_between(commit.timeline, commit.start_lsn, commit.stop_lsn, size)
        files = [history_name(timeline) for timeline in history.path() if timeline > 1]
        files += [segment.name(size) for segment in segments]
        return [wal_name(commit.system_identifier, file) for file in files]

    def check_backup(self, record: BackupRecord) -> tuple[str, ...]:
        """Problems with the WAL that a backup needs."""
        assert record.commit is not None, "a committed backup"
        problems = []
        for name in self.needed_by(record.commit):
            if not self._swept.has(name):
                self._findings.add(Kind.MISSING, name, "is not there: the backup cannot be recovered", [record.label])
                problems.append(f"{name} is not there")
            elif name in self._swept.unsound:
                found = self._findings.get(name)
                kind = found.kind if found else Kind.DAMAGED
                self._findings.add(kind, name, self._swept.unsound[name], [record.label])
                problems.append(f"{name} is {kind.value}")
        return tuple(problems)

    def _first_segment(self, commit: Commit) -> str:
        size = commit.wal_segment_size
        segment = next(segments_between(commit.timeline, commit.start_lsn, commit.stop_lsn, size))
        return wal_name(commit.system_identifier, segment.name(size))

    def _history_name(self, place: _Place, timeline: int) -> str:
        return wal_name(place.system_identifier, history_name(timeline))

    def _history(self, place: _Place) -> History:
        if place not in self._histories:
            try:
                self._histories[place] = read_history(self._store, *place)
            except PgrecallError:
                self._histories[place] = None  # told by the pass
        return self._histories[place] or History.root(place.timeline)

    def _check_gap(self, place: _Place, before: str, name: str) -> None:
        one, two = self._swept.segments.get(before), self._swept.segments.get(name)
        if one is None or two is None or two.number == one.number + 1:
            return
        count = two.number - one.number - 1
        size = self._swept.segment_sizes[before]
        missing = wal_name(place.system_identifier, WalSegment(place.timeline, one.number + 1).name(size))
        more = f", nor are {count - 1} after it" if count > 1 else ""
        text = f"is not there{more}, although WAL before and after it is: recovery cannot pass"
        self._findings.add(Kind.WARNING, missing, text)

    def _check_links(self, place: _Place, names: Sequence[str]) -> None:
        """Each segment's first record names the last one before it; a record may fill segments without any."""
        last: Lsn | None = None
        previous: StoredSegment | None = None
        for index, name in enumerate(names):
            facts = self._swept.segments.get(name)
            if facts is None:
                previous, last = None, None
                continue
            if previous is None:
                last = self._last_of_parent(place, facts)
            elif facts.number != previous.number + 1:
                last = None
            elif previous.broken_at is not None:
                last = None
                text = f"valid WAL ends at {previous.broken_at}, before the segment does, although more follows"
                self._findings.add(Kind.WARNING, names[index - 1], text)
            if last is not None and facts.first_prev is not None and facts.first_prev != last:
                text = f"does not continue the WAL before it: its first record follows {facts.first_prev}, not {last}"
                self._findings.add(Kind.WARNING, name, text)
            last = facts.last_record or last
            previous = facts

    def _last_of_parent(self, place: _Place, facts: StoredSegment) -> Lsn | None:
        """The last record that begins before a timeline's first segment, in its parent's segment."""
        history = self._history(place)
        if not history.entries:
            return None
        parent = history.entries[-1].timeline
        for name in self._timelines.get(_Place(place.system_identifier, parent), ()):
            found = self._swept.segments.get(name)
            if found is not None and found.number == facts.number - 1:
                return found.last_record
        return None
