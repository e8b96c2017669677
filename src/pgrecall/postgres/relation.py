"""Owns the names of relation files: which relation, fork and segment a path is (common/relpath.c)."""

import re
import sys
from dataclasses import dataclass
from enum import StrEnum

from pgrecall.postgres.crc import crc32c

FILENODE_MAP = b"pg_filenode.map"
FILENODE_MAP_MAGIC = 0x592717
# Size of RelMapFile and place of its CRC (utils/cache/relmapper.c): 62 mappings up to PostgreSQL 15, 64 since.
_CRC_PLACES = {512: 504, 524: 520}

DEFAULT_TABLESPACE_OID = 1663
GLOBAL_TABLESPACE_OID = 1664

_NUMBER = rb"([1-9][0-9]{0,9})"
_NAME = re.compile(_NUMBER + rb"(?:_(fsm|vm|init))?(?:\." + _NUMBER + rb")?\Z")
_TEMPORARY = re.compile(rb"t[0-9]+_[0-9]+(?:_(?:fsm|vm|init))?(?:\.[0-9]+)?\Z")
_DIRECTORY = re.compile(
    rb"(?:(global)|base/" + _NUMBER + rb"|pg_tblspc/" + _NUMBER + rb"/PG_[0-9.]+_[0-9]+/" + _NUMBER + rb")\Z"
)


class Fork(StrEnum):
    MAIN = "main"
    FSM = "fsm"
    VM = "vm"
    INIT = "init"


@dataclass(frozen=True, slots=True)
class RelationFile:
    """One segment of one fork. `tablespace` and `database` are OIDs (0: shared), `number` is the relfilenumber."""

    tablespace: int
    database: int
    number: int
    fork: Fork
    segment: int

    @property
    def page_increments(self) -> bool:
        """Whether page LSNs say what changed: in main forks only, FSM and VM pages change without one."""
        return self.fork is Fork.MAIN


def parse_relation_name(name: bytes) -> tuple[int, Fork, int] | None:
    """(relfilenumber, fork, segment) of a name in a relation directory; None for any other and for temporary ones."""
    found = _NAME.match(name)
    if found is None:
        return None
    number, fork, segment = found.groups()
    return int(number), Fork(fork.decode()) if fork else Fork.MAIN, int(segment or 0)


def parse_relation_path(path: bytes) -> RelationFile | None:
    """What a path relative to the data directory is: `base/5/16384_vm.2`, `pg_tblspc/16400/PG_18_202506291/5/16384`…"""
    directory, _, name = path.rpartition(b"/")
    place = _DIRECTORY.match(directory)
    named = parse_relation_name(name) if place else None
    if place is None or named is None:
        return None
    shared, database, tablespace, tablespace_database = place.groups()
    if shared:
        return RelationFile(GLOBAL_TABLESPACE_OID, 0, *named)
    if database:
        return RelationFile(DEFAULT_TABLESPACE_OID, int(database), *named)
    return RelationFile(int(tablespace), int(tablespace_database), *named)


def is_relation_directory(path: bytes) -> bool:
    return _DIRECTORY.match(path) is not None


def is_temporary_name(name: bytes) -> bool:
    """Files of temporary tables: t<backend>_<relfilenumber>, any fork, any segment (storage/file/fd.c)."""
    return _TEMPORARY.match(name) is not None


def first_block(segment: int, relation_segment_pages: int) -> int:
    """The block number of a segment's first page, which its page checksums are made with."""
    return segment * relation_segment_pages


def is_whole_filenode_map(data: bytes) -> bool:
    """False for what fails its CRC: a server up to 15 overwrites it in place, so it may be read torn."""
    place = _CRC_PLACES.get(len(data))
    if place is None or int.from_bytes(data[:4], sys.byteorder) != FILENODE_MAP_MAGIC:
        return False
    return crc32c(data[:place]) == int.from_bytes(data[place : place + 4], sys.byteorder)
