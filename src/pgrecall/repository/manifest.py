"""Owns the manifest: what a backup is, and where the maps of its files lie (format.md §5)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.repository.columns import ChunkRef

Scalar = str | int | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """The server's pg_control and settings at the backup. `other` holds whatever else was noted, by name."""

    system_identifier: int
    postgres_version: str
    version_num: int
    control_version: int
    catalog_version: int
    page_size: int
    relation_segment_pages: int
    wal_page_size: int
    wal_segment_size: int
    checksums: bool
    wal_log_hints: bool
    wal_level: str
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    track_commit_timestamp: bool = False
    other: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceServer:
    """Which server this was: with what `ClusterFacts` holds, all that rule 5 compares with the next run's.

    inode and device are of the data directory, checksum_version is pg_control's (0: none).
    """

    host: str
    data_directory: str
    device: int
    inode: int
    postmaster_start: datetime | None
    checksum_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Where a backup starts or stops; `wal` is the segment's name; `archived` is told of stops only."""

    lsn: Lsn
    timeline: int
    time: datetime
    wal: str
    archived: bool = False


@dataclass(frozen=True, slots=True)
class Tablespace:
    """oid as in pg_tblspc; path where it lay on the source, in_place where it is a plain directory."""

    oid: int
    path: bytes
    in_place: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link below the data directory that a restore makes again (only `pg_wal`)."""

    path: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class OutsideFile:
    """A configuration file that lay elsewhere: the setting that names it, where it was, its name below `OUTSIDE`."""

    setting: str
    source: bytes
    path: bytes


@dataclass(frozen=True, slots=True)
class DamagedPage:
    """A page that was corrupt in the source: block counts pages of the relation's file."""

    path: bytes
    block: int
    reason: str


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One directory; path `b""` is the data directory. files and size (bytes) are of the files directly in it."""

    path: bytes
    mode: int
    owner: int
    group: int
    files: int
    size: int
    blocks: tuple[ChunkRef, ...]


@dataclass(frozen=True, slots=True)
class PackKeyhole:
    """What opens a pack besides the cluster's keys."""

    seq: int
    generation: int
    flags: int
    salt: bytes


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run whose packs this backup needs: where its run table lies, and how to open the pack that holds the table."""

    run: BackupLabel
    packs: int
    table: ChunkRef
    pack: PackKeyhole


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFacts:
    """What the backup session knows at its end; the manifest writer adds the rest."""

    label: BackupLabel
    parent: BackupLabel | None
    cluster: ClusterFacts
    server: SourceServer
    start: Boundary
    stop: Boundary
    backup_label: bytes
    tablespace_map: bytes
    tablespaces: tuple[Tablespace, ...] = ()
    links: tuple[Link, ...] = ()
    outside: tuple[OutsideFile, ...] = ()
    damage: tuple[DamagedPage, ...] = ()

    @property
    def kind(self) -> BackupKind:
        return self.label.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(BackupFacts):
    principals: tuple[str, ...]
    directories: tuple[DirectoryEntry, ...]
    runs: tuple[RunEntry, ...]

    @property
    def files(self) -> int:
        return sum(directory.files for directory in self.directories)

    @property
    def size(self) -> int:
        """Bytes that a restore writes."""
        return sum(directory.size for directory in self.directories)
