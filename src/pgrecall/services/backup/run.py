"""Owns the runbook of a backup: from the proof that session and files are one server to the commit."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator

from pgrecall.clock import Clock
from pgrecall.domain.label import BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History
from pgrecall.errors import ObjectExists, PgrecallError
from pgrecall.observe.reporter import Reporter
from pgrecall.postgres.backup_session import BackupSession, StartPoint, StopResult, WalHold, hold_wal
from pgrecall.postgres.datadir import list_data_directory
from pgrecall.postgres.listing import DirectoryItem, Listing
from pgrecall.postgres.server import prove_checkpoint
from pgrecall.repository.catalog import Catalog
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import CommitDetails, Tombstone
from pgrecall.repository.manifest import BackupFacts, DamagedPage
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.manifest_writer import ManifestWriter, WrittenManifest
from pgrecall.repository.marks import read_bad_marks
from pgrecall.repository.pack import PackNumbers
from pgrecall.services.backup import facts as convert
from pgrecall.services.backup.committing import finish_stored_runs, make_commit, wal_names
from pgrecall.services.backup.compare import find_parent
from pgrecall.services.backup.copying import Copied, copy_directories
from pgrecall.services.backup.damage import SuspectPages, Verdict
from pgrecall.services.backup.earlier import EarlierFiles
from pgrecall.services.backup.extras import CONTROL_DIRECTORY, store_extras
from pgrecall.services.backup.marks import find_lost_packs
from pgrecall.services.backup.parent import Trust
from pgrecall.services.backup.principals import Principals
from pgrecall.services.backup.request import BackupRequest, BackupResult, Warnings
from pgrecall.services.backup.source import Source, inspect_server
from pgrecall.services.backup.spans import KnownContents
from pgrecall.services.backup.wal import bring_wal, local_history, missing, refuse_foreign_wal, wait_for_wal
from pgrecall.services.backup.worker import CopyFacts, Shared


def run_backup(request: BackupRequest, store: ClusterStore, *, clock: Clock, reporter: Reporter) -> BackupResult:
    """Make one backup and commit it.

    Nothing of an earlier state needs repair, and whatever ends this run leaves the repository as good as before. Raise
    what stops the run; WalNotArchived leaves the run *stored*: its files are safe, its WAL has not come.
    """
    began = clock.monotonic()
    warnings = Warnings(reporter)
    catalog = Catalog(store)
    finish_stored_runs(store, catalog, clock=clock, reporter=reporter)
    with contextlib.ExitStack() as stack:
        # The very session that is proven to be this data directory's server makes the backup.
        conn = stack.enter_context(contextlib.closing(request.connect()))
        source = inspect_server(conn, request, store, clock, warnings)
        hold = stack.enter_context(_wal_held(request, source))
        session = stack.enter_context(BackupSession(conn))
        reporter.stage("checkpoint")
        start = session.start("pgrecall", fast=request.fast_checkpoint)
        prove_checkpoint(request.pgdata, start.lsn, clock)
        history = local_history(request.pgdata, start.timeline)
        parent, trust, why = find_parent(request, source, catalog, store, history, start.lsn, warnings)
        kind = request.kind(parent)
        label = store.claim_label(
            kind,
            clock.now(),
            socket.gethostname(),
            os.urandom(32),
            parents=[parent.manifest.label] if parent else (),
            start_lsn=start.lsn,
            timeline=start.timeline,
        )
        run = _Run(request, store, label, source, start, clock, reporter, warnings)
        with run.aborting(catalog):
            copied, suspects = run.copy(parent, trust, session.check)
            stop = session.stop()
            damage = run.judge(suspects.judge(start=start.lsn, stop=stop.lsn))
            written = run.write_manifest(stop, copied, damage)
            names = wal_names(written.manifest, history)
            if hold is not None:
                run.bring_wal(hold, stop, history, names)
        if hold is None:
            run.wait_for_wal(names)
            with run.aborting(catalog):
                run.refuse_foreign_wal(names)
    run.commit(catalog, written, began)
    return run.result(copied, written, why, began)


@contextlib.contextmanager
def _wal_held(request: BackupRequest, source: Source) -> Iterator[WalHold | None]:
    """Where the backup brings its own WAL: a slot that keeps it, made before the backup starts."""
    if not source.carries_wal:
        yield None
        return
    with hold_wal(request.connect()) as hold:
        yield hold


class _Run:
    """The steps of one claimed run."""

    def __init__(
        self,
        request: BackupRequest,
        store: ClusterStore,
        label: BackupLabel,
        source: Source,
        start: StartPoint,
        clock: Clock,
        reporter: Reporter,
        warnings: Warnings,
    ) -> None:
        self.request = request
        self.store = store
        self.label = label
        self.source = source
        self.start = start
        self.clock = clock
        self.reporter = reporter
        self.warnings = warnings
        self.numbers = PackNumbers()
        self.listing = Listing(b"")
        self.parent: ManifestReader | None = None

    @contextlib.contextmanager
    def aborting(self, catalog: Catalog) -> Iterator[None]:
        """Whatever ends the copy, the run is declared dead where the storage still answers."""
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(PgrecallError, OSError):
                catalog.abort(
                    Tombstone(
                        label=self.label,
                        sequence=catalog.next_sequence(),
                        at=self.clock.now(),
                        by=socket.gethostname(),
                        reason=_reason(error)[:500],
                    )
                )
            raise

    def copy(
        self, parent: ManifestReader | None, trust: Trust, check: Callable[[], None]
    ) -> tuple[Copied, SuspectPages]:
        facts = self.source.facts
        self.parent = parent
        self.reporter.stage("list files")
        self.listing = list_data_directory(
            self.request.pgdata,
            catalog_version=facts.catalog_version,
            clock=self.clock,
            config_files=self.source.config_files,
        )
        for note in self.listing.notes:
            text = f"{os.fsdecode(note.path)} {note.text}"
            if note.level == "warn":
                self.warnings.add(text)
            else:
                self.reporter.note(text)
        bad = read_bad_marks(self.store) | self._lost_packs(parent)
        self.manifest = ManifestWriter(
            self.store,
            self.label,
            self.numbers,
            parent=parent.manifest if parent else None,
            absent=bad,
            level=self.request.level,
        )
        suspects = SuspectPages()
        earlier = EarlierFiles(parent) if parent else None
        shared = Shared(
            facts=self._copy_facts(parent, trust, bad),
            manifest=self.manifest,
            principals=Principals(self.manifest),
            earlier=earlier,
            suspects=suspects,
            known=KnownContents(),
            reporter=self.reporter,
            clock=self.clock,
        )
        self.reporter.stage("copy files", self.listing.total_bytes)
        copied = copy_directories(
            _own_directories(self.listing),
            shared,
            self.store,
            self.label,
            self.numbers,
            jobs=self.request.jobs,
            level=self.request.level,
            check=check,
            kept=CONTROL_DIRECTORY,
            last=lambda worker, writer: store_extras(worker, shared, self.listing, writer),
        )
        for reason in (earlier.unreadable if earlier else [])[:20]:
            self.warnings.add(f"the parent's map cannot be read: {reason}; what it describes is stored anew")
        for path, offset in copied.counts.unexplained[:20]:
            self.warnings.add(
                f"{path} differs from the parent at byte {offset} although no page LSN says so; stored anew"
            )
        return copied, suspects

    def _lost_packs(self, parent: ManifestReader | None) -> frozenset[PackRef]:
        record = Catalog(self.store).get(parent.manifest.label) if parent else None
        if record is None or record.commit is None:
            return frozenset()
        lost = find_lost_packs(self.store, record.commit.live)
        if lost:
            self.warnings.add(f"{len(lost)} packs that {record.label} needs are gone: what they held is stored anew")
        return lost

    def _copy_facts(self, parent: ManifestReader | None, trust: Trust, bad: frozenset[PackRef]) -> CopyFacts:
        facts = self.source.facts
        return CopyFacts(
            pgdata=self.request.pgdata,
            id_key=self.store.keys.id_key,
            page_size=facts.page_size,
            relation_segment_pages=facts.relation_segment_pages,
            checksums=facts.data_checksums,
            parent_start=parent.manifest.start.lsn if parent else Lsn(0),
            trust=trust,
            bad_packs=bad,
        )

    def judge(self, verdict: Verdict) -> tuple[DamagedPage, ...]:
        for suspect in verdict.warnings[:20]:
            self.warnings.add(
                f"free space map: {os.fsdecode(suspect.path)} block {suspect.block}: {suspect.reason}; harmless"
            )
        damage = [DamagedPage(each.path, each.block, each.reason) for each in verdict.corrupt]
        if verdict.uncounted:
            self.warnings.add(f"{verdict.uncounted} more suspicious pages were not looked at one by one")
        for page in damage[:20]:
            self.warnings.add(f"corrupt page in the source: {os.fsdecode(page.path)} block {page.block}: {page.reason}")
        return tuple(damage)

    def write_manifest(self, stop: StopResult, copied: Copied, damage: tuple[DamagedPage, ...]) -> WrittenManifest:
        self.reporter.stage("write manifest")
        source = self.source
        facts = BackupFacts(
            label=self.label,
            parent=self.parent.manifest.label if self.parent else None,
            cluster=convert.cluster_facts(source.facts, source.control),
            server=convert.source_server(source.identity),
            start=convert.start_point(self.start),
            stop=convert.stop_point(stop, archived=not source.carries_wal),
            backup_label=stop.backup_label,
            tablespace_map=stop.tablespace_map,
            tablespaces=convert.tablespaces(self.listing),
            links=convert.links(self.listing),
            outside=convert.outside_files(self.listing),
            damage=damage,
        )
        return self.manifest.finish(facts, copied.packs)

    def bring_wal(self, hold: WalHold, stop: StopResult, history: History, names: list[str]) -> None:
        """Store all WAL that the backup needs; nobody else will."""
        hold.check(needed_from=self.start.lsn)
        facts = self.source.facts
        bring_wal(
            self.store,
            pgdata=self.request.pgdata,
            state_dir=self.request.state_dir,
            start=self.start,
            stop=stop,
            history=history,
            system_identifier=facts.system_identifier,
            major=facts.version_num // 10000,
            segment_size=facts.wal_segment_size,
            clock=self.clock,
            reporter=self.reporter,
        )
        hold.check()  # else a file may have been recycled while it was read
        left = missing(self.store, facts.system_identifier, names)
        assert not left, f"stored, but not there: {left}"

    def wait_for_wal(self, names: list[str]) -> None:
        """The backup is complete only when all of its WAL is in this copy."""
        wait_for_wal(
            self.store,
            system_identifier=self.source.facts.system_identifier,
            names=names,
            timeout_seconds=self.request.archive_wait.total_seconds(),
            clock=self.clock,
            reporter=self.reporter,
        )

    def refuse_foreign_wal(self, names: list[str]) -> None:
        system = self.source.facts.system_identifier
        refuse_foreign_wal(self.store, pgdata=self.request.pgdata, system_identifier=system, names=names)

    def commit(self, catalog: Catalog, written: WrittenManifest, began: float) -> None:
        self.reporter.stage("commit")
        catalog.refresh()
        commit = make_commit(written.manifest, written.hash, written.live, written.stored, catalog)
        details = CommitDetails(
            warnings=tuple(self.warnings.texts),
            damage=tuple(
                {"path": os.fsdecode(page.path), "block": page.block, "reason": page.reason}
                for page in written.manifest.damage
            ),
            host=socket.gethostname(),
            took=round((self.clock.monotonic() - began) * 1000),
            settings={"jobs": self.request.jobs, "level": self.request.level},
        )
        try:
            catalog.commit(commit, details)
        except ObjectExists:
            catalog.refresh()
            found = catalog.get(self.label)
            if found is None or found.commit is None:
                raise  # somebody declared this run dead
            self.reporter.note(f"{self.label} was finished by another run")

    def result(self, copied: Copied, written: WrittenManifest, why: tuple[str, ...], began: float) -> BackupResult:
        manifest = written.manifest
        return BackupResult(
            label=manifest.label,
            parent=manifest.parent,
            why=why,
            start_lsn=manifest.start.lsn,
            stop_lsn=manifest.stop.lsn,
            timeline=manifest.stop.timeline,
            started=manifest.start.time,
            stopped=manifest.stop.time,
            took=self.clock.monotonic() - began,
            size=manifest.size,
            read=copied.counts.read,
            unchanged=copied.counts.unchanged,
            stored=written.stored,
            files=manifest.files,
            packs=len(written.packs),
            self_contained=self.source.carries_wal,
            damage=manifest.damage,
            warnings=tuple(self.warnings.texts),
            wal=(manifest.start.wal, manifest.stop.wal),
        )


def _reason(error: BaseException) -> str:
    """What `list` shows of a run that ended early: Ctrl-C and SIGTERM come without a text."""
    name = type(error).__name__
    if isinstance(error, Exception):
        return f"{name}: {error}" if str(error) else name
    return {"KeyboardInterrupt": "interrupted", "Terminated": "terminated"}.get(name, name)


def _own_directories(listing: Listing) -> list[DirectoryItem]:
    """What lies behind a link that is kept as a link (pg_wal) is made anew by a restore, not stored."""
    links = tuple(link.path for link in listing.links)
    return [
        each
        for each in listing.directories
        if each.path not in links and not each.path.startswith(tuple(link + b"/" for link in links))
    ]
