"""The backup is chosen for a reason that can be told: the newest sound one that reaches the target."""

from datetime import timedelta

import pytest

from pgrecall.domain.label import BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.target import AtLsn, AtTime, EndOfArchive, RecoveryRequest, RecoveryTarget
from pgrecall.domain.timeline import History
from pgrecall.errors import BackupNotFound, TargetUnreachable
from pgrecall.repository.catalog import BackupRecord, BackupState
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import Commit
from pgrecall.services.archive.reach import RecoveryWal
from pgrecall.services.restore.choose import Choice, choose_backup, choose_named
from tests.support.commit_samples import commit, tombstone

LABELS = [BackupLabel.parse(f"2026112{day}T010003Z-full") for day in range(5)]


def record(number: int, state: BackupState = BackupState.COMPLETE) -> BackupRecord:
    stop = Lsn(0x1000000 * (number + 1))
    made = commit(LABELS[number], number + 1, start_lsn=Lsn(stop - 100), stop_lsn=stop)
    return BackupRecord(LABELS[number], state, commit=made)


def wal(made: Commit) -> RecoveryWal:
    return RecoveryWal(History.root(1), (), 16 << 20, EndOfArchive(), None, made.stop_lsn)


def choose(
    records: list[BackupRecord],
    target: RecoveryTarget | None = None,
    *,
    unreached: tuple[int, ...] = (),
    bad: frozenset[PackRef] = frozenset(),
) -> Choice:
    def reach(made: Commit) -> RecoveryWal:
        if LABELS.index(made.label) in unreached:
            raise TargetUnreachable(f"from {made.label} there is a gap")
        return wal(made)

    def explain(made: Commit) -> RecoveryWal:
        raise TargetUnreachable(f"explained for {made.label}")

    return choose_backup(records, RecoveryRequest(target or EndOfArchive()), reach, explain, bad=bad)


def test_the_newest_one_is_taken_and_the_one_before_it_named_as_alternative() -> None:
    choice = choose([record(0), record(1), record(2)])
    assert (choice.commit.label, choice.alternatives) == (LABELS[2], (LABELS[1],))
    assert choice.reasons == ("the newest that reaches the target",)


@pytest.mark.parametrize("early", [timedelta(0), timedelta(seconds=1)])
def test_a_backup_that_ends_at_or_after_the_moment_is_not_asked(early: timedelta) -> None:
    last = record(2)
    assert last.commit is not None
    choice = choose([record(0), record(1), last], AtTime(last.commit.stopped - early))
    assert choice.commit.label == LABELS[1]


def test_a_position_needs_a_backup_that_stopped_at_or_before_it() -> None:
    assert choose([record(0), record(1)], AtLsn(Lsn(0x2000000))).commit.label == LABELS[1]
    assert choose([record(0), record(1)], AtLsn(Lsn(0x1FFFFFF))).commit.label == LABELS[0]


def test_a_backup_from_which_wal_is_missing_is_passed_over_by_name() -> None:
    choice = choose([record(0), record(1)], unreached=(1,))
    assert choice.commit.label == LABELS[0]
    assert choice.reasons[1] == f"{LABELS[1]} passed over: from {LABELS[1]} there is a gap"


def test_a_damaged_pack_rules_a_backup_out() -> None:
    bad = frozenset({PackRef(LABELS[1].number, 9)})
    choice = choose([record(0), record(1)], bad=bad)
    assert choice.commit.label == LABELS[0]
    assert "marked as damaged" in choice.reasons[1]
    with pytest.raises(BackupNotFound, match="every backup needs a pack") as refusal:
        choose([record(1)], bad=bad)
    assert f"--from {LABELS[1]}" in (refusal.value.hint or "")


def test_a_backup_with_corrupt_pages_is_the_last_resort_and_said_to_be() -> None:
    records = [record(0), record(1, BackupState.STORED)]
    assert choose(records).commit.label == LABELS[0]
    choice = choose(records, unreached=(0,))
    assert choice.commit.label == LABELS[1]
    assert choice.reasons[0] == "no complete backup reaches the target; this one is stored only"


def test_a_target_before_the_first_backup_is_refused_with_the_earliest_that_there_is() -> None:
    first = record(0)
    assert first.commit is not None
    with pytest.raises(
        TargetUnreachable, match=f"the earliest backup, {LABELS[0]}, is consistent only from"
    ) as refusal:
        choose([first, record(1)], AtTime(first.commit.stopped))
    assert refusal.value.hint == f"a later moment; the earliest of all is --from {LABELS[0]} --at immediate"


def test_a_target_that_no_backup_reaches_is_explained_for_the_closest() -> None:
    with pytest.raises(TargetUnreachable, match=f"explained for {LABELS[1]}"):
        choose([record(0), record(1)], unreached=(0, 1))


def test_without_backups_the_way_to_make_one_is_named() -> None:
    with pytest.raises(BackupNotFound) as refusal:
        choose([BackupRecord(LABELS[0], BackupState.ABORTED, tombstone=tombstone(LABELS[0], 1))])
    assert refusal.value.hint == "pgrecall backup"


def test_a_named_run_that_is_no_backup_cannot_be_restored() -> None:
    with pytest.raises(BackupNotFound, match="unfinished"):
        choose_named(BackupRecord(LABELS[0], BackupState.UNFINISHED), wal)
    assert choose_named(record(0), wal).reasons == ("named by --from",)
