"""A file that a server overwrites in place is read until it is whole."""

import os
from pathlib import Path

import pytest

from pgrecall.clock import ManualClock
from pgrecall.errors import FilenodeMapDamaged
from pgrecall.postgres.scratch import ScratchServer
from pgrecall.services.backup.reading import read_filenode_map_again


class Overwriting(ManualClock):
    """A server that goes on while we wait: after some pauses the file is whole."""

    def __init__(self, path: Path, whole: bytes, pauses: int) -> None:
        super().__init__("2026-11-20T12:00:00Z")
        self._path, self._whole, self._left = path, whole, pauses

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._left -= 1
        if self._left == 0:
            self._path.write_bytes(self._whole)


@pytest.mark.newest
def test_a_filenode_map_torn_while_it_was_read_is_read_again(pg: ScratchServer, tmp_path: Path) -> None:
    whole = (pg.pgdata / "global/pg_filenode.map").read_bytes()
    path = tmp_path / "pg_filenode.map"
    torn = bytearray(whole)
    torn[20] ^= 1
    for pauses, readable in ((3, True), (100, False)):
        path.write_bytes(torn)
        memory = memoryview(bytearray(torn))
        clock = Overwriting(path, whole, pauses)
        fd = os.open(path, os.O_RDONLY)
        try:
            if readable:
                length = read_filenode_map_again(fd, memory, len(memory), b"global/pg_filenode.map", clock)
                assert bytes(memory[:length]) == whole
            else:
                with pytest.raises(FilenodeMapDamaged):
                    read_filenode_map_again(fd, memory, len(memory), b"global/pg_filenode.map", clock)
        finally:
            os.close(fd)
