"""Owns the proof that a segment continues the stored WAL: what lets a server write on whose claim it cannot show.

Its token may be lost with the host's state directory; its WAL then still follows from the stored one, byte by byte.
"""

from pathlib import Path

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.wal import WalSegment
from pgrecall.errors import ObjectMissing
from pgrecall.postgres.walscan import SegmentFacts
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.envelope import ObjectReader, ObjectType
from pgrecall.repository.layout import wal_name, wal_prefix
from pgrecall.services.archive.segment import facts_of, raw_ids, stored_ids

_SEARCHED_BACK = 1024


def continues_the_archive(
    store: ClusterStore, system_identifier: int, segment: WalSegment, size: int, facts: SegmentFacts, *,
    pg_wal: Path, token8: str,
) -> bool:  # fmt: skip
    """Whether the first record follows the last one stored before it, and the file before it, if pg_wal still has it,
    is the stored one. A server that was found to fork once is on its own for the rest of the timeline.
    """
    if any(True for _ in store.list(wal_prefix(system_identifier, segment.timeline, fork=token8))):
        return False
    before = segment._replace(number=segment.number - 1)
    stored = _read(store, system_identifier, before, size)
    if stored is None:
        return False
    file = pg_wal / before.name(size)
    compared = file.exists()
    if compared and raw_ids(store.scope, file.read_bytes()) != stored_ids(stored):
        return False
    if facts.first_prev is None:
        return compared
    return _last_record(store, system_identifier, before, stored, size) == facts.first_prev


def _last_record(
    store: ClusterStore, system_identifier: int, segment: WalSegment, reader: ObjectReader | None, size: int
) -> Lsn | None:
    """Where the last record begins that begins in or before a stored segment: one record may fill many segments."""
    for _ in range(_SEARCHED_BACK):
        if reader is None:
            return None
        last = facts_of(reader.clear, segment, reader.name).last_record
        if last is not None:
            return last
        segment = segment._replace(number=segment.number - 1)
        reader = _read(store, system_identifier, segment, size)
    return None


def _read(store: ClusterStore, system_identifier: int, segment: WalSegment, size: int) -> ObjectReader | None:
    try:
        return store.read(ObjectType.WAL, wal_name(system_identifier, segment.name(size)))
    except ObjectMissing:
        return None
