"""Owns `global/pg_control`: its layouts from PostgreSQL 13 to 18, its checksum, and reading it while the server writes.

Layout: PostgreSQL catalog/pg_control.h, on machines with 8-byte alignment and the byte order of this one. It follows
PG_CONTROL_VERSION: 1300 (PostgreSQL 13 to 16), 1700 (17: wal_level in the checkpoint), 1800 (18: signedness of char).
"""

import struct
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Self

from pgrecall.clock import Clock
from pgrecall.domain.lsn import Lsn
from pgrecall.errors import ControlFileDamaged, ControlVersionUnknown, NoDataDirectory
from pgrecall.postgres.accel import Buffer, is_page_size
from pgrecall.postgres.crc import crc32c

CONTROL_FILE = "global/pg_control"
FILE_BYTES = 8192
READ_ATTEMPTS = 20
READ_PAUSE_SECONDS = 0.02
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

SERVERS_OF_VERSION = {1300: "13 to 16", 1700: "17", 1800: "18"}
_CRC_AT = {1300: 288, 1700: 288, 1800: 292}
_VERSION_AT = 8

# Fixed part, the same in 1300, 1700 and 1800: "x" is the compiler's padding.
_LAYOUT = struct.Struct(
    "="
    "QII"  # system identifier, control version, catalog version
    "I4xqQ"  # state, time, checkpoint
    "QII?3xiQ"  # checkpoint copy: redo, timeline, previous timeline, full_page_writes, wal_level (from 17), nextXid
    "IIIIIII4xq"  # … nextOid, nextMulti, nextMultiOffset, oldestXid, its database, oldestMulti, its database, time
    "III4x"  # … oldestCommitTsXid, newestCommitTsXid, oldestActiveXid
    "QQI4xQQ?3x"  # unlogged LSN, minimum recovery point and timeline, backup start, backup end, end required
    "i?3xiiiii?3x"  # wal_level … track_commit_timestamp
    "Id"  # maximum alignment, float format
    "IIII"  # block size, relation segment size, WAL block size, WAL segment size
    "IIII?3xI"  # name length, index keys, TOAST chunk, large object chunk, float8 by value, checksum version
)
FLOAT_FORMAT = 1234567.0
WAL_LEVELS = ("minimal", "replica", "logical")


class ClusterState(IntEnum):
    """DBState; `text` as pg_controldata says it."""

    STARTING_UP = 0
    SHUT_DOWN = 1
    SHUT_DOWN_IN_RECOVERY = 2
    SHUTTING_DOWN = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6

    @property
    def text(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFile:
    """What pg_control says. LSN 0/0 means "none"; sizes are in bytes unless their name says otherwise."""

    system_identifier: int
    control_version: int
    catalog_version: int
    state: ClusterState
    modified: datetime
    checkpoint: Lsn
    redo: Lsn
    timeline: int
    previous_timeline: int
    full_page_writes: bool
    checkpoint_wal_level: str | None  # None before PostgreSQL 17
    next_xid: int  # with its epoch: epoch << 32 | xid
    next_oid: int
    next_multi: int
    next_multi_offset: int
    oldest_xid: int
    oldest_xid_database: int
    oldest_multi: int
    oldest_multi_database: int
    checkpoint_time: datetime
    oldest_commit_ts_xid: int
    newest_commit_ts_xid: int
    oldest_active_xid: int
    unlogged_lsn: Lsn
    min_recovery_point: Lsn
    min_recovery_timeline: int
    backup_start: Lsn
    backup_end: Lsn
    backup_end_required: bool
    wal_level: str
    wal_log_hints: bool
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_xacts: int
    max_locks_per_xact: int
    track_commit_timestamp: bool
    max_align: int
    block_size: int
    relation_segment_blocks: int
    wal_block_size: int
    wal_segment_size: int
    name_length: int
    index_max_keys: int
    toast_max_chunk_size: int
    large_object_chunk_size: int
    float8_by_value: bool
    checksum_version: int  # 0: data pages carry no checksums
    char_is_signed: bool | None  # None before PostgreSQL 18

    @property
    def checksums(self) -> bool:
        return self.checksum_version != 0

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Raise ControlVersionUnknown, or ControlFileDamaged when a length, the CRC or a value is wrong (or torn)."""
        view = memoryview(data).cast("B")
        if len(view) < _VERSION_AT + 4:
            raise ControlFileDamaged(f"pg_control has {len(view)} bytes, not {FILE_BYTES}", bytes=len(view))
        (version,) = struct.unpack_from("=I", view, _VERSION_AT)
        crc_at = _CRC_AT.get(version)
        if crc_at is None:
            raise _unknown(version)
        if len(view) < crc_at + 4:
            raise ControlFileDamaged(f"pg_control has {len(view)} bytes, not {FILE_BYTES}", bytes=len(view))
        (stored,) = struct.unpack_from("=I", view, crc_at)
        computed = crc32c(view[:crc_at])
        if stored != computed:
            raise ControlFileDamaged(f"pg_control has CRC {stored:08X}, its content has {computed:08X}")
        return cls._from_values(_LAYOUT.unpack_from(view), bool(view[256]) if version >= 1800 else None)

    @classmethod
    def _from_values(cls, values: tuple[int, ...], char_is_signed: bool | None) -> Self:
        rest = iter(values)

        def number() -> int:
            return next(rest)

        def flag() -> bool:
            return bool(next(rest))

        def lsn() -> Lsn:
            return Lsn(next(rest))

        def moment() -> datetime:
            seconds = next(rest)
            try:
                return UNIX_EPOCH + timedelta(seconds=seconds)
            except OverflowError:
                raise ControlFileDamaged(f"pg_control holds a time of {seconds} seconds after 1970") from None

        # Python evaluates keyword arguments in the order written: this is the order of _LAYOUT.
        made = cls(
            system_identifier=number(),
            control_version=(version := number()),
            catalog_version=number(),
            state=_state(number()),
            modified=moment(),
            checkpoint=lsn(),
            redo=lsn(),
            timeline=number(),
            previous_timeline=number(),
            full_page_writes=flag(),
            checkpoint_wal_level=_checkpoint_wal_level(number(), version),
            next_xid=number(),
            next_oid=number(),
            next_multi=number(),
            next_multi_offset=number(),
            oldest_xid=number(),
            oldest_xid_database=number(),
            oldest_multi=number(),
            oldest_multi_database=number(),
            checkpoint_time=moment(),
            oldest_commit_ts_xid=number(),
            newest_commit_ts_xid=number(),
            oldest_active_xid=number(),
            unlogged_lsn=lsn(),
            min_recovery_point=lsn(),
            min_recovery_timeline=number(),
            backup_start=lsn(),
            backup_end=lsn(),
            backup_end_required=flag(),
            wal_level=wal_level_name(number()),
            wal_log_hints=flag(),
            max_connections=number(),
            max_worker_processes=number(),
            max_wal_senders=number(),
            max_prepared_xacts=number(),
            max_locks_per_xact=number(),
            track_commit_timestamp=flag(),
            max_align=_architecture(number(), number()),
            block_size=number(),
            relation_segment_blocks=number(),
            wal_block_size=number(),
            wal_segment_size=number(),
            name_length=number(),
            index_max_keys=number(),
            toast_max_chunk_size=number(),
            large_object_chunk_size=number(),
            float8_by_value=flag(),
            checksum_version=number(),
            char_is_signed=char_is_signed,
        )
        made._check_sizes()
        return made

    def _check_sizes(self) -> None:
        """Refuse sizes that would make us count wrongly: anybody can compute the CRC, and the file may be hostile."""
        wal_block, segment = self.wal_block_size, self.wal_segment_size
        for name, size, good in (
            ("block size", self.block_size, is_page_size(self.block_size)),
            ("relation segment size", self.relation_segment_blocks, self.relation_segment_blocks > 0),
            ("WAL block size", wal_block, 1024 <= wal_block <= 65536 and _is_power(wal_block)),
            ("WAL segment size", segment, 1 << 20 <= segment <= 1 << 30 and _is_power(segment)),
        ):
            if not good:
                raise ControlFileDamaged(f"pg_control says {name} {size}, which no server has")


def wal_level_name(number: int) -> str:
    """minimal, replica or logical; ControlFileDamaged for any other number."""
    if not 0 <= number < len(WAL_LEVELS):
        raise ControlFileDamaged(f"{number} is no wal_level")
    return WAL_LEVELS[number]


def read_system_identifier(pgdata: Path) -> int:
    """The first field of pg_control in every version; it never changes, so it is never torn."""
    with (pgdata / CONTROL_FILE).open("rb") as control:
        return int.from_bytes(control.read(8), sys.byteorder)


def read_control(pgdata: Path, *, clock: Clock) -> ControlFile:
    """Read and parse pg_control of a data directory whose server may be writing it: a torn read is read again.

    Raise NoDataDirectory, ControlVersionUnknown, or ControlFileDamaged when it stays wrong for READ_ATTEMPTS reads.
    """
    return ControlFile.parse(read_control_bytes(pgdata, clock=clock))


def read_control_bytes(pgdata: Path, *, clock: Clock) -> bytes:
    """The file's bytes, of which ControlFile.parse made sense; raises as read_control."""
    path = pgdata / CONTROL_FILE
    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NoDataDirectory(
                f"{pgdata} is no data directory of PostgreSQL: it has no {CONTROL_FILE}",
                hint="Name the directory that the server calls data_directory.",
            ) from None
        try:
            ControlFile.parse(data)
        except ControlFileDamaged as error:
            if attempt == READ_ATTEMPTS:
                raise ControlFileDamaged(f"{path}: {error.message}", hint=error.hint, path=str(path)) from None
            clock.sleep(READ_PAUSE_SECONDS)
        else:
            return data
    raise AssertionError("the last attempt returns or raises")


def _unknown(version: int) -> ControlVersionUnknown:
    known = ", ".join(f"{number} (PostgreSQL {servers})" for number, servers in SERVERS_OF_VERSION.items())
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    hint = "Use a pgrecall that knows this PostgreSQL."
    if swapped in SERVERS_OF_VERSION:
        hint = "It was written by a machine of the other byte order; read it on such a machine."
    return ControlVersionUnknown(
        f"pg_control has version {version}; known are {known}", hint=hint, control_version=version
    )


def _state(number: int) -> ClusterState:
    try:
        return ClusterState(number)
    except ValueError:
        raise ControlFileDamaged(f"pg_control holds cluster state {number}, which no server has") from None


def _checkpoint_wal_level(number: int, version: int) -> str | None:
    return wal_level_name(number) if version >= 1700 else None


def _architecture(max_align: int, float_format: float) -> int:
    if float_format != FLOAT_FORMAT:
        raise ControlFileDamaged(f"pg_control holds the float {float_format}, not {FLOAT_FORMAT}: another architecture")
    return max_align


def _is_power(size: int) -> bool:
    return size > 0 and size & (size - 1) == 0
