"""Owns the last step of a run: the commit, once all of its WAL is there, also when the WAL came late."""

from collections.abc import Iterator, Sequence

from pgrecall.clock import Clock
from pgrecall.domain.timeline import History
from pgrecall.domain.wal import segments_between
from pgrecall.errors import NotThere, ObjectExists, PgrecallError
from pgrecall.observe.reporter import Reporter
from pgrecall.repository.catalog import BackupState, Catalog
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.commit import Commit, CommitDetails
from pgrecall.repository.fileblock import StoredFile
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import PACKS, manifest_name
from pgrecall.repository.live import LivePacks
from pgrecall.repository.manifest import Manifest
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.services.archive.history import read_history
from pgrecall.services.backup.wal import missing, names_needed, stored_beside


def make_commit(manifest: Manifest, manifest_hash: bytes, live: LivePacks, stored: int, catalog: Catalog) -> Commit:
    """What the commit of a run says; everything but liveness and the catalog's memory comes from the manifest."""
    return Commit(
        label=manifest.label,
        sequence=catalog.next_sequence(),
        parent=manifest.parent,
        system_identifier=manifest.cluster.system_identifier,
        timeline=manifest.stop.timeline,
        version_num=manifest.cluster.version_num,
        start_lsn=manifest.start.lsn,
        stop_lsn=manifest.stop.lsn,
        wal_segment_size=manifest.cluster.wal_segment_size,
        started=manifest.start.time,
        stopped=manifest.stop.time,
        self_contained=not manifest.stop.archived,
        size=manifest.size,
        stored=stored,
        files=manifest.files,
        damaged_pages=len(manifest.damage),
        manifest=manifest_hash,
        live=live,
        seen=catalog.seen(),
        newest_wal=manifest.stop.wal,
    )


def wal_names(manifest: Manifest, history: History) -> list[str]:
    """History files and segments without which the backup cannot be recovered."""
    size = manifest.cluster.wal_segment_size
    segments = segments_between(manifest.stop.timeline, manifest.start.lsn, manifest.stop.lsn, size)
    return names_needed(list(segments), history, size)


def finish_stored_runs(store: ClusterStore, catalog: Catalog, *, clock: Clock, reporter: Reporter) -> list[str]:
    """Commit the runs whose files were stored but whose WAL came late; returns their labels.

    A run that cannot be finished now is left as it is, with a note.
    """
    finished = []
    for record in catalog.backups():
        if record.state is not BackupState.STORED or record.commit is not None:
            continue
        try:
            if _finish(store, catalog, ManifestReader.open(store, record.label), reporter):
                finished.append(str(record.label))
        except ObjectExists:
            continue  # somebody else finished it, or declared it dead
        except PgrecallError as error:
            reporter.note(f"{record.label} cannot be finished: {error}")
    return finished


def _finish(store: ClusterStore, catalog: Catalog, reader: ManifestReader, reporter: Reporter) -> bool:
    manifest = reader.manifest
    system = manifest.cluster.system_identifier
    try:
        history = known_history(store, system, manifest.stop.timeline)
    except NotThere:
        return False
    names = wal_names(manifest, history)
    left = missing(store, system, names)
    if left:
        reporter.note(f"{manifest.label} is stored, but still lacks its WAL: {left[0]}")
        return False
    beside = stored_beside(store, system, names)
    if beside:
        reporter.warn(f"{manifest.label} is stored, but whose {beside[0]} is in the archive cannot be told")
        return False
    stored = sum(info.size for info in store.list(f"{PACKS}{manifest.label}/"))
    manifest_hash = store.read(ObjectType.MANIFEST, manifest_name(manifest.label)).hash
    commit = make_commit(manifest, manifest_hash, live_packs(reader), stored, catalog)
    warnings = ("its WAL arrived after the run had stopped waiting",)
    catalog.commit(commit, CommitDetails(warnings=warnings, host=manifest.server.host))
    reporter.note(f"{manifest.label} is complete: its WAL has arrived")
    return True


def known_history(store: ClusterStore, system_identifier: int, timeline: int) -> History:
    """The stored history of a timeline; NotThere when it has not come."""
    if timeline == 1:
        return History.root(1)
    history = read_history(store, system_identifier, timeline)
    if history is None:
        raise NotThere(f"the history of timeline {timeline} is not stored")
    return history


def live_packs(reader: ManifestReader) -> LivePacks:
    """Every pack that a backup needs, as its maps tell."""
    live = LivePacks()
    for directory in reader.directories():
        live.add(pointer.pack_ref for pointer in directory.blocks)
        for block in reader.blocks(directory.path):
            live.add(block.packs())
            for nodes in reader.node_lists(_large(list(block))):
                live.add(nodes.packs())
    for run in reader.manifest.runs:
        if run.run.number in live.runs() or run.run == reader.manifest.label:
            live.add((run.table.pack_ref,))
    return live


def _large(files: Sequence[StoredFile]) -> Iterator[StoredFile]:
    return (file for file in files if file.node_list is not None)
