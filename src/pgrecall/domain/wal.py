"""Owns the names and the arithmetic of WAL segments (PostgreSQL: access/xlog_internal.h)."""

import re
from collections.abc import Iterator
from typing import NamedTuple, Self

from pgrecall.domain.lsn import Lsn
from pgrecall.errors import ValueInvalid, WalNameInvalid

MIN_SEGMENT_SIZE = 1 << 20
MAX_SEGMENT_SIZE = 1 << 30

_SEGMENT = re.compile(r"[0-9A-F]{24}\Z")
_HISTORY = re.compile(r"[0-9A-F]{8}\.history\Z")
_PARTIAL = re.compile(r"[0-9A-F]{24}\.partial\Z")
_BACKUP = re.compile(r"[0-9A-F]{24}\.[0-9A-F]{8}\.backup\Z")


def is_segment_name(name: str) -> bool:
    return _SEGMENT.match(name) is not None


def is_history_name(name: str) -> bool:
    return _HISTORY.match(name) is not None


def is_partial_name(name: str) -> bool:
    return _PARTIAL.match(name) is not None


def is_backup_history_name(name: str) -> bool:
    return _BACKUP.match(name) is not None


def history_name(timeline: int) -> str:
    return f"{timeline:08X}.history"


def check_segment_size(size: int) -> int:
    """The size itself, when initdb could have chosen it."""
    if not MIN_SEGMENT_SIZE <= size <= MAX_SEGMENT_SIZE or size & (size - 1):
        raise ValueInvalid(f"{size} bytes is no WAL segment size: it is a power of two from 1 MiB to 1 GiB", size=size)
    return size


class WalSegment(NamedTuple):
    """One segment file. `number` counts segments from the start of the log; its name depends on the segment size.

    Ordered by timeline, then number.
    """

    timeline: int
    number: int

    @classmethod
    def parse(cls, name: str, size: int) -> Self:
        if not _SEGMENT.match(name):
            raise WalNameInvalid(f"'{name}' is no WAL segment name: it has 24 upper-case hexadecimal digits", name=name)
        timeline, high, low = int(name[:8], 16), int(name[8:16], 16), int(name[16:], 16)
        per_high = (1 << 32) // size
        if timeline == 0 or low >= per_high:
            raise WalNameInvalid(f"'{name}' cannot exist with WAL segments of {size} bytes", name=name, size=size)
        return cls(timeline, high * per_high + low)

    @classmethod
    def containing(cls, lsn: int, timeline: int, size: int) -> Self:
        """The segment that holds the byte at lsn (XLByteToSeg)."""
        return cls(timeline, lsn // size)

    def name(self, size: int) -> str:
        high, low = divmod(self.number, (1 << 32) // size)
        return f"{self.timeline:08X}{high:08X}{low:08X}"

    def start(self, size: int) -> Lsn:
        return Lsn(self.number * size)

    def end(self, size: int) -> Lsn:
        """The position after the segment's last byte."""
        return Lsn((self.number + 1) * size)

    def next(self) -> Self:
        return self._replace(number=self.number + 1)


def segments_between(timeline: int, start: Lsn, stop: Lsn, size: int) -> Iterator[WalSegment]:
    """From the segment that holds start to the one that holds the byte before stop (XLByteToPrevSeg)."""
    assert start <= stop, f"a range runs forward, not from {start} to {stop}"
    for number in range(start // size, (stop - 1) // size + 1):
        yield WalSegment(timeline, number)
