"""Owns the answer to "can this target be reached from this backup?": the WAL it takes, or why not and what could be.

Rules 15 to 17 of PostgreSQL: recovery needs contiguous WAL from the backup's start, and ends in an error if it does not meet its target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

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
from pgrecall.domain.window import BackupPoint, StoredSegment
from pgrecall.errors import TargetUnreachable
from pgrecall.postgres.walscan import RestorePoint, TablespaceCreate, WalInvalid, join
from pgrecall.services.archive.inventory import WalInventory


@dataclass(frozen=True, slots=True)
class RecoveryWal:
    """How recovery gets from a backup to a target."""

    history: History
    """Path of timelines; its own timeline is the number for recovery_target_timeline."""
    segments: tuple[WalSegment, ...]
    """In the order of replay, each in the file that recovery reads."""
    segment_size: int
    target: RecoveryTarget
    """What to aim at: the request's, or EndOfArchive where a time is the last commit itself."""
    last_commit: datetime | None
    """Of the segments' commits the latest: later than the target where the target lies before the end."""
    end: Lsn
    """End of the last segment."""
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [segment.name(self.segment_size) for segment in self.segments]


def reachable(inventory: WalInventory, request: RecoveryRequest, backup: BackupPoint) -> RecoveryWal:
    """The WAL that recovers `backup` to the target; TargetUnreachable, with what could be reached instead."""
    raise NotImplementedError


def resolve_timeline(inventory: WalInventory, choice: TimelineChoice, backup: BackupPoint) -> History:
    """`latest` is the highest number stored, `current` the backup's own."""
    raise NotImplementedError


def find_restore_point(inventory: WalInventory, name: str, timeline: int) -> list[RestorePoint]:
    """All restore points of that name on the way to a timeline, oldest first."""
    raise NotImplementedError


def tablespaces_created(inventory: WalInventory, segments: Sequence[WalSegment]) -> list[TablespaceCreate]:
    """CREATE TABLESPACE records in consecutive segments, also those that lie in two of them (rule 2)."""
    raise NotImplementedError
