"""Which backup a restore begins with, and why: the newest one that reaches the target."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pgrecall.domain.humanize import format_time
from pgrecall.domain.label import BackupLabel
from pgrecall.domain.target import AtLsn, AtTime, RecoveryRequest, RecoveryTarget
from pgrecall.domain.window import BackupPoint
from pgrecall.errors import BackupNotFound, TargetUnreachable
from pgrecall.repository.catalog import BackupRecord, BackupState
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import Commit
from pgrecall.services.archive.reach import RecoveryWal

Reach = Callable[[Commit], RecoveryWal]
"""The WAL from a backup to the target; TargetUnreachable where it does not lead there."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The backup, the WAL from it to the target, why this one, and which other would do."""

    commit: Commit
    state: BackupState
    wal: RecoveryWal
    reasons: tuple[str, ...]
    alternatives: tuple[BackupLabel, ...]


def point(commit: Commit) -> BackupPoint:
    return BackupPoint(commit.label, commit.timeline, commit.start_lsn, commit.stop_lsn, commit.stopped)


def choose_named(record: BackupRecord, reach: Reach) -> Choice:
    """The backup that `--from` names, also one that is only *stored*; TargetUnreachable if it does not lead there."""
    if record.commit is None:
        why = f"{record.state}: {record.reason}" if record.reason else str(record.state)
        raise BackupNotFound(f"{record.label} cannot be restored: {why}", label=str(record.label))
    return Choice(record.commit, record.state, reach(record.commit), ("named by --from",), ())


def choose_backup(
    records: Sequence[BackupRecord],
    request: RecoveryRequest,
    reach: Reach,
    explain: Reach,
    *,
    bad: AbstractSet[PackRef] = frozenset(),
) -> Choice:
    """The newest complete backup from which the target is reached; then the newest that is only *stored*.

    Those that need a pack marked as damaged (`bad`) are passed over. Raise BackupNotFound where there is none at all,
    TargetUnreachable, as `explain` says it of the backup that comes closest, where none leads to the target.
    """
    committed = [each for each in records if each.commit is not None]
    if not committed:
        raise BackupNotFound("there is no backup that can be restored", hint="pgrecall backup")
    sound = [each for each in committed if not _needs(each, bad)]
    if not sound:
        raise BackupNotFound(
            "every backup needs a pack that is marked as damaged",
            hint=f"pgrecall verify; to try one all the same: --from {committed[-1].label}",
        )
    passed = [
        f"{each.label} passed over: a pack it needs is marked as damaged" for each in committed if each not in sound
    ]
    return _first_that_reaches(_best_first(sound), request, reach, explain, passed)


def _first_that_reaches(
    candidates: Sequence[BackupRecord], request: RecoveryRequest, reach: Reach, explain: Reach, passed: list[str]
) -> Choice:
    early = [each for each in candidates if each.commit and not _ends_after(each.commit, request.target)]
    for index, record in enumerate(early):
        assert record.commit is not None
        try:
            wal = reach(record.commit)
        except TargetUnreachable as error:
            passed.append(f"{record.label} passed over: {error.message}")
            continue
        why = "the newest that reaches the target"
        if record.state is not BackupState.COMPLETE:
            why = f"no complete backup reaches the target; this one is {record.state} only"
        others = tuple(each.label for each in early[index + 1 : index + 2])
        return Choice(record.commit, record.state, wal, (why, *passed), others)
    if not early:
        raise _before_all(candidates, request.target)
    commit = early[0].commit
    assert commit is not None
    return Choice(commit, early[0].state, explain(commit), ("what stood against it is gone", *passed), ())


def _before_all(candidates: Sequence[BackupRecord], target: RecoveryTarget) -> TargetUnreachable:
    commits = [each.commit for each in candidates if each.commit is not None]
    first = min(commits, key=lambda commit: commit.stop_lsn if isinstance(target, AtLsn) else commit.sequence)
    since = str(first.stop_lsn) if isinstance(target, AtLsn) else format_time(first.stopped)
    return TargetUnreachable(
        f"{target} cannot be reached: the earliest backup, {first.label}, is consistent only from {since} on",
        hint=f"a later moment; the earliest of all is --from {first.label} --at immediate",
        earliest=since,
        backup=str(first.label),
    )


def _best_first(records: Sequence[BackupRecord]) -> list[BackupRecord]:
    return sorted(records, key=lambda each: (each.state is BackupState.COMPLETE, each.sequence), reverse=True)


def _needs(record: BackupRecord, bad: AbstractSet[PackRef]) -> bool:
    return any(record.commit is not None and pack in record.commit.live for pack in bad)


def _ends_after(commit: Commit, target: RecoveryTarget) -> bool:
    """A backup is consistent only at its stop; nothing before that can be reached from it."""
    match target:
        case AtTime(moment):
            return moment <= commit.stopped
        case AtLsn(lsn):
            return lsn < commit.stop_lsn
    return False
