"""The plan of a restore: all decided and checked by reading alone; a dry run prints it, a real one executes it."""

import contextlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pgrecall.domain.label import BackupLabel
from pgrecall.domain.target import EndOfArchive, RecoveryRequest
from pgrecall.errors import (
    DamageFound,
    NotThere,
    ObjectMissing,
    OwnerUnknown,
    PgrecallError,
    Refused,
    TargetUnreachable,
)
from pgrecall.postgres.recovery_settings import RecoveryAction
from pgrecall.postgres.users import unreachable, user_of
from pgrecall.repository.catalog import BackupState, Catalog
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import Commit
from pgrecall.repository.fetch import LARGEST_GET
from pgrecall.repository.manifest import Manifest
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.marks import read_bad_marks
from pgrecall.repository.recovery import open_manifest
from pgrecall.services.archive.events import tablespaces_created
from pgrecall.services.archive.inventory import WalInventory
from pgrecall.services.archive.reach import RecoveryWal, reachable
from pgrecall.services.restore.choose import Choice, choose_backup, choose_named, point
from pgrecall.services.restore.destination import Destination, Made, inspect_destination
from pgrecall.services.restore.prepare import check_tablespaces, root_entry, what_will_be_made
from pgrecall.services.restore.space import SpaceNeed, space_needs
from pgrecall.services.restore.tablespaces import (
    PlacedTablespace,
    TablespaceMapping,
    place_tablespaces,
    refuse_foreign_replay,
)
from pgrecall.services.restore.tree import Ownership, ownership_for_root


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """What the user asked for. `become`: the cluster whose archive the result continues; None = a clone."""

    destination: Path
    request: RecoveryRequest
    from_label: str | None = None
    action: RecoveryAction = RecoveryAction.PROMOTE
    become: str | None = None
    tablespaces: tuple[TablespaceMapping, ...] = ()
    jobs: int = 2
    fetch_reads: tuple[Path, ...] = ()
    """Files that restore_command will need, run by the restored server: configuration, identity, key."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What must be fetched: stored bytes and ranged requests, both a little more than will be."""

    stored_bytes: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """Decided and checked. `blockers` are what stands against doing it; the first is what a real run raises."""

    options: RestoreOptions
    cluster: str
    place: str
    """Of the repository."""
    commit: Commit
    state: BackupState
    reasons: tuple[str, ...]
    alternatives: tuple[BackupLabel, ...]
    wal: RecoveryWal
    reader: ManifestReader
    destination: Destination
    tablespaces: tuple[PlacedTablespace, ...]
    replay_places: tuple[Path, ...]
    """Empty directories that replay of CREATE TABLESPACE needs."""
    in_place_tablespaces: bool
    """In the backup, or made by replay."""
    ownership: Ownership
    space: tuple[SpaceNeed, ...]
    reading: Reading
    made: Made
    notes: tuple[str, ...]
    blockers: tuple[PgrecallError, ...]

    @property
    def manifest(self) -> Manifest:
        return self.reader.manifest

    @property
    def label(self) -> BackupLabel:
        return self.commit.label

    @property
    def is_clone(self) -> bool:
        return self.options.become is None

    @property
    def wal_bytes(self) -> int:
        return len(self.wal.segments) * self.wal.segment_size


def plan_restore(store: ClusterStore, options: RestoreOptions, *, now: datetime) -> RestorePlan:
    """Read only. Raise what makes every plan senseless: no backup, unreachable target, unknown tablespace, damage.

    What merely forbids this one (destination in use, too little room, conflicting tablespaces) is in `blockers`.
    """
    inventories: dict[int, WalInventory] = {}
    choice = _choose(store, options, inventories)
    reader, second_copy = open_manifest(store, choice.commit.label, choice.commit)
    manifest = reader.manifest
    check_tablespaces(manifest)
    blockers: list[PgrecallError] = []
    destination = _destination(options.destination, blockers)
    placed, conflicts = place_tablespaces(manifest.tablespaces, options.tablespaces, destination.path)
    blockers += conflicts
    created = tablespaces_created(inventories[choice.commit.system_identifier], choice.wal.segments)
    replay_places, harm = refuse_foreign_replay(
        created,
        start=choice.commit.start_lsn,
        target=choice.wal.target,
        inclusive=options.request.inclusive,
        placed=placed,
    )
    blockers += harm
    ownership = _ownership(manifest, blockers)
    blockers += refuse_unreadable(options.fetch_reads, ownership)
    wal_bytes = len(choice.wal.segments) * choice.wal.segment_size
    space = space_needs(manifest, destination.path, placed, wal_bytes=wal_bytes)
    if destination.unfinished is None:  # else what is wiped first makes room
        blockers += [each.refusal() for each in space if not each.fits]
    return RestorePlan(
        options=options,
        cluster=store.name,
        place=store.storage.place,
        commit=choice.commit,
        state=choice.state,
        reasons=choice.reasons,
        alternatives=choice.alternatives,
        wal=choice.wal,
        reader=reader,
        destination=destination,
        tablespaces=tuple(placed),
        replay_places=tuple(replay_places),
        in_place_tablespaces=any(each.in_place for each in manifest.tablespaces)
        or any(not each.path for each in created),
        ownership=ownership,
        space=tuple(space),
        reading=_reading(reader, choice.commit),
        made=what_will_be_made(
            manifest, _root_files(reader), placed, replay_places, destination_exists=destination.exists
        ),
        notes=tuple(_notes(options, choice, second_copy, now)),
        blockers=tuple(blockers),
    )


def _choose(store: ClusterStore, options: RestoreOptions, inventories: dict[int, WalInventory]) -> Choice:
    catalog = Catalog(store)

    def inventory(commit: Commit) -> WalInventory:
        system = commit.system_identifier
        if system not in inventories:
            inventories[system] = WalInventory(store, system, segment_size=commit.wal_segment_size)
        return inventories[system]

    def reach(commit: Commit) -> RecoveryWal:
        return reachable(inventory(commit), options.request, point(commit))

    def explain(commit: Commit) -> RecoveryWal:
        """Like `reach`; the refusal also names what could be reached from other backups."""
        points = [point(each.commit) for each in catalog.restorable() if each.commit]
        known = [window for way in inventory(commit).windows(points) for window in way.windows]
        return reachable(inventory(commit), options.request, point(commit), known=known)

    try:
        if options.from_label is not None:
            return choose_named(catalog.find(options.from_label), reach)
        return choose_backup(catalog.backups(), options.request, reach, explain, bad=read_bad_marks(store))
    except TargetUnreachable as error:
        hint = error.hint or f"pgrecall status -c {store.name} --wal"
        raise TargetUnreachable(error.message, hint=hint, **error.facts) from error


def _destination(path: Path, blockers: list[PgrecallError]) -> Destination:
    try:
        return inspect_destination(path)
    except NotThere:
        raise
    except PgrecallError as refusal:
        blockers.append(refusal)
        return Destination(Path(os.path.abspath(path)), exists=path.exists())  # noqa: PTH100 - as inspect_destination


def _ownership(manifest: Manifest, blockers: list[PgrecallError]) -> Ownership:
    if os.geteuid() != 0:
        return Ownership()
    root = root_entry(manifest)
    found = ownership_for_root(manifest.principals, root.owner, root.group)
    if found is None:
        name = manifest.principals[root.owner] if root.owner < len(manifest.principals) else "?"
        blockers.append(
            OwnerUnknown(
                f"the backup's files belong to '{name}', whom this host does not know, and PostgreSQL refuses root's",
                hint="run the restore as the user that the server shall run as",
                owner=name,
            )
        )
    return found or Ownership()


def refuse_unreadable(fetch_reads: Sequence[Path], ownership: Ownership) -> list[Refused]:
    """The restored server would start, ask restore_command for its WAL, and stop: better told before than then."""
    if ownership.default is None:
        return []
    uid, gid = ownership.default
    user = user_of(uid, gid)
    return [
        Refused(
            f"{user.name}, as whom the restored server fetches its WAL, cannot read {path}",
            hint=f"install -o {user.name} -m 600 {shlex.quote(str(path))} /var/tmp/, and name that copy",
            path=str(path),
        )
        for path in unreachable(user, fetch_reads, whole=False)
    ]


def _root_files(reader: ManifestReader) -> list[bytes]:
    return [file.entry.name for file in reader.files(b"")]


def _reading(reader: ManifestReader, commit: Commit) -> Reading:
    """From the run tables: the packs that the backup needs, whole. A lost table makes the estimate smaller."""
    sizes: dict[PackRef, int] = {}
    for entry in reader.manifest.runs:
        with contextlib.suppress(DamageFound, ObjectMissing):
            table = reader.packs.table(entry.run.number)
            sizes |= {PackRef(entry.run.number, pack.seq): pack.size for pack in table.packs()}
    live = [sizes[pack] for pack in commit.live if pack in sizes]
    return Reading(sum(live), sum(-(-size // LARGEST_GET) for size in live) + len(reader.manifest.directories))


def _notes(options: RestoreOptions, choice: Choice, second_copy: str | None, now: datetime) -> Sequence[str]:
    notes = [*choice.wal.notes]
    if second_copy:
        notes.append(second_copy)
    if choice.commit.self_contained:
        notes.append("the backup brings its own WAL: nothing after its end can be recovered from it")
    if choice.commit.damaged_pages:
        notes.append(f"{choice.commit.damaged_pages} pages were corrupt in the source and come back as they were")
    if isinstance(options.request.target, EndOfArchive) and options.action is not RecoveryAction.PROMOTE:
        notes.append(f"--action {options.action} has no effect without a target: at the end of the WAL it promotes")
    if choice.commit.stopped > now:
        notes.append(f"the backup's end, {choice.commit.stopped}, lies in the future: a clock is wrong")
    return notes
