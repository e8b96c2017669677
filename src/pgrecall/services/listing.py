"""What there is of a cluster: its backups with honest states, and everything known about one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pgrecall.config import ClusterSettings, Settings
from pgrecall.domain.label import BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.errors import ClusterNotFound, DamageFound, PgrecallError
from pgrecall.repository.catalog import BackupRecord, BackupState, Catalog
from pgrecall.repository.cluster import ClusterStore, SystemIdentity
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import Commit, CommitDetails
from pgrecall.repository.manifest import Manifest
from pgrecall.repository.marks import read_bad_marks
from pgrecall.repository.recovery import open_manifest
from pgrecall.services.context import open_cluster


class State(StrEnum):
    """BackupState, with damage found since; *proven* needs a drill, which this version does not have."""

    COMPLETE = "complete"
    STORED = "stored"
    DAMAGED = "damaged"
    UNFINISHED = "unfinished"
    ABORTED = "aborted"


@dataclass(frozen=True, kw_only=True)
class Backup:
    """One label. Sizes in bytes: `total` is what a restore writes, `new` what the run added to the repository."""

    label: BackupLabel
    state: State
    reason: str | None
    """Why it is not complete."""
    parent: BackupLabel | None = None
    started: datetime
    stopped: datetime | None = None
    """The earliest moment that it can recover."""
    timeline: int | None = None
    start_lsn: Lsn | None = None
    stop_lsn: Lsn | None = None
    version_num: int | None = None
    restorable: bool = False
    """It is committed: its WAL was there, too."""
    self_contained: bool = False
    """It brings its own WAL and recovers to its stop only."""
    total_bytes: int | None = None
    new_bytes: int | None = None
    files: int | None = None
    damaged_pages: int = 0
    authentic: bool = False
    """The key of this call proved who wrote its commit."""


@dataclass(frozen=True, kw_only=True)
class ClusterListing:
    """problem: why this cluster could not be read; the other fields are then empty."""

    cluster: str
    repository: str
    sealed: bool | None = None
    system_identifier: str | None = None
    version_num: int | None = None
    backups: tuple[Backup, ...] = ()
    problem: str | None = None
    problem_code: str | None = None


@dataclass(frozen=True, kw_only=True)
class BackupDetails:
    backup: Backup
    cluster: str
    commit: Commit | None
    details: CommitDetails | None
    manifest: Manifest | None
    bad_packs: tuple[PackRef, ...]
    warnings: tuple[str, ...]


def list_clusters(
    settings: Settings, clusters: Sequence[ClusterSettings], *, identity: str | None, environ: Mapping[str, str]
) -> list[ClusterListing]:
    """Every cluster's backups, newest first. A lone cluster's error is raised, among several it stands in its place."""
    if len(clusters) == 1:
        return [list_cluster(settings, clusters[0], identity=identity, environ=environ)]
    found = []
    for cluster in clusters:
        try:
            found.append(list_cluster(settings, cluster, identity=identity, environ=environ))
        except PgrecallError as error:
            place = settings.repository(cluster.repository).url
            found.append(
                ClusterListing(cluster=cluster.name, repository=place, problem=error.message, problem_code=error.code)
            )
    return found


def list_cluster(
    settings: Settings, cluster: ClusterSettings, *, identity: str | None, environ: Mapping[str, str]
) -> ClusterListing:
    store = open_cluster(settings, cluster, identity=identity, environ=environ)
    present = _systems(store)[-1:]
    backups = list_backups(store)
    version = max((each.version_num or 0 for each in backups), default=0) or (
        present[0].version_num if present else None
    )
    return ClusterListing(
        cluster=cluster.name,
        repository=store.storage.place,
        sealed=store.keys.sealed,
        system_identifier=str(present[0].system_identifier) if present else None,
        version_num=version,
        backups=backups,
    )


def _systems(store: ClusterStore) -> tuple[SystemIdentity, ...]:
    """None where the identity was lost: the backups are there nevertheless (`verify` tells of it)."""
    try:
        return store.identity().systems
    except (ClusterNotFound, DamageFound):
        if not any(True for _ in store.labels()):
            raise
        return ()


def list_backups(store: ClusterStore) -> tuple[Backup, ...]:
    """Newest first."""
    bad = read_bad_marks(store)
    return tuple(describe(record, bad) for record in sorted(Catalog(store).backups(), key=_by_label, reverse=True))


def show_backup(store: ClusterStore, label: str) -> BackupDetails:
    """BackupNotFound, ValueInvalid for an ambiguous beginning. What is damaged is told, not raised."""
    catalog = Catalog(store)
    record = catalog.find(label)
    bad = read_bad_marks(store)
    warnings: list[str] = []
    details = manifest = None
    if record.commit is not None:
        try:
            details = catalog.details(record.label)
            reader, used_second_copy = open_manifest(store, record.label, record.commit)
            manifest = reader.manifest
            warnings += [used_second_copy] if used_second_copy else []
        except PgrecallError as error:
            warnings.append(error.message)
    needed = tuple(pack for pack in sorted(bad) if record.commit and pack in record.commit.live)
    return BackupDetails(
        backup=describe(record, bad),
        cluster=store.name,
        commit=record.commit,
        details=details,
        manifest=manifest,
        bad_packs=needed,
        warnings=tuple(warnings),
    )


def describe(record: BackupRecord, bad: frozenset[PackRef]) -> Backup:
    state, reason = _state(record, bad)
    commit = record.commit
    if commit is None:
        return Backup(label=record.label, state=state, reason=reason, started=record.label.moment)
    return Backup(
        label=record.label,
        state=state,
        reason=reason,
        parent=commit.parent,
        started=commit.started,
        stopped=commit.stopped,
        timeline=commit.timeline,
        start_lsn=commit.start_lsn,
        stop_lsn=commit.stop_lsn,
        version_num=commit.version_num,
        restorable=record.restorable,
        self_contained=commit.self_contained,
        total_bytes=commit.size,
        new_bytes=commit.stored,
        files=commit.files,
        damaged_pages=commit.damaged_pages,
        authentic=record.authentic,
    )


def _state(record: BackupRecord, bad: frozenset[PackRef]) -> tuple[State, str | None]:
    """As the catalog judges it, unless packs that it needs are marked as damaged."""
    marked = sum(pack in record.commit.live for pack in bad) if record.commit else 0
    if marked:
        return State.DAMAGED, f"{marked} of its packs are marked as damaged"
    if record.state is BackupState.UNREADABLE:
        return State.DAMAGED, record.reason
    return State(record.state.value), record.reason


def _by_label(record: BackupRecord) -> BackupLabel:
    return record.label
