"""Owns the values that a walk of a data directory results in: directories, files, tablespaces, links and notes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple


class FileKind(IntEnum):
    """How a backup treats a file."""

    RELATION_MAIN = 1
    """Pages with LSNs that say what changed."""
    RELATION_OTHER = 2
    """Pages (FSM, VM, init fork), compared whole."""
    FILENODE_MAP = 3
    """Has a CRC of its own and, up to PostgreSQL 15, is overwritten in place: read again while it fails that."""
    OTHER = 4
    LINKED = 5
    """A symbolic link of the user's to a regular file: its content is stored, read through the link."""


class FileItem(NamedTuple):
    """One regular file of a directory. `mode` are permission bits."""

    name: bytes
    size: int
    mtime_ns: int
    inode: int
    mode: int
    uid: int
    gid: int
    kind: FileKind


class DirectoryItem(NamedTuple):
    """`path` is relative to the data directory, empty for itself; files are in the order of their names' bytes."""

    path: bytes
    mode: int
    uid: int
    gid: int
    files: list[FileItem]


class TablespaceItem(NamedTuple):
    """`path` is the link's target; an in-place tablespace is a directory pg_tblspc/<oid> and has no target."""

    oid: int
    path: bytes | None
    in_place: bool


class LinkItem(NamedTuple):
    path: bytes
    target: bytes


class OutsideItem(NamedTuple):
    """A configuration file that lies outside the data directory; `file.name` is unique and without `/`."""

    setting: str
    source: bytes
    file: FileItem


class Note(NamedTuple):
    """Something met on the walk that the user should know, or (info) may."""

    level: Literal["info", "warn"]
    path: bytes
    text: str


@dataclass(slots=True)
class Listing:
    """Directories in the order of their paths' bytes. pg_control is in none: it is read last, by itself."""

    root: bytes
    directories: list[DirectoryItem] = field(default_factory=list)
    tablespaces: list[TablespaceItem] = field(default_factory=list)
    links: list[LinkItem] = field(default_factory=list)
    outside: list[OutsideItem] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    @property
    def file_count(self) -> int:
        return sum(len(each.files) for each in self.directories)

    @property
    def total_bytes(self) -> int:
        return sum(item.size for each in self.directories for item in each.files)

    def files(self) -> Iterator[tuple[bytes, FileItem]]:
        """(path below the data directory, file), in order."""
        for directory in self.directories:
            for item in directory.files:
                yield join(directory.path, item.name), item

    def source(self, path: bytes) -> bytes:
        """Where a path of this listing is opened; tablespaces are reached through their links."""
        return self.root + b"/" + path


def join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
