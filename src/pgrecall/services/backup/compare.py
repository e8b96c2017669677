"""Owns opening the backup to compare with, and the judgement how far its page LSNs prove anything."""

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History
from pgrecall.errors import DamageFound, ObjectMissing
from pgrecall.repository.catalog import BackupRecord, Catalog
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.recovery import open_manifest
from pgrecall.services.backup import facts as convert
from pgrecall.services.backup.parent import Candidate, Trust, choose_parent, judge_trust
from pgrecall.services.backup.request import BackupRequest, Warnings
from pgrecall.services.backup.source import Source

NO_TRUST = Trust(False, "there is no parent")


def find_parent(
    request: BackupRequest,
    source: Source,
    catalog: Catalog,
    store: ClusterStore,
    history: History,
    start_lsn: Lsn,
    warnings: Warnings,
) -> tuple[ManifestReader | None, Trust, tuple[str, ...]]:
    """The backup to compare with, how far its page LSNs prove anything, and why.

    A backup whose manifest cannot be read any more is passed over, with a warning.
    """
    if request.independent:
        return None, NO_TRUST, ("an independent backup was asked for: nothing stored earlier is used",)
    records = {each.label: each for each in catalog.backups() if each.commit is not None}
    reader = None
    while reader is None:
        choice = choose_parent(
            [_candidate(each) for each in records.values()],
            system_identifier=source.facts.system_identifier,
            history=history,
            start_lsn=start_lsn,
        )
        if choice.parent is None:
            return None, NO_TRUST, choice.reasons
        record = records.pop(choice.parent)
        assert record.commit is not None
        try:
            reader, second_copy = open_manifest(store, record.label, record.commit)
            if second_copy:
                warnings.add(second_copy)
        except (DamageFound, ObjectMissing) as error:
            warnings.add(f"{record.label} cannot be compared with: {error.message}")
    if request.full:
        trust = Trust(False, "a full backup was asked for: every byte compared, page LSNs not looked at")
        return reader, trust, (*choice.reasons, trust.reason)
    before = convert.stored_identity(reader.manifest)
    difference = ", ".join(before.differences(source.identity)) if before else "the parent's server is not known"
    trust = judge_trust(
        same_server=not difference,
        difference=f"changed since the parent: {difference}",
        checksums_then=before is not None and before.lsn_proves_unchanged,
        checksums_now=source.identity.lsn_proves_unchanged,
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
