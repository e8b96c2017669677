"""The proof that archiving works: a segment is completed now, and seen to arrive."""

from __future__ import annotations

from pathlib import Path

from pgrecall.clock import Clock
from pgrecall.domain.humanize import format_time
from pgrecall.postgres.backup_session import create_restore_point, switch_wal
from pgrecall.postgres.connection import Connection
from pgrecall.postgres.requirements import CommandKind, Level, classify_command
from pgrecall.postgres.server import ServerFacts
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.layout import WAL, parse_wal_name, wal_name
from pgrecall.services.archiver import ArchiverState, read_archiver
from pgrecall.services.findings import Finding

TOPIC = "archive"
POLL_SECONDS = 0.2
RESTORE_POINT = "pgrecall check"


def check_archiving(
    conn: Connection, facts: ServerFacts, store: ClusterStore, pgdata: Path | None, *, wait_seconds: float, clock: Clock
) -> Finding:
    """Complete a segment and wait for that very one in the repository."""
    if facts.in_recovery:
        return Finding(level=Level.WARN, topic=TOPIC, what="a standby completes no segments; archiving was not tried")
    if not facts.archiving or classify_command(facts.setting("archive_command")) is not CommandKind.OURS:
        what = "WAL is not archived by pgrecall: only the backups' own moments can be recovered"
        return Finding(level=Level.DANGER, topic=TOPIC, what=what, cure="pgrecall init --apply")
    before = read_archiver(conn, pgdata)
    name = _complete_segment(conn, facts)
    begun = clock.monotonic()
    while clock.monotonic() - begun < wait_seconds:
        if store.exists(wal_name(facts.system_identifier, name)):
            took = clock.monotonic() - begun
            return Finding(level=Level.OK, topic=TOPIC, what=f"segment {name} arrived after {took:.1f} s")
        if _is_forked(store, facts.system_identifier, name):
            what = f"segment {name} was stored beside the archive: another server owns this timeline"
            return Finding(level=Level.DANGER, topic=TOPIC, what=what, cure="pgrecall status --wal")
        clock.sleep(POLL_SECONDS)
    what = f"segment {name} did not arrive within {wait_seconds:g} s: {_why(before, read_archiver(conn, pgdata))}"
    return Finding(level=Level.DANGER, topic=TOPIC, what=what, cure="the server's log says what the command said")


def _complete_segment(conn: Connection, facts: ServerFacts) -> str:
    """An idle server has nothing to switch, so a record is left first, where that is allowed."""
    if facts.rights.restore_point:
        create_restore_point(conn, RESTORE_POINT)
    return switch_wal(conn).name


def _is_forked(store: ClusterStore, system_identifier: int, segment: str) -> bool:
    places = (parse_wal_name(info.key) for info in store.list(f"{WAL}{system_identifier}/{segment[:8]}~"))
    return any(place is not None and place.file == segment for place in places)


def _why(before: ArchiverState, after: ArchiverState) -> str:
    waiting = f"segments that wait: {after.waiting}" if after.waiting is not None else "others may wait"
    if after.failing and after.last_failed_at is not None:
        count = after.failed_count - before.failed_count
        when = format_time(after.last_failed_at.replace(microsecond=0))
        return f"archive_command failed {count} times meanwhile, last at {when} with {after.last_failed}; {waiting}"
    if after.archived_count > before.archived_count:
        return f"the archiver is busy with older segments, last {after.last_archived}; {waiting}"
    # A command that cannot be run at all (126, 127) ends the archiver before it counts a failure (shell_archive.c).
    last = after.last_archived or "nothing"
    return f"the archiver reports nothing, as when archive_command cannot be started; last archived {last}; {waiting}"
