"""One pass over the records of a WAL segment in Python: the twin of `_native.scan_wal`, where no C compiler was there.

Layouts: PostgreSQL access/xlog_internal.h (pages), access/xlogrecord.h (records), access/xact.h, commands/tablespace.h;
what is valid: access/transam/xlogreader.c. The data is hostile: nothing in it is believed before it is checked.
"""

import struct
import sys
from enum import IntEnum
from typing import NamedTuple

from pgrecall.postgres.accel import Buffer
from pgrecall.postgres.crc import crc32c

MAGIC_FAMILY = 0xD1  # high byte of XLOG_PAGE_MAGIC of PostgreSQL 9.5 and all later ones
FIRST_IS_CONTRECORD, LONG_HEADER, FIRST_IS_OVERWRITE, ALL_FLAGS = 0x0001, 0x0002, 0x0008, 0x000F
SHORT_HEADER_BYTES, LONG_HEADER_BYTES = 24, 40
RECORD_HEADER_BYTES, CRC_AT = 24, 20
RECORD_MAX_BYTES = 0x3FFFFFFF
FRAGMENT_MAX_BYTES = 64 << 10
EVENT_MAX_BYTES = 1100  # a tablespace's path has at most MAXPGPATH, 1024
PREFIX_BYTES = 2048
MAIN_DATA_MAX_AT = 512  # headers before the main data of a record that refers to no blocks take 37 bytes at most

RM_XLOG, RM_XACT, RM_TABLESPACE = 0, 1, 5
XLOG_SWITCH, XLOG_PARAMETER_CHANGE, XLOG_RESTORE_POINT, XLOG_OVERWRITE_CONTRECORD = 0x40, 0x60, 0x70, 0xD0
XACT_OPERATIONS_WITH_TIME = (0x00, 0x20, 0x30, 0x40)  # commit, abort, commit prepared, abort prepared
TABLESPACE_CREATE = 0x00
RESTORE_POINT_BYTES, PARAMETER_CHANGE_BYTES = 72, 26

ID_DATA_SHORT, ID_DATA_LONG, ID_ORIGIN, ID_TOPLEVEL_XID = 255, 254, 253, 252

# Microseconds since 2000-01-01 that Python's datetime can hold (years 1 to 9999); other timestamps are ignored.
TIME_MIN, TIME_MAX = -63_082_281_600_000_000, 252_455_615_999_999_999
NO_TIME = -(1 << 63)

_PAGE = struct.Struct("=HHIQI")
_LONG = struct.Struct("=QII")
_RECORD = struct.Struct("=IIQBBHI")


class Stop(IntEnum):
    """Why a scan ended."""

    FULL = 0
    SWITCHED = 1
    UNFINISHED = 2
    BROKEN = 3


class Event(IntEnum):
    RESTORE_POINT = 1
    TABLESPACE_CREATE = 2
    PARAMETER_CHANGE = 3


class RawScan(NamedTuple):
    """What both twins return. LSN 0 means "none"; times are NO_TIME or microseconds since 2000-01-01 UTC."""

    stop: int
    magic: int
    timeline: int  # of the first page
    end: int
    end_of_records: int
    first_record: int
    first_prev: int
    last_record: int
    records: int  # whole ones
    earliest: int
    latest: int
    head_length: int
    head: bytes | None
    tail: bytes | None
    events: list[tuple[int, int, bytes]]  # kind, LSN of the record's start, its main data (first EVENT_MAX_BYTES)


class Page(NamedTuple):
    header: int  # bytes
    flags: int
    rest: int  # xlp_rem_len


class _Stopped(Exception):
    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.name)
        self.stop = stop


class _Aborted(Exception):
    """A record was never finished; the page at this offset says so and starts afresh."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class Record(NamedTuple):
    """The fixed part of a record and where its main data lies (0, 0 when it refers to blocks: not for us)."""

    xl_prev: int
    info: int
    rmid: int
    main_at: int
    main_length: int


def scan_wal(data: Buffer, start_lsn: int, page_size: int) -> RawScan:
    """As `_native.scan_wal`. ValueError if page_size or the length of data cannot be."""
    view = memoryview(data).cast("B")
    if not 1024 <= page_size <= 65536 or page_size & (page_size - 1):
        raise ValueError(f"WAL page size {page_size}")
    if len(view) == 0 or len(view) % page_size or len(view) > 1 << 30 or not 0 <= start_lsn < (1 << 64) - len(view):
        raise ValueError(f"{len(view)} bytes of WAL at {start_lsn}")
    return _Scan(view, start_lsn, page_size).run()


def parse_record(prefix: bytes | memoryview, total: int) -> Record:
    """The header of a record of `total` bytes, of which the first min(total, PREFIX_BYTES) are given."""
    _, _, xl_prev, info, rmid, _, _ = _RECORD.unpack_from(prefix)
    at = RECORD_HEADER_BYTES
    while at < len(prefix):
        kind = prefix[at]
        if kind == ID_ORIGIN:
            at += 3
        elif kind == ID_TOPLEVEL_XID:
            at += 5
        elif kind == ID_DATA_SHORT and at + 2 <= len(prefix):
            return _with_main(xl_prev, info, rmid, at + 2, prefix[at + 1], total)
        elif kind == ID_DATA_LONG and at + 5 <= len(prefix):
            length = int.from_bytes(prefix[at + 1 : at + 5], sys.byteorder)
            return _with_main(xl_prev, info, rmid, at + 5, length, total)
        else:
            break
    return Record(xl_prev, info, rmid, 0, 0)


def _with_main(xl_prev: int, info: int, rmid: int, at: int, length: int, total: int) -> Record:
    if at > MAIN_DATA_MAX_AT or at + length != total:
        return Record(xl_prev, info, rmid, 0, 0)
    return Record(xl_prev, info, rmid, at, length)


def time_of(record: Record, prefix: bytes | memoryview) -> int:
    """When the transaction that this record ends was committed or aborted; NO_TIME for every other record."""
    if record.rmid != RM_XACT or record.info & 0x70 not in XACT_OPERATIONS_WITH_TIME or record.main_length < 8:
        return NO_TIME
    (moment,) = struct.unpack_from("=q", prefix, record.main_at)
    return int(moment) if TIME_MIN <= moment <= TIME_MAX else NO_TIME


def event_of(record: Record, prefix: bytes | memoryview) -> tuple[int, bytes] | None:
    """Kind and main data of a record that we report."""
    kind, wanted = 0, 0
    if record.rmid == RM_XLOG and record.info & 0xF0 == XLOG_RESTORE_POINT:
        kind, wanted = Event.RESTORE_POINT, RESTORE_POINT_BYTES
    elif record.rmid == RM_XLOG and record.info & 0xF0 == XLOG_PARAMETER_CHANGE:
        kind, wanted = Event.PARAMETER_CHANGE, PARAMETER_CHANGE_BYTES
    elif record.rmid == RM_TABLESPACE and record.info & 0xF0 == TABLESPACE_CREATE:
        kind, wanted = Event.TABLESPACE_CREATE, 4
    if kind == 0 or record.main_length < wanted:
        return None
    length = min(record.main_length, EVENT_MAX_BYTES)
    return int(kind), bytes(prefix[record.main_at : record.main_at + length])


def checked(record: bytes | memoryview, crc_of_rest: int) -> bool:
    """True if the record's CRC (over what follows the header, then over the header before the CRC) is right."""
    (stored,) = struct.unpack_from("=I", record, CRC_AT)
    return crc32c(bytes(record[:CRC_AT]), crc_of_rest) == int(stored)


class _Scan:
    def __init__(self, view: memoryview, start: int, page_size: int) -> None:
        self.view, self.start, self.page_size = view, start, page_size
        self.magic = self.timeline = self.newest_timeline = 0
        self.first_record = self.first_prev = self.last_record = self.records = 0
        self.last_whole = 0
        self.earliest = self.latest = NO_TIME
        self.head_length, self.head, self.tail = 0, None, None
        self.events: list[tuple[int, int, bytes]] = []
        self.end = 0
        self.overwrites = False

    head: bytes | None
    tail: bytes | None

    def run(self) -> RawScan:
        try:
            cursor = self._head()
            while cursor < len(self.view):
                try:
                    cursor = self._record(cursor)
                except _Aborted as aborted:
                    cursor = aborted.offset
            stop = Stop.FULL
        except _Stopped as stopped:
            stop = stopped.stop
        whole = stop in (Stop.FULL, Stop.SWITCHED)
        return RawScan(
            int(stop),
            self.magic,
            self.timeline,
            self.start + (len(self.view) if whole else self.end),
            self.start + self.end,
            self.first_record,
            self.first_prev,
            self.last_record,
            self.records,
            self.earliest,
            self.latest,
            self.head_length,
            self.head,
            self.tail,
            self.events,
        )

    def _page(self, offset: int) -> Page:
        """The header of the page at offset, checked."""
        magic, flags, timeline, address, rest = _PAGE.unpack_from(self.view, offset)
        if magic == 0 and address == 0:
            raise _Stopped(Stop.UNFINISHED)
        if offset == 0:
            _, _, block = _LONG.unpack_from(self.view, SHORT_HEADER_BYTES)
            if magic >> 8 != MAGIC_FAMILY or not flags & LONG_HEADER or block != self.page_size:
                raise _Stopped(Stop.BROKEN)
            self.magic, self.timeline = magic, timeline
        if (
            magic != self.magic
            or flags & ~ALL_FLAGS
            or address != self.start + offset
            or timeline == 0
            or timeline < self.newest_timeline
        ):
            raise _Stopped(Stop.BROKEN)
        self.newest_timeline = timeline
        return Page(LONG_HEADER_BYTES if flags & LONG_HEADER else SHORT_HEADER_BYTES, flags, rest)

    def _head(self) -> int:
        """Pass the rest of a record that began before; return where the first one begins."""
        page = self._page(0)
        self.overwrites = bool(page.flags & FIRST_IS_OVERWRITE)
        if not page.flags & FIRST_IS_CONTRECORD:
            return page.header
        self.head_length = page.rest
        if page.rest == 0:
            raise _Stopped(Stop.BROKEN)
        pieces: list[memoryview] = []
        try:
            end = self._pieces(page.header, page.rest, pieces)
        except _Aborted as aborted:
            return aborted.offset
        if end is None:
            return len(self.view)
        if page.rest <= FRAGMENT_MAX_BYTES:
            self.head = b"".join(pieces)
        self.end = _aligned(end)
        return self.end

    def _pieces(self, offset: int, length: int, pieces: list[memoryview]) -> int | None:
        """Collect length bytes from offset on, without page headers; return where they end, None beyond the segment."""
        while True:
            take = min(self.page_size - offset % self.page_size, length)
            pieces.append(self.view[offset : offset + take])
            offset, length = offset + take, length - take
            if length == 0:
                return offset
            if offset == len(self.view):
                return None
            page = self._page(offset)
            if not page.flags & FIRST_IS_CONTRECORD:
                if page.flags & FIRST_IS_OVERWRITE:
                    raise _Aborted(offset)
                raise _Stopped(Stop.BROKEN)
            if page.rest != length:
                raise _Stopped(Stop.BROKEN)
            offset += page.header

    def _record(self, cursor: int) -> int:
        """Read the record at cursor (or behind the page header there); return where the next one is."""
        if cursor % self.page_size == 0:
            page = self._page(cursor)
            if page.flags & FIRST_IS_CONTRECORD:
                raise _Stopped(Stop.BROKEN)
            cursor += page.header
        (total,) = struct.unpack_from("=I", self.view, cursor)
        if total == 0:
            raise _Stopped(Stop.SWITCHED if self._head_is_switch(cursor) else Stop.UNFINISHED)
        if not RECORD_HEADER_BYTES <= total <= RECORD_MAX_BYTES:
            raise _Stopped(Stop.BROKEN)
        pieces: list[memoryview] = []
        end = self._pieces(cursor, total, pieces)
        whole = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        lsn = self.start + cursor
        if end is None:
            self._tail(whole, lsn)
            return len(self.view)
        prefix = whole[:PREFIX_BYTES]
        record = parse_record(prefix, total)
        self._check_prev(record.xl_prev, lsn)
        if not checked(prefix, crc32c(whole[RECORD_HEADER_BYTES:])):
            raise _Stopped(Stop.BROKEN)
        self._note(record, prefix, lsn)
        self.end = _aligned(end)
        if record.rmid == RM_XLOG and record.info & 0xF0 == XLOG_SWITCH:
            raise _Stopped(Stop.SWITCHED)
        return self.end

    def _note(self, record: Record, prefix: memoryview, lsn: int) -> None:
        if not self.first_record:
            self.first_record, self.first_prev = lsn, record.xl_prev
            is_overwrite = record.rmid == RM_XLOG and record.info & 0xF0 == XLOG_OVERWRITE_CONTRECORD
            if self.overwrites and is_overwrite and record.main_length >= 8:
                (self.first_prev,) = struct.unpack_from("=Q", prefix, record.main_at)
        self.last_record = self.last_whole = lsn
        self.records += 1
        moment = time_of(record, prefix)
        if moment != NO_TIME:
            self.earliest = moment if self.earliest == NO_TIME else min(self.earliest, moment)
            self.latest = max(self.latest, moment)
        event = event_of(record, prefix)
        if event is not None:
            self.events.append((event[0], lsn, event[1]))

    def _tail(self, begun: memoryview, lsn: int) -> None:
        """The beginning of a record that ends in the next segment."""
        if len(begun) >= 16:
            (prev,) = struct.unpack_from("=Q", begun, 8)
            self._check_prev(prev, lsn)
            if not self.first_record:
                self.first_prev = prev
        if not self.first_record:
            self.first_record = lsn
        self.last_record = lsn
        if len(begun) <= FRAGMENT_MAX_BYTES:
            self.tail = bytes(begun)

    def _check_prev(self, prev: int, lsn: int) -> None:
        if prev >= lsn or (self.last_whole and prev != self.last_whole):
            raise _Stopped(Stop.BROKEN)

    def _head_is_switch(self, cursor: int) -> bool:
        """True if all there is here is the end of a 24-byte XLOG_SWITCH record that began in the segment before."""
        if self.records or cursor != self.end or self.head is None or self.head_length not in (8, 16):
            return False
        info, rmid, padding = struct.unpack_from("=BBH", self.head, self.head_length - 8)
        return bool(info & 0xF0 == XLOG_SWITCH and rmid == RM_XLOG and padding == 0)


def _aligned(offset: int) -> int:
    return offset + 7 & ~7
