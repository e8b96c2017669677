"""Owns the dry run: what a backup begun now would compare with and read. It writes nothing."""

import contextlib
from dataclasses import dataclass

from pgrecall.clock import Clock
from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.observe.reporter import Reporter
from pgrecall.postgres.datadir import list_data_directory
from pgrecall.postgres.pgwal import wal_tail
from pgrecall.repository.catalog import Catalog
from pgrecall.repository.cluster import ClusterStore
from pgrecall.services.backup.compare import find_parent
from pgrecall.services.backup.request import BackupRequest, Warnings
from pgrecall.services.backup.source import inspect_server
from pgrecall.services.backup.wal import local_history


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPreview:
    """Sizes in bytes; free is None where the storage cannot tell."""

    kind: BackupKind
    parent: BackupLabel | None
    why: tuple[str, ...]
    files: int
    size: int
    self_contained: bool
    place: str
    free: int | None
    warnings: tuple[str, ...]


def preview_backup(request: BackupRequest, store: ClusterStore, *, clock: Clock, reporter: Reporter) -> BackupPreview:
    warnings = Warnings(reporter)
    with contextlib.closing(request.connect()) as conn:
        source = inspect_server(conn, request, store, clock, warnings)
        tail = wal_tail(conn)
    history = local_history(request.pgdata, source.facts.timeline)
    parent, _, why = find_parent(request, source, Catalog(store), store, history, tail.inserted, warnings)
    listing = list_data_directory(
        request.pgdata,
        catalog_version=source.facts.catalog_version,
        clock=clock,
        config_files=source.config_files,
    )
    return BackupPreview(
        kind=request.kind(parent),
        parent=parent.manifest.label if parent else None,
        why=why,
        files=listing.file_count,
        size=listing.total_bytes,
        self_contained=source.carries_wal,
        place=store.storage.place,
        free=store.storage.free_bytes(),
        warnings=tuple(warnings.texts),
    )
