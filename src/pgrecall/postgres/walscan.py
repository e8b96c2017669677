"""Owns what a WAL segment tells: its commit times, restore points, tablespaces, and how it joins its neighbours."""

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pgrecall.domain.lsn import Lsn
from pgrecall.errors import WalInvalid
from pgrecall.postgres import walscan_python
from pgrecall.postgres.accel import Buffer, load_native
from pgrecall.postgres.control import WAL_LEVELS
from pgrecall.postgres.crc import crc32c
from pgrecall.postgres.walscan_python import (
    FRAGMENT_MAX_BYTES,
    NO_TIME,
    PREFIX_BYTES,
    RECORD_HEADER_BYTES,
    TIME_MAX,
    TIME_MIN,
    Event,
    RawScan,
)

PAGE_SIZE = 8192  # XLOG_BLCKSZ of every build that we met; pg_control says it
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_native = load_native()


class Ending(StrEnum):
    """How the valid WAL of a segment ends; only the first two are whole segments."""

    FULL = "full"
    SWITCHED = "switched"  # by pg_switch_wal or archive_timeout: nothing follows the switch
    UNFINISHED = "unfinished"  # zeros follow: still being written, or cut by a crash
    BROKEN = "broken"  # something else follows: a recycled file's old bytes, or damage


@dataclass(frozen=True, slots=True)
class RestorePoint:
    name: str
    lsn: Lsn  # where its record begins (pg_create_restore_point returns where it ends)
    time: datetime


@dataclass(frozen=True, slots=True)
class TablespaceCreate:
    oid: int
    path: str  # "" for an in-place tablespace; bytes that are not UTF-8 as \\xNN
    lsn: Lsn  # where its record begins


@dataclass(frozen=True, slots=True)
class ParameterChange:
    lsn: Lsn  # where its record begins
    wal_level: str  # minimal, replica, logical


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFacts:
    """What records say.

    The commit times are the earliest and the latest of any commit or abort, also of prepared transactions: those that
    PostgreSQL compares with recovery_target_time. They need not be those of the first and the last such record.
    """

    first_commit: datetime | None
    last_commit: datetime | None
    restore_points: tuple[RestorePoint, ...]
    tablespaces: tuple[TablespaceCreate, ...]
    parameter_changes: tuple[ParameterChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFacts(RecordFacts):
    """What one segment says; format.md §9 stores most of it.

    Neighbours on one timeline are continuous when after.first_prev == before.last_record (a segment without a record's
    beginning has None for all three and is passed over).
    """

    start: Lsn
    magic: int  # XLOG_PAGE_MAGIC: tells the major version
    timeline: int  # of the first page: a segment copied at a timeline switch begins with pages of the parent
    ending: Ending
    end: Lsn  # where valid WAL ends; the segment's end when it is whole
    end_of_records: Lsn  # after the last whole record
    records: int  # whole ones
    first_record: Lsn | None  # the first that begins here
    first_prev: Lsn | None  # the beginning of the record before that one; None where WAL begins (initdb, pg_resetwal)
    last_record: Lsn | None  # the last that begins here, also when it ends in the next segment
    head_length: int  # bytes (xlp_rem_len) of a record that began in a segment before, 0 without
    head: bytes | None  # those bytes, when they all lie here and are at most 64 KiB
    tail: bytes | None  # the beginning of a record that ends in the next segment, when at most 64 KiB

    @property
    def complete(self) -> bool:
        """True if valid WAL reaches the end of the segment."""
        return self.ending in (Ending.FULL, Ending.SWITCHED)


def scan_segment(data: Buffer, *, segment_start: int, page_size: int = PAGE_SIZE) -> SegmentFacts:
    """Read every record of a segment (or of its first pages) once; check page headers, links and CRCs as recovery does.

    Never fails on content: what is not WAL of this place ends the scan, and `ending` says so. ValueError if data is no
    whole number of pages. Whose cluster it is, walpage.check_segment_header tells.
    """
    backend = walscan_python if _native is None else _native
    raw = RawScan(*backend.scan_wal(data, int(segment_start), page_size))
    facts = _decode(raw.earliest, raw.latest, raw.events)
    return SegmentFacts(
        first_commit=facts.first_commit,
        last_commit=facts.last_commit,
        restore_points=facts.restore_points,
        tablespaces=facts.tablespaces,
        parameter_changes=facts.parameter_changes,
        start=Lsn(segment_start),
        magic=raw.magic,
        timeline=raw.timeline,
        ending=Ending[walscan_python.Stop(raw.stop).name],
        end=Lsn(raw.end),
        end_of_records=Lsn(raw.end_of_records),
        records=raw.records,
        first_record=_lsn(raw.first_record),
        first_prev=_lsn(raw.first_prev),
        last_record=_lsn(raw.last_record),
        head_length=raw.head_length,
        head=raw.head,
        tail=raw.tail,
    )


def join(tail: bytes, head: bytes, *, lsn: int) -> RecordFacts:
    """What the record says whose parts two segments keep; lsn is where it begins (`last_record` of the first).

    Raise WalInvalid if the parts are not one record with a right CRC: the segments are not neighbours.
    """
    record = tail + head
    total = int.from_bytes(record[:4], sys.byteorder)
    if len(record) < RECORD_HEADER_BYTES or total != len(record) or len(record) > 2 * FRAGMENT_MAX_BYTES:
        raise WalInvalid(
            f"the record at {Lsn(lsn)} should have {total} bytes; its two segments hold {len(record)}",
            hint="The two segments do not follow each other.",
        )
    prefix = record[:PREFIX_BYTES]
    if not walscan_python.checked(prefix, crc32c(record[RECORD_HEADER_BYTES:])):
        raise WalInvalid(
            f"the record at {Lsn(lsn)}, put together from two segments, has a wrong CRC",
            hint="The two segments do not follow each other.",
        )
    parsed = walscan_python.parse_record(prefix, total)
    moment = walscan_python.time_of(parsed, prefix)
    event = walscan_python.event_of(parsed, prefix)
    return _decode(moment, moment, [] if event is None else [(event[0], int(lsn), event[1])])


def _decode(earliest: int, latest: int, events: Sequence[tuple[int, int, bytes]]) -> RecordFacts:
    points: list[RestorePoint] = []
    tablespaces: list[TablespaceCreate] = []
    changes: list[ParameterChange] = []
    for kind, position, data in events:
        lsn = Lsn(position)
        if kind == Event.RESTORE_POINT:
            (moment,) = struct.unpack_from("=q", data)
            if TIME_MIN <= moment <= TIME_MAX:
                points.append(RestorePoint(_text(data[8:72]), lsn, _time(moment)))
        elif kind == Event.TABLESPACE_CREATE:
            (oid,) = struct.unpack_from("=I", data)
            tablespaces.append(TablespaceCreate(oid, _text(data[4:]), lsn))
        else:
            (level,) = struct.unpack_from("=i", data, 20)
            known = 0 <= level < len(WAL_LEVELS)
            changes.append(ParameterChange(lsn, WAL_LEVELS[level] if known else f"unknown {level}"))
    return RecordFacts(
        first_commit=None if earliest == NO_TIME else _time(earliest),
        last_commit=None if latest == NO_TIME else _time(latest),
        restore_points=tuple(points),
        tablespaces=tuple(tablespaces),
        parameter_changes=tuple(changes),
    )


def _time(microseconds: int) -> datetime:
    return POSTGRES_EPOCH + timedelta(microseconds=microseconds)


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _lsn(value: int) -> Lsn | None:
    return Lsn(value) if value else None
