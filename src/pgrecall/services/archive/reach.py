"""Owns the answer to "can this target be reached from this backup?": the WAL that it takes, or why not.

Rules 15 to 17 of PostgreSQL: recovery needs unbroken WAL from the backup's start, and fails without its target.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pgrecall.domain.humanize import format_time
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.target import (
    AtLsn,
    AtRestorePoint,
    AtTime,
    AtXid,
    EndOfArchive,
    Immediate,
    RecoveryRequest,
    RecoveryTarget,
    TimelineChoice,
)
from pgrecall.domain.timeline import History
from pgrecall.domain.wal import WalSegment, history_name
from pgrecall.domain.window import BackupPoint, RecoveryWindow, StoredSegment, Stretch, gaps
from pgrecall.errors import TargetUnreachable
from pgrecall.postgres.walscan import RestorePoint
from pgrecall.services.archive.events import Events
from pgrecall.services.archive.inventory import WalInventory

XID_NOTE = (
    "whether and when a transaction ended shows only when replay meets it; recovery ends in an error if it is not in "
    "the WAL, and for the number of a subtransaction"
)


@dataclass(frozen=True, slots=True)
class RecoveryWal:
    """How recovery gets from a backup to a target."""

    history: History
    """The path of timelines; its own timeline is the number for recovery_target_timeline."""
    segments: tuple[WalSegment, ...]
    """In the order of replay, each in the file that recovery reads."""
    segment_size: int
    target: RecoveryTarget
    """What to aim at: the request's, or EndOfArchive where the time asked for is that of the last commit stored."""
    last_commit: datetime | None
    """The latest commit or abort in the segments: after the target, where the target lies before the end."""
    end: Lsn
    """The end of the last segment."""
    hole_behind: bool = False
    """What comes next is lost, or not stored yet: nobody may read ahead, since `wal fetch` withholds its answer."""
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [segment.name(self.segment_size) for segment in self.segments]


def reachable(
    inventory: WalInventory, request: RecoveryRequest, backup: BackupPoint, *, known: Sequence[RecoveryWindow] = ()
) -> RecoveryWal:
    """The WAL that recovers `backup` to the target.

    TargetUnreachable says why not; its facts `nearest_before` and `nearest_after` (RFC 3339) name moments that could be
    reached, the latter from the windows in `known`.
    """
    history = resolve_timeline(inventory, request.timeline, backup)
    way = _Way(inventory, request, backup, history, known)
    way.refuse_missing_history()
    way.refuse_target_before_the_backup_s_end()
    way.walk()
    return way.conclude()


def resolve_timeline(inventory: WalInventory, choice: TimelineChoice, backup: BackupPoint) -> History:
    """`latest` is the highest number stored, `current` the backup's own. The backup must lie on the way."""
    number = choice if isinstance(choice, int) else backup.timeline
    if choice == "latest":
        number = max([*inventory.timelines(), backup.timeline])
    history = inventory.history_or_root(number)
    if not (history.contains(backup.timeline, backup.start) and history.contains(backup.timeline, backup.stop)):
        raise TargetUnreachable(
            f"backup {backup.label} (timeline {backup.timeline}, up to {backup.stop}) is not on the way "
            f"to timeline {number}",
            hint=f"--timeline {backup.timeline}, or a backup from before {history.switch_point(backup.timeline)}"
            if history.switch_point(backup.timeline) is not None
            else f"--timeline {backup.timeline}",
            timeline=number,
        )
    return history


@dataclass
class _Way:
    inventory: WalInventory
    request: RecoveryRequest
    backup: BackupPoint
    history: History
    known: Sequence[RecoveryWindow]
    taken: list[StoredSegment] = field(default_factory=list)
    reason: str | None = None
    """Why the walk ended before the target, if it did not end with the WAL."""
    met: bool = False
    passed: bool = False
    """A commit past the time that is the target was seen."""
    found: RestorePoint | None = None

    @property
    def size(self) -> int:
        size = self.inventory.segment_size
        if size is None:
            raise self._unreachable("no WAL is stored")
        return size

    # Refusals -----------------------------------------------------------------------------------------------------
    def refuse_missing_history(self) -> None:
        file = history_name(self.history.timeline)
        if file in self.inventory.missing_histories(self.history):
            raise self._unreachable(
                f"{file} was never stored, so no server recovers to timeline {self.history.timeline}"
            )

    def refuse_target_before_the_backup_s_end(self) -> None:
        stop, stopped = self.backup.stop, self.backup.stopped
        match self.request.target:
            case AtTime(moment) if moment <= stopped:
                raise self._unreachable(
                    f"backup {self.backup.label} is consistent only from {format_time(stopped)} on",
                    hint="Take an earlier backup: --from LABEL.",
                )
            case AtLsn(lsn) if lsn < stop:
                raise self._unreachable(
                    f"backup {self.backup.label} is consistent only from {stop} on",
                    hint="Take an earlier backup: --from LABEL.",
                )

    # The walk -----------------------------------------------------------------------------------------------------
    def walk(self) -> None:
        """Take segment after segment, until the target is met or something stands in the way."""
        stretch = self._stretch()
        first, last_needed = self.backup.start // self.size, (self.backup.stop - 1) // self.size
        segments = (self.history.segment(number, self.size) for number in range(first, stretch.last.number + 1))
        last_record: Lsn | None = None
        events = Events()
        for segment, beginning in self.inventory.walk(segments):
            facts = beginning.facts
            if last_record is not None and facts.first_prev is not None and facts.first_prev != last_record:
                self.reason = f"{segment.name(self.size)} does not continue the WAL before it (another server wrote it)"
                return
            if facts.minimal_at is not None and facts.minimal_at >= self.backup.start:
                self.reason = f"wal_level was minimal from {facts.minimal_at} on, and recovery cannot pass that"
                return
            last_record = facts.last_record or last_record
            self.taken.append(facts)
            match self.request.target:
                case AtRestorePoint(name):
                    events.add(facts, self.inventory.index(segment))
                    self._find_restore_point(events, name)
                case AtTime(moment):
                    self.passed = self.passed or self._is_past(facts.last_commit, moment)
            if segment.number >= last_needed and self._meets(facts):
                self.met = True
                return
            if facts.broken_at is not None:
                self.reason = f"{segment.name(self.size)} holds valid WAL only up to {facts.broken_at}"
                return

    def _find_restore_point(self, events: Events, name: str) -> None:
        """The server stops at the first one of that name, also where it cannot: before the backup's end."""
        if self.found is None:
            self.found = next(
                (each for each in events.restore_points if each.name == name and each.lsn >= self.backup.start), None
            )
        if self.found is not None and self.found.lsn < self.backup.stop:
            raise self._unreachable(
                f"backup {self.backup.label} was still being made when '{name}' was set, and recovery would stop there",
                hint="Take an earlier backup: --from LABEL.",
            )

    def _meets(self, facts: StoredSegment) -> bool:
        match self.request.target:
            case Immediate():
                return True
            case AtLsn(lsn):
                return facts.last_record is not None and facts.last_record >= lsn
            case AtTime():
                return self.passed
            case AtRestorePoint():
                return self.found is not None
            case _:
                return False

    def _is_past(self, commit: datetime | None, moment: datetime) -> bool:
        """recoveryStopsBefore: an inclusive target stops at the first later commit, an exclusive at an equal one."""
        return commit is not None and (commit > moment if self.request.inclusive else commit >= moment)

    def _stretch(self) -> Stretch:
        backup = self.backup
        for stretch in self.inventory.stretches(self.history):
            if stretch.holds(backup.start, backup.stop, self.size):
                return stretch
        wanted = self.history.segments(backup.timeline, backup.start, backup.stop, self.size)
        missing = [each.name(self.size) for each in wanted if not self.inventory.has(each)]
        raise self._unreachable(f"backup {backup.label} needs WAL that is not stored: {_names(missing)}")

    # The answer ---------------------------------------------------------------------------------------------------
    def conclude(self) -> RecoveryWal:
        reached = len(self.taken) * self.size + self.taken[0].segment.start(self.size) if self.taken else 0
        if reached < self.backup.stop:
            raise self._unreachable(self.reason or "the backup's own WAL is not complete")
        target = self.request.target
        if self.met:
            return self._result(target, *self._which_restore_point())
        obstacle = self.reason or self._gap()
        if obstacle is not None:
            raise self._unreachable(obstacle)
        self._refuse_branch_without_wal()
        last = self.last_commit
        match target:
            case EndOfArchive():
                return self._result(target)
            case AtXid():
                return self._result(target, XID_NOTE)
            case AtTime(moment) if moment == last:
                note = f"{format_time(moment)} is the last commit stored: recovered to the end of what is stored now"
                return self._result(self._last_record(), note)
            case AtTime():
                said = "there is none after the backup" if last is None else f"the last one is {format_time(last)}"
                raise self._unreachable(
                    f"no commit after it is stored yet, so recovery would not end there; of the commits stored, {said}",
                    hint="wait for its WAL: within archive_timeout, or now by SELECT pg_switch_wal() on the server; "
                    "else --at latest",
                )
            case AtRestorePoint(name):
                raise self._unreachable(
                    f"no restore point '{name}' is stored on the way to timeline {self.history.timeline}"
                )
            case _:
                end = self.taken[-1].segment.end(self.size)
                raise self._unreachable(f"the stored WAL ends at {end}", hint="--at latest")

    def _which_restore_point(self) -> list[str]:
        found = self.found
        if found is None:
            return []
        return [
            f"restore point '{found.name}' of {format_time(found.time)}, at {found.lsn}: the first of that name after "
            f"backup {self.backup.label}"
        ]

    def _last_record(self) -> RecoveryTarget:
        """The end of what is stored now: what arrives before recovery gets there must not carry it further."""
        last = self.taken[-1]
        if last.last_record is None or self.inventory.index(last.segment).tail is not None:
            return EndOfArchive()
        return AtLsn(last.last_record)

    def _refuse_branch_without_wal(self) -> None:
        """Only the history of the target timeline is stored: its server has just begun to write it."""
        last, goal = self.taken[-1].segment.timeline, self.history.timeline
        if last != goal:
            raise self._unreachable(
                f"timeline {goal} has begun at {self.history.switch_point(last)}, but none of its WAL is stored yet",
                hint=f"--timeline {last}; or try again when the server on timeline {goal} has archived a segment",
            )

    @property
    def last_commit(self) -> datetime | None:
        return max((each.last_commit for each in self.taken if each.last_commit is not None), default=None)

    def _gap(self) -> str | None:
        """The hole after the walked stretch, if later WAL is stored: recovery would stop there with an error."""
        after = self.taken[-1].segment.number
        for gap in gaps(self.history, self.inventory.stretches(self.history), self.size):
            if gap.first.number > after:
                count = gap.last.number - gap.first.number
                names = [gap.first.name(self.size), gap.last.name(self.size)] if count else [gap.first.name(self.size)]
                return f"WAL {'–'.join(names)} was never stored"
        return None

    def _is_hole_behind(self) -> bool:
        last = self.taken[-1].segment
        if self.inventory.has(self.history.segment(last.number + 1, self.size)):
            return False
        return last.timeline != self.history.timeline or self._gap() is not None

    def _result(self, target: RecoveryTarget, *notes: str) -> RecoveryWal:
        return RecoveryWal(
            history=self.history,
            segments=tuple(each.segment for each in self.taken),
            segment_size=self.size,
            target=target,
            last_commit=self.last_commit,
            end=self.taken[-1].segment.end(self.size),
            hole_behind=self._is_hole_behind(),
            notes=notes,
        )

    def _unreachable(self, reason: str, *, hint: str | None = None) -> TargetUnreachable:
        wanted = self.request.target
        before = self.last_commit
        if before is not None and before <= self.backup.stopped:
            before = None
        if before is not None and isinstance(wanted, AtTime) and before > wanted.moment:
            before = None
        after = next(
            (each.opens for each in sorted(self.known, key=lambda window: window.opens)
             if isinstance(wanted, AtTime) and each.opens > wanted.moment), None)  # fmt: skip
        # A moment before the last commit that can be met: PostgreSQL wants to see a later one.
        nearest = None if before is None else before - timedelta(microseconds=1)
        choices = []
        if nearest is not None and isinstance(wanted, AtTime | EndOfArchive):
            choices = [f'--at "{format_time(nearest)}" (last before)']
        elif isinstance(wanted, EndOfArchive):
            choices = [f"--from {self.backup.label} --at immediate"]
        choices += [f"≥ {format_time(after)} (first after)"] if after is not None else []
        return TargetUnreachable(
            f"{self.inventory.store.name} cannot be recovered to {wanted}: {reason}",
            hint=hint or " or ".join(choices) or None,
            nearest_before=None if nearest is None else nearest.isoformat(),
            nearest_after=None if after is None else after.isoformat(),
            backup=str(self.backup.label),
        )


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
