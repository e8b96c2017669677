"""The pure rules of a backup: which parent, how far its LSNs prove anything, how files are cut into units."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History, HistoryEntry
from pgrecall.domain.wal import WalSegment, segments_between
from pgrecall.postgres.listing import DirectoryItem, FileItem, FileKind
from pgrecall.repository.columns import NODE_SIZE, SMALL_FILE
from pgrecall.repository.directory_writer import DirectoryFacts
from pgrecall.repository.manifest_writer import ManifestWriter
from pgrecall.repository.pack import PackNumbers
from pgrecall.services.backup.parent import Candidate, choose_parent, judge_trust
from pgrecall.services.backup.units import BATCH_BYTES, BATCH_FILES, BatchUnit, NodeUnit, Unit, units_of
from pgrecall.services.backup.wal import names_needed
from tests.support.tiny_engine import label, make_store

SYSTEM = 7
START = Lsn(10_000)
ROOT = History.root(1)
# Timeline 3 left 2 at 8000, which had left 1 at 5000.
FORKED = History(3, (HistoryEntry(1, Lsn(5000), ""), HistoryEntry(2, Lsn(8000), "")))


def candidate(
    number: int, *, stop: int = 4000, timeline: int = 1, system: int = SYSTEM, complete: bool = True
) -> Candidate:
    moment = datetime(2026, 11, 20, tzinfo=UTC) + timedelta(hours=number)
    return Candidate(BackupLabel(moment, BackupKind.FULL), complete, system, timeline, Lsn(stop))


def chosen(*candidates: Candidate, history: History = ROOT) -> tuple[int | None, tuple[str, ...]]:
    """The hour of the parent, and the reasons."""
    choice = choose_parent(candidates, system_identifier=SYSTEM, history=history, start_lsn=START)
    return (choice.parent.moment.hour if choice.parent else None), choice.reasons


def test_the_newest_usable_backup_is_the_parent() -> None:
    assert chosen(candidate(1), candidate(2))[0] == 2
    assert chosen() == (None, ("there is no earlier backup",))


@pytest.mark.parametrize(
    ("newest", "why"),
    [
        (candidate(2, complete=False), "is not complete"),
        (candidate(2, system=8), "is of system 8, this is 7"),
        (candidate(2, stop=10_001), "after our start"),
        (candidate(2, timeline=2), "not in the past of timeline 1"),
    ],
    ids=["incomplete", "system", "later", "timeline"],
)
def test_a_newer_backup_that_does_not_qualify_is_passed_over_and_told_why(newest: Candidate, why: str) -> None:
    parent, reasons = chosen(candidate(1), newest)
    assert parent == 1
    assert why in reasons[0]


@pytest.mark.parametrize(
    ("timeline", "stop", "usable"),
    [(1, 5000, True), (1, 5001, False), (2, 8000, True), (2, 8001, False), (3, 10_000, True), (4, 9000, False)],
)
def test_a_parent_ends_before_our_history_left_its_timeline(timeline: int, stop: int, usable: bool) -> None:
    """One that ends later holds pages of the branch that was given up, under LSNs that look old enough."""
    parent, reasons = chosen(candidate(1, timeline=timeline, stop=stop), history=FORKED)
    assert (parent == 1) is usable, reasons


@pytest.mark.parametrize(
    ("same", "then", "now", "trusted"),
    [(True, True, True, True), (True, True, False, False), (True, False, True, False), (False, True, True, False)],
)
def test_lsns_prove_something_only_on_one_server_that_always_had_checksums(
    same: bool, then: bool, now: bool, trusted: bool
) -> None:
    difference = None if same else "postmaster_started"
    trust = judge_trust(same_server=same, difference=difference, checksums_then=then, checksums_now=now)
    assert trust.page_lsn is trusted
    assert same or "postmaster_started" in trust.reason


# Units --------------------------------------------------------------------------------------------------------------
def units(*sizes: int) -> list[Unit]:
    writer = ManifestWriter(make_store(), label(0), PackNumbers()).directory(DirectoryFacts(b"base/5", 0o700, 0, 0))
    files = [
        FileItem(b"%d" % number, size, 0, number, 0o600, 0, 0, FileKind.RELATION_MAIN)
        for number, size in enumerate(sizes, 1000)
    ]
    return list(units_of(DirectoryItem(b"base/5", 0o700, 0, 0, files), writer))


def test_a_backup_of_a_later_timeline_is_complete_only_with_every_history_on_its_way() -> None:
    size = 1 << 20
    needed = names_needed(list(segments_between(3, START, Lsn(size + 1), size)), FORKED, size)
    assert needed == ["00000002.history", "00000003.history", WalSegment(3, 0).name(size), WalSegment(3, 1).name(size)]


def test_every_byte_of_a_large_file_is_in_exactly_one_unit() -> None:
    for size in (SMALL_FILE + 1, NODE_SIZE - 1, NODE_SIZE, NODE_SIZE + 1, 3 * NODE_SIZE + 8192):
        found = units(size)
        spans = [(unit.offset, unit.offset + unit.length) for unit in found if isinstance(unit, NodeUnit)]
        assert spans[0][0] == 0 and spans[-1][1] == size
        assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
        assert all(0 < end - start <= NODE_SIZE for start, end in spans)
        assert len(found) == len(spans)


def test_small_files_come_first_in_batches_of_bounded_size() -> None:
    sizes = [SMALL_FILE + 1, *([SMALL_FILE] * 9), *([0] * 600), 2 * SMALL_FILE]
    found = units(*sizes)
    kinds = [isinstance(unit, BatchUnit) for unit in found]
    assert kinds == sorted(kinds, reverse=True), "batches first"
    batches = [unit.items for unit in found if isinstance(unit, BatchUnit)]
    assert sum(map(len, batches)) == 609
    for items in batches:
        assert len(items) <= BATCH_FILES
        assert sum(item.size for item in items) <= BATCH_BYTES
    names = [item.name for items in batches for item in items]
    assert names == sorted(names)
