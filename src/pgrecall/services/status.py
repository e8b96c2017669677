"""What can be recovered of each cluster now, and what stands against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pgrecall.config import ClusterSettings, Settings
from pgrecall.domain.label import BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.window import BackupPoint, Gap, RecoveryWindow
from pgrecall.errors import PgrecallError, PostgresError
from pgrecall.repository.cluster import ClusterStore
from pgrecall.services.archive.inventory import TimelineWindows, WalInventory, system_identifiers
from pgrecall.services.archiver import ArchiverState, read_archiver
from pgrecall.services.context import connect_cluster, open_cluster
from pgrecall.services.listing import Backup, State, list_backups


class Health(StrEnum):
    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, kw_only=True)
class Window:
    """Any moment in [opens, closes] can be recovered; closes is the last commit that is stored."""

    timeline: int
    opens: datetime
    closes: datetime
    from_lsn: Lsn
    to_lsn: Lsn
    backups: tuple[BackupLabel, ...]


@dataclass(frozen=True, kw_only=True)
class Branch:
    """What can be recovered on the way to one timeline. gaps: first and last segment that were never stored."""

    timeline: int
    windows: tuple[Window, ...]
    gaps: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Trouble:
    """cure: what to do next, None where nothing is to be done."""

    level: Health
    what: str
    cure: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClusterStatus:
    """`trouble`: the reasons for the level, worst first."""

    cluster: str
    level: Health
    trouble: tuple[Trouble, ...] = ()
    newest_backup: Backup | None = None
    backups: int = 0
    branches: tuple[Branch, ...] = ()
    segments: int = 0
    wal_bytes: int = 0
    forks: tuple[str, ...] = ()
    archiver: ArchiverState | None = None
    """None: the server could not be asked."""

    @property
    def current(self) -> Branch | None:
        """The newest timeline's."""
        return self.branches[-1] if self.branches else None


def cluster_statuses(
    settings: Settings, clusters: Sequence[ClusterSettings], *, identity: str | None, environ: Mapping[str, str]
) -> list[ClusterStatus]:
    """Every cluster's status; a cluster that cannot be read is FAIL with the reason, never missing."""
    return [_status_or_failure(settings, cluster, identity, environ) for cluster in clusters]


def _status_or_failure(
    settings: Settings, cluster: ClusterSettings, identity: str | None, environ: Mapping[str, str]
) -> ClusterStatus:
    try:
        store = open_cluster(settings, cluster, identity=identity, environ=environ)
        return cluster_status(store, _ask_archiver(cluster, environ))
    except PgrecallError as error:
        return ClusterStatus(
            cluster=cluster.name, level=Health.FAIL, trouble=(Trouble(Health.FAIL, error.message, error.hint),)
        )


def cluster_status(store: ClusterStore, archiver: ArchiverState | None) -> ClusterStatus:
    backups = list_backups(store)
    usable = [each for each in backups if each.restorable and each.state is not State.DAMAGED]
    inventories = [WalInventory(store, identifier) for identifier in system_identifiers(store)]
    branches = tuple(
        _branch(each, inventory.segment_size)
        for inventory in inventories
        for each in inventory.windows([_point(backup) for backup in usable if not backup.self_contained])
    )
    trouble = _judge(store.name, backups, usable, branches, archiver)
    forks = [f"timeline {fork.timeline}, server {fork.token}" for each in inventories for fork in each.forks()]
    if forks:
        what = f"two servers archive as '{store.name}': {', '.join(forks)}"
        trouble.append(Trouble(Health.WARN, what, f"pgrecall status --wal -c {store.name}"))
    trouble.sort(key=lambda each: -list(Health).index(each.level))
    return ClusterStatus(
        cluster=store.name,
        level=trouble[0].level if trouble else Health.OK,
        trouble=tuple(trouble),
        newest_backup=usable[0] if usable else None,
        backups=len(usable),
        branches=branches,
        segments=sum(each.segments for each in inventories),
        wal_bytes=sum(each.stored_bytes for each in inventories),
        forks=tuple(forks),
        archiver=archiver,
    )


def _judge(
    name: str,
    backups: Sequence[Backup],
    usable: Sequence[Backup],
    branches: Sequence[Branch],
    archiver: ArchiverState | None,
) -> list[Trouble]:
    found = []
    if not usable:
        found.append(Trouble(Health.FAIL, "no backup that could be restored", f"pgrecall backup -c {name}"))
    elif not any(branch.windows for branch in branches):
        own = all(each.self_contained for each in usable)
        what = "only the backups' own moments: WAL is not archived" if own else "the backups' WAL is not in the archive"
        found.append(Trouble(Health.WARN if own else Health.FAIL, what, f"pgrecall check -c {name}"))
    if archiver is not None and archiver.failing:
        waiting = f", waiting segments: {archiver.waiting}" if archiver.waiting else ""
        what = f"archiving fails at {archiver.last_failed}{waiting}"
        found.append(Trouble(Health.FAIL, what, f"pgrecall check -c {name}"))
    for backup in backups[:1]:
        if backup.state in (State.DAMAGED, State.STORED):
            what = f"newest backup is {backup.state}: {backup.reason}"
            found.append(Trouble(Health.WARN, what, f"pgrecall show {name}/{backup.label}"))
    found += [Trouble(Health.WARN, problem) for branch in branches[-1:] for problem in branch.problems]
    return found


def _ask_archiver(cluster: ClusterSettings, environ: Mapping[str, str]) -> ArchiverState | None:
    """Status is about the repository; the server adds what it knows, when it answers."""
    if cluster.pgdata is None and not (cluster.dsn or cluster.dsn_file or cluster.dsn_env or cluster.dsn_command):
        return None
    try:
        with connect_cluster(cluster, environ) as conn:
            return read_archiver(conn, cluster.pgdata)
    except PostgresError:
        return None


def _point(backup: Backup) -> BackupPoint:
    assert backup.timeline is not None and backup.stopped is not None
    assert backup.start_lsn is not None and backup.stop_lsn is not None
    return BackupPoint(backup.label, backup.timeline, backup.start_lsn, backup.stop_lsn, backup.stopped)


def _branch(found: TimelineWindows, segment_size: int | None) -> Branch:
    assert segment_size is not None, "windows come from segments"
    problems = list(found.problems)
    end = found.windows[-1].to_lsn if found.windows else None
    if end is not None and found.gaps and found.gaps[-1].first.start(segment_size) >= end:
        first = found.gaps[-1].first.name(segment_size)
        problems.append(f"WAL {first} is not stored, though later WAL is: a new backup must bridge it")
    return Branch(
        timeline=found.history.timeline,
        windows=tuple(_window(each) for each in found.windows),
        gaps=tuple(_gap(each, segment_size) for each in found.gaps),
        problems=tuple(problems),
    )


def _window(found: RecoveryWindow) -> Window:
    return Window(
        timeline=found.timeline,
        opens=found.opens,
        closes=found.closes,
        from_lsn=found.from_lsn,
        to_lsn=found.to_lsn,
        backups=found.backups,
    )


def _gap(gap: Gap, segment_size: int) -> tuple[str, str]:
    return gap.first.name(segment_size), gap.last.name(segment_size)
