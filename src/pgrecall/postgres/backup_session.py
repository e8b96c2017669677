"""Owns one session's backup: pg_backup_start to pg_backup_stop, its label, and the slot that keeps its WAL."""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.wal import WalSegment
from pgrecall.errors import BackupLabelUnreadable, PostgresError, Refused, SessionLost, ValueInvalid, WalMissing
from pgrecall.postgres.connection import Connection
from pgrecall.postgres.session import query

LABEL_MAX_BYTES = 1024  # MAXPGPATH: do_pg_backup_start refuses longer ones
RESTORE_POINT_MAX_BYTES = 63  # MAXFNAMELEN - 1

_START = re.compile(r"([0-9A-F]+/[0-9A-F]+) \(file ([0-9A-F]{24})\)\Z")


@dataclass(frozen=True, slots=True)
class LabelFile:
    """backup_label (xlogbackup.c: build_backup_content). `raw` is stored and restored byte for byte."""

    raw: bytes
    start: Lsn
    start_file: str
    checkpoint: Lsn
    method: str
    taken_from: str
    start_time: str
    label: str
    timeline: int
    incremental_from: tuple[Lsn, int] | None

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """BackupLabelUnreadable unless every line that a server of 15 or later needs is there and readable."""
        fields = dict(
            line.split(": ", 1) for line in raw.decode("utf-8", "surrogateescape").splitlines() if ": " in line
        )
        try:
            found = _START.match(fields["START WAL LOCATION"])
            if found is None:
                raise ValueError("START WAL LOCATION")
            since = fields.get("INCREMENTAL FROM LSN")
            return cls(
                raw=raw,
                start=Lsn.parse(found[1]),
                start_file=found[2],
                checkpoint=Lsn.parse(fields["CHECKPOINT LOCATION"]),
                method=fields["BACKUP METHOD"],
                taken_from=fields["BACKUP FROM"],
                start_time=fields["START TIME"],
                label=fields["LABEL"],
                timeline=int(fields["START TIMELINE"]),
                incremental_from=(Lsn.parse(since), int(fields["INCREMENTAL FROM TLI"])) if since else None,
            )
        except (KeyError, ValueError, ValueInvalid) as error:
            raise BackupLabelUnreadable(f"the backup_label of this server cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class StartPoint:
    """Where a backup begins. `lsn` is the redo point replay starts at; `redo` is pg_control's, the same or later (other
    backups make checkpoints too); `wal` names the segment that holds lsn; `time` is the server's.
    """

    lsn: Lsn
    timeline: int
    redo: Lsn
    wal: str
    time: datetime
    full_page_writes: bool


@dataclass(frozen=True, slots=True)
class StopResult:
    """Where a backup ends: WAL up to `lsn` (exclusive) is needed. A target time must be after `time`, the server's."""

    lsn: Lsn
    timeline: int
    wal: str
    time: datetime
    label: LabelFile
    tablespace_map: bytes
    full_page_writes: bool

    @property
    def backup_label(self) -> bytes:
        return self.label.raw


class BackupSession:
    """A backup belongs to the session that started it: this object owns the connection and closes it in the end.

    Use as a context manager. Leaving it without `stop` abandons the backup, which the server notices by itself. The
    server forces full page images while any backup runs, whatever full_page_writes says (xlog.c: XLogInsertRecord,
    runningBackups); the setting is noted at start and stop all the same.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._start: StartPoint | None = None
        self._label = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._conn.close()

    def start(self, label: str, *, fast: bool) -> StartPoint:
        """Begin. `fast` asks for an immediate checkpoint; otherwise this takes as long as a spread one does.

        Raise RightsMissing, SessionLost, Refused on a standby or with wal_level = minimal.
        """
        assert self._start is None, "a session makes one backup"
        # Printable ASCII is the same in every database's character set, in which the server keeps the label.
        if not label or not label.isascii() or not label.isprintable() or len(label) > LABEL_MAX_BYTES:
            raise ValueInvalid(f"{label!r} cannot be a backup's label: 1 to {LABEL_MAX_BYTES} characters of ASCII")
        self._refuse_unfit_server()
        ((lsn,),) = query(self._conn, "SELECT pg_backup_start(%s, %s)::text", [label, fast])
        ((timeline, redo, size, full_pages, now),) = query(
            self._conn,
            "SELECT timeline_id, redo_lsn::text,"
            " (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),"
            " current_setting('full_page_writes')::bool, clock_timestamp() FROM pg_control_checkpoint()",
        )
        start = Lsn.parse(lsn)
        if Lsn.parse(redo) < start:
            raise PostgresError(f"pg_control's checkpoint {redo} is before the backup's start {start}")
        segment = WalSegment.containing(start, timeline, size).name(size)
        self._label = label
        self._start = StartPoint(start, timeline, Lsn.parse(redo), segment, now.astimezone(UTC), full_pages)
        return self._start

    def check(self) -> None:
        """The session lives and is a primary's still; to be called now and then while files are copied. SessionLost."""
        query(self._conn, "SELECT 1")

    def stop(self, *, wait: bool = False) -> StopResult:
        """End. The server completes and hands over the last segment; `wait` returns only after it is archived.

        Raise SessionLost (the run failed), BackupLabelUnreadable when the label is not of our own start.
        """
        assert self._start is not None, "stop follows start"
        ((lsn, label, tablespace_map, now, full_pages),) = query(
            self._conn,
            # Bytes as the server has them: no conversion between character sets.
            "SELECT lsn::text, convert_to(labelfile, getdatabaseencoding()),"
            " convert_to(spcmapfile, getdatabaseencoding()), clock_timestamp(),"
            " current_setting('full_page_writes')::bool FROM pg_backup_stop(%s)",
            [wait],
        )
        parsed = LabelFile.parse(bytes(label))
        self._check_own_label(parsed)
        stop = Lsn.parse(lsn)
        size = int(query(self._conn, "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")[0][0])
        timeline = _insert_timeline(self._conn)
        if timeline != self._start.timeline or stop <= self._start.lsn:
            raise PostgresError(
                f"the backup ends at {stop} on timeline {timeline}, "
                f"but began at {self._start.lsn} on timeline {self._start.timeline}"
            )
        return StopResult(
            lsn=stop,
            timeline=timeline,
            wal=WalSegment.containing(stop - 1, timeline, size).name(size),
            time=now.astimezone(UTC),
            label=parsed,
            tablespace_map=bytes(tablespace_map or b""),
            full_page_writes=full_pages,
        )

    def _refuse_unfit_server(self) -> None:
        ((in_recovery, wal_level),) = query(self._conn, "SELECT pg_is_in_recovery(), current_setting('wal_level')")
        if in_recovery:
            raise Refused(
                "this server is a standby; backups from a standby are not supported yet",
                hint="Name the primary in the cluster's settings.",
            )
        if wal_level == "minimal":
            raise Refused(
                "wal_level is minimal: the WAL does not hold enough to recover a backup",
                hint="ALTER SYSTEM SET wal_level = 'replica'; then restart the server.",
            )

    def _check_own_label(self, label: LabelFile) -> None:
        assert self._start is not None
        found = (label.start, label.timeline, label.start_file, label.label)
        expected = (self._start.lsn, self._start.timeline, self._start.wal, self._label)
        if found != expected:
            raise BackupLabelUnreadable(f"backup_label speaks of another backup: {found} instead of {expected}")


@dataclass(slots=True)
class WalHold:
    """A temporary physical slot: WAL from `restart_lsn` on stays in pg_wal while its session lives, within limits."""

    conn: Connection
    slot: str
    restart_lsn: Lsn
    limit: str
    """max_slot_wal_keep_size, '-1' for none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def check(self, *, needed_from: Lsn | None = None) -> str:
        """The slot's wal_status, if it still keeps what it promised; WalMissing by name if not, SessionLost."""
        if needed_from is not None and needed_from < self.restart_lsn:
            raise WalMissing(
                f"slot {self.slot} keeps WAL from {self.restart_lsn}, the backup needs it from {needed_from}"
            )
        try:
            rows = query(
                self.conn,
                "SELECT wal_status, restart_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
                [self.slot],
            )
        except SessionLost as error:
            if self.limit == "-1":
                raise
            # The server ends the session that holds a slot before it invalidates it (slot.c).
            raise self._lost(error.message) from error
        status, kept_from = rows[0] if rows else ("gone", None)
        if status == "lost" or kept_from is None:
            raise self._lost(f"slot {self.slot} is {status}")
        return str(status)

    def _lost(self, why: str) -> WalMissing:
        return WalMissing(
            f"the server no longer keeps the backup's WAL: {why}; max_slot_wal_keep_size is {self.limit}",
            hint="Raise max_slot_wal_keep_size, or archive WAL: pgrecall init.",
            slot=self.slot,
            max_slot_wal_keep_size=self.limit,
        )

    def release(self) -> None:
        """Drop the slot and end its session; no error if both are gone."""
        self.conn.close()


def hold_wal(conn: Connection) -> WalHold:
    """Keep WAL from now on. `conn` becomes the slot's own session: any error in a session drops its temporary slots.

    To be called before the backup starts, so that the slot's position is at or before the start. Raise RightsMissing,
    or PostgresError where no slot is free.
    """
    slot = f"pgrecall_{conn.info.backend_pid}_{secrets.token_hex(4)}"
    try:
        ((limit,),) = query(conn, "SHOW max_slot_wal_keep_size")
        query(conn, "SELECT pg_create_physical_replication_slot(%s, true, true)", [slot])
        ((restart,),) = query(conn, "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [slot])
    except BaseException:
        conn.close()  # it was handed over to us
        raise
    return WalHold(conn, slot, Lsn.parse(restart), limit)


@dataclass(frozen=True, slots=True)
class WalSwitch:
    """`segment` is the one that pg_switch_wal completed, or the last complete one when there was nothing to switch."""

    lsn: Lsn
    segment: WalSegment
    name: str


def switch_wal(conn: Connection) -> WalSwitch:
    """Complete the current segment, so that it is archived. An idle server has nothing to switch: leave a record first
    (create_restore_point).
    """
    ((lsn, size),) = query(
        conn,
        "SELECT pg_switch_wal()::text, (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size')",
    )
    position = Lsn.parse(lsn)
    segment = WalSegment.containing(position - 1, _insert_timeline(conn), size)
    return WalSwitch(position, segment, segment.name(size))


def create_restore_point(conn: Connection, name: str) -> Lsn:
    """A named position to recover to; the position after its record."""
    if not name or len(name.encode()) > RESTORE_POINT_MAX_BYTES:
        raise ValueInvalid(f"'{name}' cannot name a restore point: 1 to {RESTORE_POINT_MAX_BYTES} bytes")
    ((lsn,),) = query(conn, "SELECT pg_create_restore_point(%s)::text", [name])
    return Lsn.parse(lsn)


def _insert_timeline(conn: Connection) -> int:
    """The timeline a primary writes; unlike pg_control's right also before the first checkpoint after a promotion."""
    ((name,),) = query(conn, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    return int(name[:8], 16)
