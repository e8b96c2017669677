"""Owns the first page header of a WAL segment: whose it is, and whether the file is the segment it is named after."""

import struct
from typing import NamedTuple

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.wal import WalSegment
from pgrecall.errors import WalInvalid, WrongCluster
from pgrecall.postgres.accel import Buffer
from pgrecall.postgres.walscan_python import (
    ALL_FLAGS,
    LONG_HEADER,
    LONG_HEADER_BYTES,
    MAGIC_FAMILY,
)

# XLOG_PAGE_MAGIC of each major version; it never changes within one.
MAJOR_OF_MAGIC = {0xD106: 13, 0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}

_HEADER = struct.Struct("=HHIQI4xQII")  # XLogLongPageHeaderData


class SegmentIdentity(NamedTuple):
    """What the first page says of itself and its file."""

    system_identifier: int
    timeline: int  # of the first page: at a timeline switch the parent's, lower than in the file's name
    segment_size: int
    lsn: Lsn
    page_size: int
    major: int | None  # None for a version that we do not know


def read_segment_identity(data: Buffer) -> SegmentIdentity:
    """From the first bytes of a segment file (LONG_HEADER_BYTES are enough). WalInvalid if they are no such header."""
    view = memoryview(data).cast("B")
    if len(view) < LONG_HEADER_BYTES:
        raise WalInvalid(f"a WAL segment begins with {LONG_HEADER_BYTES} bytes of header; there are {len(view)} bytes")
    magic, flags, timeline, address, _, system, size, page_size = _HEADER.unpack_from(view)
    if magic >> 8 != MAGIC_FAMILY:
        hint = "The file is empty inside: nothing was written to it yet." if not any(view[:LONG_HEADER_BYTES]) else None
        raise WalInvalid(f"the file begins with {magic:04X}, no WAL segment does", hint=hint)
    if not flags & LONG_HEADER or flags & ~ALL_FLAGS or timeline == 0:
        raise WalInvalid(
            f"the file's first page is no first page of a WAL segment (flags {flags:04X}, timeline {timeline})"
        )
    return SegmentIdentity(system, timeline, size, Lsn(address), page_size, MAJOR_OF_MAGIC.get(magic))


def check_segment_header(data: Buffer, *, system_id: int, segment: WalSegment, size: int) -> SegmentIdentity:
    """Refuse a file that is not this segment of this cluster; data is the file or its first page.

    Raise WrongCluster when another system wrote it, WalInvalid when it is no WAL, or WAL of another place, timeline or
    segment size.
    """
    identity = read_segment_identity(data)
    name = segment.name(size)
    if identity.system_identifier != system_id:
        raise WrongCluster(
            f"segment {name} belongs to system {identity.system_identifier}, this cluster is system {system_id}",
            hint="Does archive_command name the right cluster?",
            found=str(identity.system_identifier),
            expected=str(system_id),
        )
    if identity.segment_size != size:
        raise WalInvalid(f"segment {name} says it has {identity.segment_size} bytes; this cluster's have {size}")
    if identity.lsn != segment.start(size):
        raise WalInvalid(
            f"the file named {name} holds WAL of {identity.lsn}, not of {segment.start(size)}",
            hint="A recycled file is renamed before it is written again: read it later, or from the archive.",
        )
    if identity.timeline > segment.timeline:
        raise WalInvalid(f"the file named {name} holds WAL of timeline {identity.timeline}, later than its name says")
    return identity
