"""Owns the reading of live data files: pages are checked, and read again when they look torn."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pgrecall.clock import Clock
from pgrecall.domain.lsn import Lsn
from pgrecall.errors import FilenodeMapDamaged, FileUnreadable
from pgrecall.postgres.page import BAD_CHECKSUM, CHANGED, HEADER_BAD, scan_pages
from pgrecall.postgres.relation import Fork, RelationFile, first_block, is_whole_filenode_map
from pgrecall.services.backup.damage import NewestPage, Suspect, SuspectPages

REREADS = 8
REREAD_PAUSE_SECONDS = 0.01
PIECE_SIZE = 4 * 1024 * 1024
"""One read, one pass of page checks."""

Flags = npt.NDArray[np.uint8]


def open_data_file(pgdata: Path, path: bytes, *, follow: bool = False) -> int | None:
    """A descriptor, None if the file is gone (dropped since it was listed)."""
    flags = os.O_RDONLY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        return os.open(os.fsencode(pgdata) + b"/" + path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileUnreadable(
            f"cannot open {os.fsdecode(path)} in {pgdata}: {error.strerror}",
            hint="Run as the owner of the data directory; what the owner cannot read stops PostgreSQL, too.",
            path=os.fsdecode(path),
        ) from error


def read_fully(fd: int, memory: memoryview, offset: int, path: bytes) -> int:
    """Fill memory from offset; fewer bytes only at the end of the file."""
    done = 0
    while done < len(memory):
        try:
            count = os.preadv(fd, [memory[done:]], offset + done)
        except OSError as error:
            raise FileUnreadable(
                f"cannot read {os.fsdecode(path)} at byte {offset + done}: {error.strerror}",
                hint="The disk or file system below the database reports this error: look at the kernel's log.",
                path=os.fsdecode(path),
                offset=offset + done,
            ) from error
        if count == 0:
            break
        done += count
    return done


def read_filenode_map_again(fd: int, memory: memoryview, length: int, path: bytes, clock: Clock) -> int:
    """Up to PostgreSQL 15 a filenode map is overwritten in place: read it until its checksum is right."""
    for _ in range(REREADS):
        if is_whole_filenode_map(bytes(memory[:length])):
            return length
        clock.sleep(REREAD_PAUSE_SECONDS)
        length = read_fully(fd, memory, 0, path)
    if is_whole_filenode_map(bytes(memory[:length])):
        return length
    raise FilenodeMapDamaged(
        f"{os.fsdecode(path)} fails its checksum, read {REREADS + 1} times", path=os.fsdecode(path)
    )


class PageReader:
    """Reads spans of files and looks at their pages. One per worker: it owns the flags' memory."""

    def __init__(
        self,
        *,
        page_size: int,
        relation_segment_pages: int,
        checksums: bool,
        since: Lsn,
        suspects: SuspectPages,
        clock: Clock,
    ) -> None:
        self._page_size = page_size
        self._segment_pages = relation_segment_pages
        self._checksums = checksums
        self._since = since
        self._suspects = suspects
        self._clock = clock

    def flags_of(self, fd: int, data: memoryview, offset: int, *, path: bytes, relation: RelationFile) -> Flags:
        """Page flags (scan_pages) of data, read at offset of the file; torn pages are read again into it."""
        page_size = self._page_size
        count = len(data) // page_size
        flags = np.zeros(count, np.uint8)
        if not count:
            return flags
        first = first_block(relation.segment, self._segment_pages) + offset // page_size
        newest = Lsn(0)
        for at in range(0, count * page_size, PIECE_SIZE):
            piece = data[at : min(at + PIECE_SIZE, count * page_size)]
            out = flags[at // page_size : at // page_size + len(piece) // page_size]
            summary = scan_pages(
                piece,
                page_size=page_size,
                first_block=first + at // page_size,
                verify=self._checksums,
                since=self._since,
                out=out,
            )
            newest = max(newest, summary.max_lsn)
            if summary.bad_checksums or summary.bad_headers:
                self._read_again(fd, piece, offset + at, first + at // page_size, out, path, relation)
        self._note_newest(data, newest, first, path)
        return flags

    def _read_again(
        self,
        fd: int,
        piece: memoryview,
        offset: int,
        first: int,
        flags: Flags,
        path: bytes,
        relation: RelationFile,
    ) -> None:
        """Read each bad page again until it is good, or two reads agree that it is bad."""
        size = self._page_size
        for index in np.flatnonzero(flags & (BAD_CHECKSUM | HEADER_BAD)).tolist():
            page = piece[index * size : (index + 1) * size]
            for _ in range(REREADS):
                before = bytes(page)
                self._clock.sleep(REREAD_PAUSE_SECONDS)
                if os.preadv(fd, [page], offset + index * size) != size:
                    page[:] = before
                    flags[index] = CHANGED  # cut off meanwhile, as WAL replay will cut it: nobody's damage
                    break
                scan_pages(
                    page,
                    page_size=size,
                    first_block=first + index,
                    verify=self._checksums,
                    since=self._since,
                    out=flags[index : index + 1],
                )
                if not flags[index] & (BAD_CHECKSUM | HEADER_BAD) or bytes(page) == before:
                    break
            if flags[index] & (BAD_CHECKSUM | HEADER_BAD):
                reason = "wrong checksum" if flags[index] & BAD_CHECKSUM else "header that no server writes"
                lsn = Lsn(int.from_bytes(page[0:4], "little") << 32 | int.from_bytes(page[4:8], "little"))
                self._suspects.add([Suspect(path, first + index, lsn, reason, mendable=relation.fork is not Fork.FSM)])

    def _note_newest(self, data: memoryview, newest: Lsn, first: int, path: bytes) -> None:
        """Remember the page with the highest LSN: one beyond the end of the backup was written by no WAL of ours."""
        if newest <= self._since:
            return
        words = np.frombuffer(data, "<u4", count=len(data) // self._page_size * self._page_size // 4)
        heads = words.reshape(-1, self._page_size // 4)
        lsns = heads[:, 0].astype(np.uint64) << np.uint64(32) | heads[:, 1]
        block = int(lsns.argmax())
        self._suspects.saw(NewestPage(Lsn(int(lsns[block])), path, first + block))
