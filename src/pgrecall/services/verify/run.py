"""Owns the runbook of a verification: read every byte once, then prove that every backup can be assembled."""

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pgrecall.clock import Clock
from pgrecall.domain.label import BackupLabel
from pgrecall.errors import BackupNotFound, DamageFound, KeyProblem
from pgrecall.observe.reporter import Reporter
from pgrecall.repository import layout
from pgrecall.repository.catalog import BackupRecord, Catalog
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.header import ObjectType
from pgrecall.repository.keyring import RootKey, unwrap_root
from pgrecall.services.verify.archive import ArchiveCheck
from pgrecall.services.verify.backups import BackupProof
from pgrecall.services.verify.marks import mark_bad
from pgrecall.services.verify.objects import kind_of, pack_of
from pgrecall.services.verify.report import BackupReport, Flaws, Kind, VerifyReport
from pgrecall.services.verify.shared import SharedObjects
from pgrecall.services.verify.sweep import SAMPLED, Swept, packs_in, sweep
from pgrecall.storage.base import ObjectInfo
from pgrecall.storage.counted import CountedStorage


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """label: only this backup and what it needs (a label, the beginning of one, `latest`). sample: the share of packs
    and WAL segments to read, None for all. secrets: identity files or passphrases, which open the objects above the
    cluster's own key. mark: give damaged packs a bad mark. seed: of the sample; None for another one each time."""

    label: str | None = None
    sample: float | None = None
    jobs: int = 2
    secrets: Sequence[str] = ()
    mark: bool = True
    seed: int | None = None


def verify(request: VerifyRequest, store: ClusterStore, *, clock: Clock, reporter: Reporter) -> VerifyReport:
    """Read and check what is stored. What is wrong is in the report; raised is only what stops the work as a whole."""
    began = clock.monotonic()
    counted = CountedStorage(store.storage)
    store = store.on(counted)
    findings = Flaws()
    catalog = Catalog(store)
    records = _chosen_backups(catalog, request.label)
    # Listed after the commits were read: what a commit names was there before.
    listed = list(store.list(""))
    shared = SharedObjects(store, request.secrets, findings)
    root = root_of(store, request.secrets)
    shared.check(root)
    wanted = _wanted(request, store, listed, records, findings)
    swept = sweep(store, listed, findings, chosen=wanted, root=root, jobs=request.jobs, reporter=reporter)
    _miss_objects(store, catalog, records, swept, findings, whole=request.label is None)
    archive = ArchiveCheck(store, swept, findings)
    if request.label is None:
        archive.check([record.commit for record in records if record.commit])
    proof = BackupProof(store, swept, findings, jobs=request.jobs, reporter=reporter)
    reports = [_with_wal(proof.prove(record), archive.check_backup(record)) for record in records]
    _name_backups(catalog, findings)
    marked = _mark(request, store, swept, findings, clock, reporter)
    return VerifyReport(
        cluster=store.name,
        repository=store.storage.place,
        sealed=store.keys.sealed,
        authentic=store.keys.mac_key is not None,
        backup=records[0].label if request.label is not None else None,
        sample=request.sample,
        objects=swept.objects + shared.objects,
        bytes_read=swept.bytes_read + shared.bytes_read,
        left_out=len(swept.left_out) if request.label is None else 0,
        bytes_read_again=max(counted.bytes_read - swept.bytes_read - shared.bytes_read, 0),
        took=clock.monotonic() - began,
        unopened=tuple(shared.unopened + swept.unopened),
        findings=findings.all(),
        backups=tuple(reports),
        marked=marked,
    )


def root_of(store: ClusterStore, secrets: Sequence[str]) -> RootKey | None:
    """The root key, if one of the secrets opens it."""
    for secret in secrets if store.keys.sealed else ():
        with contextlib.suppress(DamageFound, KeyProblem):
            return unwrap_root(store.storage, secret, store.scope.repository)
    return None


def _chosen_backups(catalog: Catalog, label: str | None) -> list[BackupRecord]:
    if label is None:
        return list(catalog.restorable())
    record = catalog.find(label)
    if record.commit is None:
        why = f"it is {record.state}: {record.reason}"
        raise BackupNotFound(f"{record.label} is no backup that could be verified: {why}", hint="pgrecall verify")
    return [record]


def _wanted(
    request: VerifyRequest,
    store: ClusterStore,
    listed: Sequence[ObjectInfo],
    records: Sequence[BackupRecord],
    findings: Flaws,
) -> Callable[[str, ObjectType], bool]:
    """Which objects to read."""
    only: set[str] | None = None
    if request.label is not None:
        only = set()
        for record in records:
            assert record.commit is not None
            only |= {layout.pack_name(BackupLabel.from_number(run), seq) for run, seq in record.commit.live}
            only |= {layout.claim_name(record.label), layout.manifest_name(record.label)}
            only |= {layout.commit_name(record.label)}
            archive = ArchiveCheck(store, Swept(), findings)
            only |= set(archive.needed_by(record.commit))
        only |= {info.key for info in listed if info.key.startswith((layout.IDENTITY, layout.CLUSTER_KEYS))}
    draw = random.Random(request.seed)
    share = request.sample

    def chosen(name: str, kind: ObjectType) -> bool:
        if only is not None and name not in only:
            return False
        return share is None or kind not in SAMPLED or draw.random() < share

    return chosen


def _miss_objects(
    store: ClusterStore,
    catalog: Catalog,
    records: Sequence[BackupRecord],
    swept: Swept,
    findings: Flaws,
    *,
    whole: bool,
) -> None:
    """What is not there although something else says that it was."""
    lost: set[PackRef] = set()
    for record in records:
        assert record.commit is not None
        for pack in record.commit.live:
            name = layout.pack_name(BackupLabel.from_number(pack.run), pack.pack)
            if not swept.has(name):
                lost.add(pack)
                findings.add(Kind.MISSING, name, "is not there")
    swept.chunks.set_unsound(lost)
    swept.chunks.set_unsound(packs_in(swept.unsound))
    numbers = {layout.parse_numbered_name(name) for name in swept.sizes if name.startswith(layout.IDENTITY)}
    for number in range(max((each for each in numbers if each is not None), default=0) + 1):
        if number not in numbers:
            findings.add(Kind.MISSING, layout.identity_name(number), "is not there")
    if store.keys.sealed and not swept.has(layout.data_key_name(store.keys.generation)):
        text = "is not there: without it only hosts that have the cluster's key file can read anything"
        findings.add(Kind.MISSING, layout.data_key_name(store.keys.generation), text)
    if whole:
        _miss_commits(catalog, swept, findings)


def _miss_commits(catalog: Catalog, swept: Swept, findings: Flaws) -> None:
    """Later commits name the ones that they saw; the newest one's loss looks like a run that never ended."""
    for record in catalog.restorable():
        assert record.commit is not None
        for seen in record.commit.seen:
            found = catalog.get(seen.label)
            name = layout.commit_name(seen.label)
            if found is None or (found.commit is None and not swept.has(name)):
                findings.add(Kind.MISSING, name, f"is not there, but {record.label} saw it", [seen.label])
            elif found.commit is not None and found.hash != seen.hash:
                findings.add(Kind.DAMAGED, name, f"is another one than {record.label} saw", [seen.label])
    for record in catalog.backups():
        name, claim = layout.commit_name(record.label), layout.claim_name(record.label)
        if not swept.has(claim):
            findings.add(Kind.MISSING, claim, "is not there")
        if not swept.has(name):
            text = "is not there: the run is at work, waits for its WAL or was killed, or its commit was lost"
            findings.add(Kind.WARNING if swept.has(layout.manifest_name(record.label)) else Kind.NOTE, name, text)


def _with_wal(report: BackupReport, problems: tuple[str, ...]) -> BackupReport:
    if not problems:
        return report
    return replace(report, readable=False, problems=(*report.problems, *problems))


def _name_backups(catalog: Catalog, findings: Flaws) -> None:
    """Which committed backups need what is damaged or lost."""
    for finding in findings.all():
        if finding.kind not in (Kind.DAMAGED, Kind.MISSING, Kind.UNREADABLE):
            continue
        labels: list[BackupLabel] = []
        kind = kind_of(finding.object)
        if kind is ObjectType.PACK and (pack := pack_of(finding.object)) is not None:
            labels = [record.label for record in catalog.needing(pack)]
        elif (place := layout.parse_backup_name(finding.object)) is not None and place[1] != "claim":
            labels = [place[0]]
        findings.add(finding.kind, finding.object, finding.problem, labels)


def _mark(
    request: VerifyRequest,
    store: ClusterStore,
    swept: Swept,
    findings: Flaws,
    clock: Clock,
    reporter: Reporter,
) -> tuple[str, ...]:
    """Bad marks for packs that are damaged or lost; a pack that the storage did not hand over may be sound."""
    marked = []
    for finding in findings.all():
        pack = pack_of(finding.object) if kind_of(finding.object) is ObjectType.PACK else None
        if pack is None or finding.kind not in (Kind.DAMAGED, Kind.MISSING):
            continue
        finding.marked = swept.has(layout.bad_mark_name(BackupLabel.from_number(pack.run), pack.pack))
        if not request.mark or finding.marked or store.keys.mac_key is None:
            continue
        reason = f"verify: {finding.kind.value}: {finding.problem}"
        name = mark_bad(store, pack, reason, at=clock.now(), reporter=reporter)
        if name is not None:
            finding.marked = True
            marked.append(name)
    return tuple(marked)
