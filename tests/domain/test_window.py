"""Recovery windows: contiguity along a history, gaps shown as gaps."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History, HistoryEntry
from pgrecall.domain.wal import WalSegment
from pgrecall.domain.window import BackupPoint, Run, StoredSegment, Stretch, gaps, runs, stretches, windows

SIZE = 1 << 20
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
BRANCHED = History(2, (HistoryEntry(1, Lsn(10 * SIZE + 40)),))


def backup(minute: int, timeline: int, start: int, stop: int) -> BackupPoint:
    moment = NOON + timedelta(minutes=minute)
    return BackupPoint(BackupLabel(moment, BackupKind.FULL), timeline, Lsn(start), Lsn(stop), moment)


@given(st.sets(st.integers(0, 60)))
def test_runs_hold_every_number_once_and_never_touch(numbers: set[int]) -> None:
    found = runs(sorted(numbers))
    assert {number for run in found for number in range(run.first, run.last + 1)} == numbers
    assert all(before.last + 1 < after.first for before, after in pairwise(found))


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_stretches_hold_exactly_the_files_that_recovery_would_read(parent: set[int], child: set[int]) -> None:
    stored = {1: runs(sorted(parent)), 2: runs(sorted(child))}
    wanted = [BRANCHED.segment(number, SIZE) for number in range(21)]
    there = {segment.number for segment in wanted if segment.number in (parent if segment.timeline == 1 else child)}
    found = stretches(BRANCHED, stored, SIZE)
    assert {number for each in found for number in range(each.first.number, each.last.number + 1)} == there
    assert [each.first for each in found] == [BRANCHED.segment(run.first, SIZE) for run in runs(sorted(there))]
    holes = {number for gap in gaps(BRANCHED, found, SIZE) for number in range(gap.first.number, gap.last.number + 1)}
    assert holes == (set(range(min(there), max(there))) - there if there else set())


def test_the_child_s_switch_segment_closes_the_way_when_it_is_missing() -> None:
    found = stretches(BRANCHED, {1: [Run(0, 15)], 2: [Run(11, 14)]}, SIZE)
    assert found == [Stretch(WalSegment(1, 0), WalSegment(1, 9)), Stretch(WalSegment(2, 11), WalSegment(2, 14))]
    assert gaps(BRANCHED, found, SIZE) == [(WalSegment(2, 10), WalSegment(2, 10))]


def test_a_gap_splits_the_window_and_only_a_backup_opens_the_next_one() -> None:
    history = History.root(1)
    points = [
        backup(0, 1, 2 * SIZE + 40, 3 * SIZE),
        backup(5, 1, 4 * SIZE, 4 * SIZE + 99),
        backup(30, 1, 21 * SIZE, 22 * SIZE),
    ]
    found = stretches(history, {1: [Run(0, 9), Run(12, 15), Run(20, 25)]}, SIZE)
    ends = {9: NOON + timedelta(minutes=20), 25: None}
    result = windows(history, found, points, lambda stretch: ends[stretch.last.number], SIZE)
    assert [(window.opens, window.closes) for window in result] == [
        (NOON, NOON + timedelta(minutes=20)),
        (NOON + timedelta(minutes=30), NOON + timedelta(minutes=30)),
    ]
    assert result[0].backups == (points[0].label, points[1].label)
    assert (result[0].from_lsn, result[0].to_lsn) == (Lsn(3 * SIZE), Lsn(10 * SIZE))


def test_a_backup_of_the_abandoned_branch_opens_no_window_on_the_other() -> None:
    late = backup(0, 1, 10 * SIZE, 12 * SIZE)
    found = stretches(BRANCHED, {1: [Run(0, 15)], 2: [Run(10, 14)]}, SIZE)
    assert windows(BRANCHED, found, [late], lambda _: None, SIZE) == []


def test_neighbours_that_do_not_follow_one_another_are_told_apart() -> None:
    one = StoredSegment(1, 4, None, None, last_record=Lsn(5 * SIZE - 80))
    assert StoredSegment(1, 5, None, None, first_prev=Lsn(5 * SIZE - 80)).continues(one)
    assert not StoredSegment(1, 5, None, None, first_prev=Lsn(5 * SIZE - 88)).continues(one)
    assert StoredSegment(1, 5, None, None).continues(one)
