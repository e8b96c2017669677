"""Owns the list of a cluster's backups in one copy, each with the state that its objects show."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.errors import (
    BackupNotFound,
    DamageFound,
    FormatUnknown,
    KeyProblem,
    ObjectMissing,
    PgrecallError,
    ValueInvalid,
)
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import MOST_SEEN, Commit, CommitDetails, SeenCommit, Tombstone, from_clear
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import BACKUPS, commit_name, parse_backup_name
from pgrecall.repository.manifest_reader import ManifestReader

_UNFINISHED = "still running, or killed"


class BackupState(StrEnum):
    UNFINISHED = "unfinished"
    """A claim and nothing more: still running, or killed. Only the claim's beats could tell."""
    ABORTED = "aborted"
    STORED = "stored"
    """All its bytes are there, but its WAL is not yet (no commit then), or pages were corrupt in the source."""
    COMPLETE = "complete"
    UNREADABLE = "unreadable"
    """Its commit cannot be read: `problem` says why."""


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """One label. commit for backups that were committed, tombstone for aborted runs, problem for unreadable commits.
    reason says why it is not complete. hash is the hash field of backup.json; authentic: its MAC was checked."""

    label: BackupLabel
    state: BackupState
    reason: str | None = None
    commit: Commit | None = None
    tombstone: Tombstone | None = None
    hash: bytes | None = None
    authentic: bool = False
    problem: PgrecallError | None = None

    @property
    def sequence(self) -> int:
        """0 where there is no readable commit or tombstone."""
        found = self.commit or self.tombstone
        return found.sequence if found else 0

    @property
    def restorable(self) -> bool:
        return self.commit is not None


class Catalog:
    """The backups of a cluster in one copy. Everything is read at the first question and kept; `refresh` forgets it."""

    def __init__(self, store: ClusterStore) -> None:
        self._store = store
        self._records: tuple[BackupRecord, ...] | None = None

    def refresh(self) -> None:
        self._records = None

    def backups(self) -> tuple[BackupRecord, ...]:
        """Every label that was ever claimed here, oldest first: by sequence, those without one at the end by label."""
        if self._records is None:
            self._records = tuple(sorted(self._read_all(), key=_order))
        return self._records

    def restorable(self) -> tuple[BackupRecord, ...]:
        """The committed ones, oldest first."""
        return tuple(each for each in self.backups() if each.restorable)

    def complete(self) -> tuple[BackupRecord, ...]:
        return tuple(each for each in self.backups() if each.state is BackupState.COMPLETE)

    def get(self, label: BackupLabel) -> BackupRecord | None:
        return next((each for each in self.backups() if each.label == label), None)

    def find(self, text: str) -> BackupRecord:
        """`latest` (the newest that can be restored), a label, or the beginning of one.

        BackupNotFound names what there is; ValueInvalid names the choices when several labels begin so.
        """
        if text == "latest":
            return self._latest()
        found = [each for each in self.backups() if str(each.label).startswith(text)] if text else []
        if len(found) == 1:
            return found[0]
        labels = [str(each.label) for each in found or self.restorable()]
        if found:
            raise ValueInvalid(
                f"'{text}' is the beginning of {len(found)} backups: {_some(labels)}",
                hint="Type more of the label.",
                choices=labels,
            )
        raise BackupNotFound(
            f"there is no backup '{text}'",
            hint=f"There are: {_some(labels)}." if labels else "There are none.",
            choices=labels,
        )

    def needing(self, pack: PackRef) -> tuple[BackupRecord, ...]:
        """The committed backups that cannot be restored whole without this pack."""
        return tuple(each for each in self.backups() if each.commit and pack in each.commit.live)

    def next_sequence(self) -> int:
        """One more than the highest seen. An unreadable commit may hide a higher one: that is no reason to stop."""
        return max((each.sequence for each in self.backups()), default=0) + 1

    def seen(self) -> tuple[SeenCommit, ...]:
        """The last 16 commits, for the next one to name."""
        known = [SeenCommit(each.label, each.hash) for each in self.backups() if each.commit and each.hash]
        return tuple(known[-MOST_SEEN:])

    def details(self, label: BackupLabel) -> CommitDetails:
        """The sealed half of a commit."""
        name = commit_name(label)
        return CommitDetails.decode(self._store.read(ObjectType.COMMIT, name).payload(), name)

    def commit(self, commit: Commit, details: CommitDetails) -> bytes:
        """Make the run a backup; returns the hash of the commit. ObjectExists: it was declared dead before."""
        return self._put(commit.label, commit.to_clear(), [details.encode()])

    def abort(self, tombstone: Tombstone) -> bytes:
        """Declare the run dead. ObjectExists: it was committed, or aborted by somebody else, before."""
        return self._put(tombstone.label, tombstone.to_clear(), [])

    def _put(self, label: BackupLabel, clear: dict[str, object], frames: list[bytes]) -> bytes:
        written = self._store.put(ObjectType.COMMIT, commit_name(label), clear=clear, frames=frames)
        self.refresh()
        return written.hash

    def _latest(self) -> BackupRecord:
        found = self.restorable()
        if not found:
            hint = (
                "`pgrecall list` shows what became of the runs." if self.backups() else "`pgrecall backup` makes one."
            )
            raise BackupNotFound("there is no backup that can be restored", hint=hint)
        return next((each for each in reversed(found) if each.state is BackupState.COMPLETE), found[-1])

    def _read_all(self) -> Iterator[BackupRecord]:
        parts: dict[BackupLabel, set[str]] = {}
        for info in self._store.list(BACKUPS):
            if place := parse_backup_name(info.key):
                parts.setdefault(place[0], set()).add(place[1])
        for label, there in parts.items():
            if label.kind is not BackupKind.DUMP:
                yield self._read(label, there)

    def _read(self, label: BackupLabel, there: set[str]) -> BackupRecord:
        if "backup.json" not in there:
            if "manifest" in there:
                return BackupRecord(label, BackupState.STORED, self._waits_for(label))
            return BackupRecord(label, BackupState.UNFINISHED, _UNFINISHED)
        name = commit_name(label)
        try:
            found = self._store.read(ObjectType.COMMIT, name)
            commit = from_clear(found.clear, label, name)
        except ObjectMissing:  # removed between the listing and now
            return BackupRecord(label, BackupState.UNFINISHED, _UNFINISHED)
        except (DamageFound, FormatUnknown, KeyProblem) as error:
            return BackupRecord(
                label, BackupState.UNREADABLE, f"its commit cannot be read: {error.message}", problem=error
            )
        if isinstance(commit, Tombstone):
            return BackupRecord(
                label,
                BackupState.ABORTED,
                commit.reason,
                tombstone=commit,
                hash=found.hash,
                authentic=found.authentic,
            )
        state, reason = BackupState.COMPLETE, None
        if bad := commit.damaged_pages:
            state, reason = BackupState.STORED, f"{bad} corrupt page{'' if bad == 1 else 's'} in the source"
        return BackupRecord(label, state, reason, commit=commit, hash=found.hash, authentic=found.authentic)

    def _waits_for(self, label: BackupLabel) -> str:
        """Which WAL a run without a commit lacks, from its first segment to its last, as its manifest tells."""
        try:
            manifest = ManifestReader.open(self._store, label).manifest
        except (DamageFound, FormatUnknown, KeyProblem, ObjectMissing) as error:
            return f"waits for WAL; which cannot be told: {error.message}"
        first, last = manifest.start.wal, manifest.stop.wal
        return f"waits for WAL {last}" if first == last else f"waits for WAL {first} to {last}"


def _order(record: BackupRecord) -> tuple[bool, int, BackupLabel]:
    return record.sequence == 0, record.sequence, record.label


def _some(labels: list[str], most: int = 5) -> str:
    """The newest few of labels, for a message."""
    return ", ".join(labels[-most:]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
