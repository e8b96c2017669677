"""Valid commits, for tests of the catalog."""

from datetime import timedelta
from typing import Any

from pgrecall.domain.label import BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import Commit, SeenCommit, Tombstone
from pgrecall.repository.live import LivePacks


def commit(label: BackupLabel, sequence: int, **changes: Any) -> Commit:
    live = LivePacks()
    live.add([PackRef(label.number, 1), PackRef(label.number, 9)])
    values: dict[str, Any] = {
        "label": label,
        "sequence": sequence,
        "parent": None,
        "system_identifier": 2**64 - 1,
        "timeline": 1,
        "version_num": 160004,
        "start_lsn": Lsn(0x3000028),
        "stop_lsn": Lsn(0x3000100),
        "wal_segment_size": 16 << 20,
        "started": label.moment,
        "stopped": label.moment + timedelta(seconds=2, microseconds=5),
        "self_contained": False,
        "size": 1000,
        "stored": 100,
        "files": 3,
        "damaged_pages": 0,
        "manifest": b"m" * 32,
        "live": live,
        "seen": (SeenCommit(label, b"s" * 32),),
        "newest_wal": "000000010000000000000003",
    }
    return Commit(**(values | changes))


def tombstone(label: BackupLabel, sequence: int) -> Tombstone:
    return Tombstone(label=label, sequence=sequence, at=label.moment, by="db1", reason="killed")
