"""Owns the runbook of a backup: from the proof that session and files are one server to the commit."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pgrecall.clock import Clock
from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History
from pgrecall.errors import PgrecallError, Refused, WrongCluster
from pgrecall.observe.reporter import Reporter
from pgrecall.postgres.backup_session import BackupSession, StartPoint, StopResult, WalHold, hold_wal
from pgrecall.postgres.connection import Connection
from pgrecall.postgres.control import ControlFile, read_control
from pgrecall.postgres.datadir import list_data_directory
from pgrecall.postgres.listing import Listing
from pgrecall.postgres.requirements import CommandKind, classify_command
from pgrecall.postgres.server import (
    ServerFacts,
    ServerIdentity,
    identify,
    prove_checkpoint,
    prove_same_server,
    read_config_files,
    read_facts,
)
from pgrecall.repository.catalog import BackupRecord, Catalog
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import Commit, CommitDetails, Tombstone
from pgrecall.repository.manifest import BackupFacts, DamagedPage
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.manifest_writer import ManifestWriter, WrittenManifest
from pgrecall.repository.pack import PackNumbers
from pgrecall.services.backup import facts as convert
from pgrecall.services.backup.copying import Copied, copy_directories
from pgrecall.services.backup.damage import SuspectPages, Verdict
from pgrecall.services.backup.earlier import EarlierFiles
from pgrecall.services.backup.extras import store_extras
from pgrecall.services.backup.marks import read_bad_marks
from pgrecall.services.backup.parent import Candidate, Trust, choose_parent, judge_trust
from pgrecall.services.backup.principals import Principals
from pgrecall.services.backup.spans import KnownContents
from pgrecall.services.backup.wal import bring_wal, local_history, missing, names_needed, wait_for_wal
from pgrecall.services.backup.worker import CopyFacts, Shared

NO_TRUST = Trust(False, "there is no parent")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRequest:
    """What the caller wants. `connect` opens a session with the server; `full` compares with nothing."""

    pgdata: Path
    connect: Callable[[], Connection]
    state_dir: Path
    full: bool = False
    jobs: int = 2
    level: int = 3
    fast_checkpoint: bool = True
    archive_wait: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupResult:
    """What became of a run. Sizes in bytes; `took` in seconds."""

    label: BackupLabel
    parent: BackupLabel | None
    why: tuple[str, ...]
    start_lsn: Lsn
    stop_lsn: Lsn
    timeline: int
    started: datetime
    stopped: datetime
    took: float
    size: int
    read: int
    unchanged: int
    stored: int
    files: int
    packs: int
    self_contained: bool
    damage: tuple[DamagedPage, ...] = ()
    warnings: tuple[str, ...] = ()
    wal: tuple[str, str] = field(default=("", ""))
    """First and last segment that a restore needs."""

    @property
    def state(self) -> str:
        return "stored" if self.damage else "complete"


@dataclass(frozen=True, slots=True)
class Source:
    """The server as it was found, and how its WAL reaches the repository."""

    facts: ServerFacts
    identity: ServerIdentity
    control: ControlFile
    config_files: tuple[tuple[str, str], ...]
    carries_wal: bool


@dataclass(slots=True)
class _Warnings:
    reporter: Reporter
    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.texts.append(text)
        self.reporter.warn(text)


def run_backup(request: BackupRequest, store: ClusterStore, *, clock: Clock, reporter: Reporter) -> BackupResult:
    """Make one backup and commit it.

    Nothing of an earlier state needs repair, and whatever ends this run leaves the repository as good as before. Raise
    what stops the run; WalNotArchived leaves the run *stored*: its files are safe, its WAL has not come.
    """
    began = clock.monotonic()
    warnings = _Warnings(reporter)
    catalog = Catalog(store)
    with contextlib.closing(request.connect()) as conn:
        source = inspect_server(conn, request, store, clock, warnings)
    with _wal_held(request, source) as hold, BackupSession(request.connect()) as session:
        reporter.stage("checkpoint")
        start = session.start("pgrecall", fast=request.fast_checkpoint)
        prove_checkpoint(request.pgdata, start.lsn, clock)
        history = local_history(request.pgdata, start.timeline)
        parent, trust, why = find_parent(request, source, catalog, store, history, start)
        kind = BackupKind.INCR if parent is not None else BackupKind.FULL
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
            if hold is not None:
                hold.check(needed_from=start.lsn)
            damage = run.judge(suspects.judge(start=start.lsn, stop=stop.lsn))
            written = run.write_manifest(stop, copied, damage)
        names = names_needed(
            convert.wal_span(start, stop, source.facts.wal_segment_size), history, source.facts.wal_segment_size
        )
        run.gather_wal(stop, history, names)
    commit_hash = run.commit(catalog, stop, copied, written, damage, began)
    assert commit_hash
    return run.result(stop, copied, written, damage, why, names, began)


def inspect_server(
    conn: Connection, request: BackupRequest, store: ClusterStore, clock: Clock, warnings: _Warnings
) -> Source:
    """Facts of the server whose files we read, proven to be the server we talk to and the cluster we store."""
    prove_same_server(conn, request.pgdata, clock)
    facts = read_facts(conn)
    if facts.in_recovery:
        raise Refused(
            "this server is a standby; backups from a standby are not supported yet",
            hint="Run the backup on the primary.",
        )
    refuse_other_cluster(facts, store)
    command = classify_command(facts.setting("archive_command"))
    ours = facts.archiving and command is CommandKind.OURS and not facts.setting("archive_library")
    lacking = facts.rights.missing_for_backup(carry_wal=not ours)
    if lacking:
        raise Refused(
            f"role {facts.rights.role} lacks what a backup needs: {', '.join(lacking)}",
            hint="pgrecall init --print sql shows the statements.",
        )
    if not ours and facts.archiving:
        warnings.add(
            f"WAL is archived elsewhere ({command.value} archive_command): "
            "this backup brings its own WAL and can be recovered only to its own end"
        )
    control = read_control(request.pgdata, clock=clock)
    identity = identify(conn, request.pgdata, facts=facts)
    return Source(facts, identity, control, read_config_files(conn, facts), carries_wal=not ours)


def refuse_other_cluster(facts: ServerFacts, store: ClusterStore) -> None:
    known = store.identity().systems
    if any(each.system_identifier == facts.system_identifier for each in known):
        return
    newest = known[-1].system_identifier if known else "none yet"
    raise WrongCluster(
        f"this server is system {facts.system_identifier} ({facts.version}), '{store.name}' is {newest}",
        hint=f"After pg_upgrade: pgrecall init -c {store.name} --new-identity; else give this cluster another name.",
        system_identifier=str(facts.system_identifier),
    )


def find_parent(
    request: BackupRequest,
    source: Source,
    catalog: Catalog,
    store: ClusterStore,
    history: History,
    start: StartPoint,
) -> tuple[ManifestReader | None, Trust, tuple[str, ...]]:
    """The backup to compare with, how far its page LSNs prove anything, and why."""
    if request.full:
        return None, NO_TRUST, ("a full backup was asked for",)
    records = [each for each in catalog.backups() if each.commit is not None]
    choice = choose_parent(
        [_candidate(each) for each in records],
        system_identifier=source.facts.system_identifier,
        history=history,
        start_lsn=start.lsn,
    )
    if choice.parent is None:
        return None, NO_TRUST, choice.reasons
    record = next(each for each in records if each.label == choice.parent)
    assert record.commit is not None
    reader = ManifestReader.open(store, record.label, record.commit.manifest)
    before = convert.stored_identity(reader.manifest)
    difference = ", ".join(before.differences(source.identity)) if before else "the parent's server is not known"
    trust = judge_trust(
        same_server=not difference,
        difference=f"changed since the parent: {difference}",
        hints_logged_then=before is not None and before.lsn_proves_unchanged,
        hints_logged_now=source.identity.lsn_proves_unchanged,
    )
    return reader, trust, (*choice.reasons, trust.reason)


def _candidate(record: BackupRecord) -> Candidate:
    commit = record.commit
    assert commit is not None
    return Candidate(
        label=commit.label,
        complete=commit.damaged_pages == 0,
        system_identifier=commit.system_identifier,
        timeline=commit.timeline,
        stop_lsn=commit.stop_lsn,
    )


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
        warnings: _Warnings,
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
                        reason=f"{type(error).__name__}: {error}"[:500],
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
        bad = read_bad_marks(self.store)
        self.manifest = ManifestWriter(
            self.store,
            self.label,
            self.numbers,
            parent=parent.manifest if parent else None,
            absent=bad,
            level=self.request.level,
        )
        suspects = SuspectPages()
        shared = Shared(
            facts=self._copy_facts(parent, trust, bad),
            manifest=self.manifest,
            principals=Principals(self.manifest),
            earlier=EarlierFiles(parent) if parent else None,
            suspects=suspects,
            known=KnownContents(),
            reporter=self.reporter,
            clock=self.clock,
        )
        self.reporter.stage("copy files", self.listing.total_bytes)
        copied = copy_directories(
            self.listing.directories,
            shared,
            self.store,
            self.label,
            self.numbers,
            jobs=self.request.jobs,
            level=self.request.level,
            check=check,
            last=lambda worker, writers: store_extras(worker, shared, self.listing, writers),
        )
        for path, offset in copied.counts.unexplained[:20]:
            self.warnings.add(
                f"{path} differs from the parent at byte {offset} although no page LSN says so; stored anew"
            )
        return copied, suspects

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
                f"free space map {os.fsdecode(suspect.path)} block {suspect.block}: {suspect.reason}; the server mends it"
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
            cluster=convert.cluster_facts(source.facts, source.control, source.identity),
            server=convert.server_facts(source.identity),
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

    def gather_wal(self, stop: StopResult, history: History, names: list[str]) -> None:
        """The backup is complete only when all of its WAL is in this copy."""
        facts = self.source.facts
        if self.source.carries_wal:
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
            left = missing(self.store, facts.system_identifier, names)
            assert not left, f"stored, but not there: {left}"
            return
        wait_for_wal(
            self.store,
            system_identifier=facts.system_identifier,
            names=names,
            timeout_seconds=self.request.archive_wait.total_seconds(),
            clock=self.clock,
            reporter=self.reporter,
        )

    def commit(
        self,
        catalog: Catalog,
        stop: StopResult,
        copied: Copied,
        written: WrittenManifest,
        damage: tuple[DamagedPage, ...],
        began: float,
    ) -> bytes:
        self.reporter.stage("commit")
        catalog.refresh()
        commit = Commit(
            label=self.label,
            sequence=catalog.next_sequence(),
            parent=self.parent.manifest.label if self.parent else None,
            system_identifier=self.source.facts.system_identifier,
            timeline=stop.timeline,
            version_num=self.source.facts.version_num,
            start_lsn=self.start.lsn,
            stop_lsn=stop.lsn,
            wal_segment_size=self.source.facts.wal_segment_size,
            started=self.start.time,
            stopped=stop.time,
            self_contained=self.source.carries_wal,
            size=written.manifest.size,
            stored=written.stored,
            files=written.manifest.files,
            damaged_pages=len(damage),
            manifest=written.hash,
            live=written.live,
            seen=catalog.seen(),
            newest_wal=stop.wal,
        )
        details = CommitDetails(
            warnings=tuple(self.warnings.texts),
            damage=tuple(
                {"path": os.fsdecode(page.path), "block": page.block, "reason": page.reason} for page in damage
            ),
            host=socket.gethostname(),
            took=round((self.clock.monotonic() - began) * 1000),
            settings={"jobs": self.request.jobs, "level": self.request.level},
        )
        return catalog.commit(commit, details)

    def result(
        self,
        stop: StopResult,
        copied: Copied,
        written: WrittenManifest,
        damage: tuple[DamagedPage, ...],
        why: tuple[str, ...],
        names: list[str],
        began: float,
    ) -> BackupResult:
        segments = [name for name in names if len(name) == 24]
        return BackupResult(
            label=self.label,
            parent=self.parent.manifest.label if self.parent else None,
            why=why,
            start_lsn=self.start.lsn,
            stop_lsn=stop.lsn,
            timeline=stop.timeline,
            started=self.start.time,
            stopped=stop.time,
            took=self.clock.monotonic() - began,
            size=written.manifest.size,
            read=copied.counts.read,
            unchanged=copied.counts.unchanged,
            stored=written.stored,
            files=written.manifest.files,
            packs=len(written.packs),
            self_contained=self.source.carries_wal,
            damage=damage,
            warnings=tuple(self.warnings.texts),
            wal=(segments[0], segments[-1]),
        )
