"""Owns pg_wal of a live server: the segments that a backup brings itself, archive status, the segment in writing."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.wal import (
    WalSegment,
    is_backup_history_name,
    is_history_name,
    is_partial_name,
    is_segment_name,
    segments_between,
)
from pgrecall.errors import WalMissing
from pgrecall.postgres.connection import Connection
from pgrecall.postgres.session import query
from pgrecall.postgres.walpage import check_segment_header

WAL_DIRECTORY = "pg_wal"
STATUS_DIRECTORY = "archive_status"

# xlog_internal.h: XLogPageHeaderData
_PAGE_HEADER = np.dtype([("magic", "=u2"), ("info", "=u2"), ("timeline", "=u4"), ("address", "=u8")])


class WalFile(NamedTuple):
    segment: WalSegment
    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """What the server waits to hand over, and what it handed over but has not removed: names of segments and others,
    each in order, history files first as the archiver takes them.
    """

    ready: tuple[str, ...]
    done: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WalTail:
    """The segment that the server writes now: bytes before `flushed` are on disk, up to `inserted` in memory."""

    segment: WalSegment
    name: str
    flushed: Lsn
    inserted: Lsn


def find_segments(pgdata: Path, *, timeline: int, start: Lsn, stop: Lsn, segment_size: int) -> list[WalFile]:
    """The files that hold start up to stop, in order; each whole once pg_backup_stop has switched past stop.

    WalMissing names the first one that is not there.
    """
    found = []
    for segment in segments_between(timeline, start, stop, segment_size):
        name = segment.name(segment_size)
        path = pgdata / WAL_DIRECTORY / name
        if not path.is_file():
            raise _missing(name, "is not there")
        found.append(WalFile(segment, name, path))
    return found


def read_segment(file: WalFile, *, segment_size: int, system_identifier: int, wal_page_size: int) -> bytes:
    """A complete segment's bytes, every page of which is this segment's.

    A file that the server recycled while we held it open was renamed and written over: its pages show another
    position. Raise WalMissing then, and when the file is gone or short; WrongCluster, WalInvalid for a foreign one.
    """
    try:
        with file.path.open("rb") as source:
            data = source.read(segment_size + 1)
    except FileNotFoundError:
        raise _missing(file.name, "is not there") from None
    if len(data) != segment_size:
        raise _missing(file.name, f"has {len(data)} bytes instead of {segment_size}")
    check_segment_header(data, system_id=system_identifier, segment=file.segment, size=segment_size)
    _check_pages(file, data, segment_size, wal_page_size)
    return data


def read_archive_status(pgdata: Path) -> ArchiveStatus:
    """Read pg_wal/archive_status as it is now."""
    ready: list[str] = []
    done: list[str] = []
    with os.scandir(pgdata / WAL_DIRECTORY / STATUS_DIRECTORY) as entries:
        for entry in entries:
            name, dot, state = entry.name.rpartition(".")
            if dot and state in ("ready", "done") and _is_archived_name(name):
                (ready if state == "ready" else done).append(name)
    return ArchiveStatus(_archiver_order(ready), _archiver_order(done))


def wal_tail(conn: Connection) -> WalTail:
    """Where a primary writes now."""
    ((flushed, inserted, name, size),) = query(
        conn,
        "SELECT pg_current_wal_flush_lsn()::text, pg_current_wal_insert_lsn()::text,"
        " pg_walfile_name(pg_current_wal_insert_lsn()),"
        " (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size')",
    )
    position = Lsn.parse(flushed)
    segment = WalSegment.containing(position, int(name[:8], 16), size)
    return WalTail(segment, segment.name(size), position, Lsn.parse(inserted))


def _check_pages(file: WalFile, data: bytes, segment_size: int, wal_page_size: int) -> None:
    pages = np.ndarray(segment_size // wal_page_size, _PAGE_HEADER, data, strides=(wal_page_size,))
    start = np.uint64(file.segment.start(segment_size))
    expected = start + np.arange(len(pages), dtype=np.uint64) * np.uint64(wal_page_size)
    # What follows a switch record is zero, headers too (xlog.c: CopyXLogRecordToWAL).
    unused = (pages["magic"] == 0) & (pages["address"] == 0)
    wrong = np.flatnonzero(~unused & ((pages["address"] != expected) | (pages["timeline"] > file.segment.timeline)))
    if wrong.size:
        number = int(wrong[0])
        found = Lsn(int(pages["address"][number]))
        raise _missing(file.name, f"was recycled while it was read: page {number} is of {found}")


def _is_archived_name(name: str) -> bool:
    return is_segment_name(name) or is_history_name(name) or is_partial_name(name) or is_backup_history_name(name)


def _archiver_order(names: list[str]) -> tuple[str, ...]:
    """History files first, then by name (pgarch.c: ready_file_comparator)."""
    return tuple(sorted(names, key=lambda name: (not is_history_name(name), name)))


def _missing(name: str, why: str) -> WalMissing:
    return WalMissing(
        f"WAL segment {name} {why} in the server's pg_wal",
        hint="Archive WAL (pgrecall init), or raise max_slot_wal_keep_size; then back up again.",
        segment=name,
    )
