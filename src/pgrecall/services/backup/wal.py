"""Owns a backup's WAL: waiting until it is in the repository, or bringing it from pg_wal."""

from collections.abc import Sequence
from pathlib import Path

from pgrecall.clock import Clock
from pgrecall.domain.timeline import History
from pgrecall.domain.wal import WalSegment, history_name
from pgrecall.errors import WalForked, WalMissing, WalNotArchived
from pgrecall.observe.reporter import Reporter
from pgrecall.postgres.backup_session import StartPoint, StopResult
from pgrecall.postgres.pgwal import WAL_DIRECTORY, find_segments
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import WAL, wal_name
from pgrecall.services.archive.push import push_wal
from pgrecall.services.archive.segment import raw_ids, stored_ids

POLL_SECONDS = 0.2
SLOW_POLL_SECONDS = 2.0


def local_history(pgdata: Path, timeline: int) -> History:
    """The history of a timeline as this server knows it."""
    if timeline == 1:
        return History.root(1)
    path = pgdata / WAL_DIRECTORY / history_name(timeline)
    try:
        return History.parse(path.read_text(), timeline)
    except FileNotFoundError:
        raise WalMissing(
            f"{path} is not there: the past of timeline {timeline} is unknown",
            hint="It came with the promotion; fetch it back from the archive into pg_wal.",
        ) from None


def names_needed(segments: Sequence[WalSegment], history: History, segment_size: int) -> list[str]:
    """Segments and history files that a restore reads: without the histories no later timeline can be chosen."""
    histories = [history_name(timeline) for timeline in history.path() if timeline > 1]
    return histories + [segment.name(segment_size) for segment in segments]


def missing(store: ClusterStore, system_identifier: int, names: Sequence[str]) -> list[str]:
    return [name for name in names if not store.exists(wal_name(system_identifier, name))]


def wait_for_wal(
    store: ClusterStore,
    *,
    system_identifier: int,
    names: Sequence[str],
    timeout_seconds: float,
    clock: Clock,
    reporter: Reporter,
) -> None:
    """Return when all names are stored; WalNotArchived after the time is up."""
    reporter.stage("wait for WAL")
    deadline = clock.monotonic() + timeout_seconds
    began = clock.monotonic()
    left = missing(store, system_identifier, names)
    while left:
        now = clock.monotonic()
        if now >= deadline:
            raise WalNotArchived(
                f"the backup's files are stored, but after {timeout_seconds:.0f} s the server has not archived "
                f"{left[0]}{f' and {len(left) - 1} more' if len(left) > 1 else ''}",
                hint="See why with: pgrecall check. The next backup finishes this one if its WAL has come by then.",
                missing=left[:10],
            )
        clock.sleep(POLL_SECONDS if now - began < 10 else SLOW_POLL_SECONDS)
        left = missing(store, system_identifier, left)


def refuse_foreign_wal(store: ClusterStore, *, pgdata: Path, system_identifier: int, names: Sequence[str]) -> None:
    """WalForked when what is stored under the backup's names is another server's: one that archives as this cluster.

    The last segment, still in pg_wal, speaks for all before it: histories that parted earlier differ in it. Where the
    server has recycled it already, only a fork that this name was stored under tells.
    """
    name = names[-1]
    path = pgdata / WAL_DIRECTORY / name
    try:
        raw = path.read_bytes()
        recycled = not path.exists()
    except FileNotFoundError:
        recycled = True
    if recycled:
        foreign = bool(stored_beside(store, system_identifier, names))
    else:
        stored = store.read(ObjectType.WAL, wal_name(system_identifier, name))
        foreign = stored_ids(stored) != raw_ids(store.scope, raw)
    if foreign:
        raise WalForked(
            f"the stored {name} is not this server's: another server archives as '{store.name}'",
            hint="Stop one of them, or its archiving; then back up again.",
            segment=name,
        )


def stored_beside(store: ClusterStore, system_identifier: int, names: Sequence[str]) -> list[str]:
    """Those of the names that some server had to store beside the archive, because another one's bytes were there."""
    forks = [text.partition("~")[2] for text in store.list_dirs(f"{WAL}{system_identifier}/") if "~" in text]
    return [name for name in names if any(store.exists(wal_name(system_identifier, name, fork=fork)) for fork in forks)]


def bring_wal(
    store: ClusterStore,
    *,
    pgdata: Path,
    state_dir: Path,
    start: StartPoint,
    stop: StopResult,
    history: History,
    system_identifier: int,
    major: int,
    segment_size: int,
    clock: Clock,
    reporter: Reporter,
) -> None:
    """Store the backup's WAL from pg_wal, where a slot keeps it; what is stored already is a success."""
    reporter.stage("store WAL")
    files = find_segments(pgdata, timeline=stop.timeline, start=start.lsn, stop=stop.lsn, segment_size=segment_size)
    paths = [
        path
        for timeline in history.path()
        if timeline > 1 and (path := pgdata / WAL_DIRECTORY / history_name(timeline)).exists()
    ]
    for path in paths + [file.path for file in files]:
        result = push_wal(
            store,
            path,
            pgdata=pgdata,
            state_dir=state_dir,
            systems=lambda: {system_identifier: major},
            clock=clock,
        )
        for warning in result.warnings:
            reporter.warn(warning)
