"""Owns what stored WAL says besides data: restore points and new tablespaces, also records that lie in two segments."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pgrecall.domain.wal import WalSegment
from pgrecall.domain.window import StoredSegment
from pgrecall.errors import WalInvalid
from pgrecall.postgres.walscan import RestorePoint, TablespaceCreate, join
from pgrecall.services.archive.inventory import WalInventory
from pgrecall.services.archive.segment import SegmentIndex


@dataclass
class Events:
    """Gathers events of segments that are added in order."""

    restore_points: list[RestorePoint] = field(default_factory=list)
    tablespaces: list[TablespaceCreate] = field(default_factory=list)
    _before: tuple[StoredSegment, SegmentIndex] | None = None

    def add(self, facts: StoredSegment, index: SegmentIndex) -> None:
        self._join(facts, index)
        self.restore_points += index.restore_points
        self.tablespaces += index.tablespaces
        self._before = facts, index

    def _join(self, facts: StoredSegment, index: SegmentIndex) -> None:
        if self._before is None:
            return
        before, its = self._before
        if before.number + 1 != facts.number or before.last_record is None or its.tail is None or index.head is None:
            return
        try:
            record = join(its.tail, index.head, lsn=before.last_record)
        except WalInvalid:
            return  # a record of three segments, too long to be one of these
        self.restore_points += record.restore_points
        self.tablespaces += record.tablespaces


def tablespaces_created(inventory: WalInventory, segments: Sequence[WalSegment]) -> list[TablespaceCreate]:
    """CREATE TABLESPACE records in consecutive segments (rule 2): replay uses their paths literally."""
    return _gather(inventory, segments).tablespaces


def find_restore_point(inventory: WalInventory, name: str, timeline: int) -> list[RestorePoint]:
    """All restore points of that name in the WAL on the way to a timeline, oldest first."""
    segments = list(inventory.segments_of(inventory.history_or_root(timeline)))
    return [point for point in _gather(inventory, segments).restore_points if point.name == name]


def _gather(inventory: WalInventory, segments: Sequence[WalSegment]) -> Events:
    events = Events()
    for segment, beginning in inventory.walk(segments):
        events.add(beginning.facts, inventory.index(segment))
    return events
