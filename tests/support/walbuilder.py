"""Makes WAL byte by byte, also WAL that no server writes: records, links, CRCs, page headers."""

import struct
from dataclasses import dataclass, field

from pgrecall.postgres.crc import crc32c

MAGIC = 0xD118
CONTRECORD, LONG, OVERWRITE = 1, 2, 8
SYSTEM = 7_000_000_000_000_000_001


def record_bytes(
    *, rmid: int, info: int, main: bytes = b"", xid: int = 0, prev: int = 0, before_main: bytes = b""
) -> bytes:
    """One record with a right CRC; before_main are block references, an origin or a top-level xid."""
    body = before_main
    if main:
        short = len(main) < 256
        body += struct.pack("=BB", 255, len(main)) if short else struct.pack("=BI", 254, len(main))
    body += main
    head = struct.pack("=IIQBBH", 24 + len(body), xid, prev, info, rmid, 0)
    return head + struct.pack("=I", crc32c(head, crc32c(body))) + body


@dataclass
class WalBuilder:
    """A run of pages that begins with a segment's first page; `take` cuts it into segments."""

    start: int = 0x3_0000_0000
    page_size: int = 1024
    timeline: int = 1
    segment_size: int = 1 << 20
    data: bytearray = field(default_factory=bytearray)
    last: int = 0x2_FFFF_FF00

    @property
    def at(self) -> int:
        """Where the next record begins."""
        self._align()
        if len(self.data) % self.page_size == 0:
            return self.start + len(self.data) + (24 if len(self.data) else 40)
        return self.start + len(self.data)

    def append(
        self, *, rmid: int, info: int, main: bytes = b"", prev: int | None = None, before_main: bytes = b""
    ) -> int:
        """Add a record that links to the one before; its LSN."""
        link = self.last if prev is None else prev
        return self.append_bytes(record_bytes(rmid=rmid, info=info, main=main, prev=link, before_main=before_main))

    def append_bytes(self, record: bytes) -> int:
        self._align()
        begun = rest = len(record)
        lsn = self.at
        while rest:
            if len(self.data) % self.page_size == 0:
                self.page(rest=0 if rest == begun else rest)
            room = self.page_size - len(self.data) % self.page_size
            self.data += record[begun - rest : begun - rest + room]
            rest -= min(room, rest)
        self.last = lsn
        return lsn

    def page(self, *, rest: int = 0, flags: int = 0, address: int | None = None) -> None:
        """A page header."""
        assert len(self.data) % self.page_size == 0
        first = not self.data
        flags |= (CONTRECORD if rest else 0) | (LONG if first else 0)
        where = self.start + len(self.data) if address is None else address
        self.data += struct.pack("=HHIQI4x", MAGIC, flags, self.timeline, where, rest)
        if first:
            self.data += struct.pack("=QII", SYSTEM, self.segment_size, self.page_size)

    def fill_page(self, keep: int = 0) -> None:
        """Add one record that leaves `keep` bytes (a multiple of 8) of this page."""
        self._align()
        room = self.page_size - len(self.data) % self.page_size
        if len(self.data) % self.page_size == 0:
            room = self.page_size - (24 if self.data else 40)
        need = room - keep - 24
        assert need >= 8, "the page has no room for a record"
        self.append_bytes(_sized(need, self.last))

    def take(self, pages: int) -> bytes:
        """The first pages, padded with zeros."""
        size = pages * self.page_size
        return bytes(self.data[:size].ljust(size, b"\0"))

    def _align(self) -> None:
        self.data += bytes(-len(self.data) % 8)


def _sized(body: int, prev: int) -> bytes:
    """A NOOP record with a body of exactly so many bytes."""
    if body - 2 < 256:
        return record_bytes(rmid=0, info=0x20, main=b"n" * (body - 2), prev=prev)
    return record_bytes(rmid=0, info=0x20, main=b"n" * (body - 5), prev=prev)
