"""Owns the walk of a live data directory: which directories, files, tablespaces and links a backup consists of."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pgrecall.clock import Clock
from pgrecall.errors import PostgresError, Refused
from pgrecall.postgres.exclusions import (
    EMPTIED_DIRECTORIES,
    OWN_DIRECTORIES,
    TABLESPACE_DIRECTORY,
    WAL_DIRECTORY,
    WAL_SUBDIRECTORIES,
    is_excluded,
    is_unlogged_content,
    unlogged_numbers,
)
from pgrecall.postgres.listing import (
    DirectoryItem,
    FileItem,
    FileKind,
    LinkItem,
    Listing,
    Note,
    OutsideItem,
    TablespaceItem,
    join,
)
from pgrecall.postgres.relation import FILENODE_MAP, Fork, is_relation_directory, parse_relation_name

DROP_ATTEMPTS = 10
DROP_PAUSE_SECONDS = 0.1


def list_data_directory(
    pgdata: Path, *, catalog_version: int, clock: Clock, config_files: Sequence[tuple[str, str]] = ()
) -> Listing:
    """Walk a data directory, also while its server writes: what vanishes on the way is left out without a word.

    `catalog_version` is pg_control's: in tablespaces only PG_<major>_<catalog version> is ours. `config_files` are the
    server's (server.read_config_files); those outside are listed apart. Raise Refused for symbolic links by which data
    would be missing, PostgresError for what cannot be read and for a tablespace that is not there.
    """
    return _Walk(pgdata, catalog_version, clock).run(config_files)


class _Walk:
    def __init__(self, pgdata: Path, catalog_version: int, clock: Clock) -> None:
        self._root = os.fsencode(pgdata.resolve())
        major = _read_major(pgdata)
        self._version_directory = f"PG_{major}_{catalog_version}".encode()
        self._clock = clock
        self._listing = Listing(self._root)
        self._tablespace_roots: set[tuple[int, int]] = set()

    def run(self, config_files: Sequence[tuple[str, str]]) -> Listing:
        with self._open(self._root, None, b"") as root:
            assert root is not None, "PG_VERSION was read there"
            with self._open(TABLESPACE_DIRECTORY, root, TABLESPACE_DIRECTORY) as links:
                if links is not None:
                    self._tablespaces(links)
            self._directory(root, b"")
        self._outside(config_files)
        self._listing.directories.sort(key=lambda each: each.path)
        self._listing.tablespaces.sort()
        return self._listing

    # directories ----------------------------------------------------------------------------------------------------
    def _directory(self, fd: int, path: bytes) -> None:
        """List one directory and, recursively, those below it."""
        item = self._begin(fd, path)
        relations = is_relation_directory(path)
        below: list[bytes] = []
        for name, entry in _entries(fd, relations):
            if is_excluded(path, name):
                continue
            if entry.is_symlink():
                self._link(fd, item, name)
            elif entry.is_dir(follow_symlinks=False):
                below.append(name)
            else:
                self._file(item, name, entry, relations)
        item.files.sort()
        for name in below:
            self._subdirectory(fd, path, name)

    def _subdirectory(self, parent: int, path: bytes, name: bytes) -> None:
        below = join(path, name)
        if below == TABLESPACE_DIRECTORY:
            return  # listed first
        if name == b"lost+found":
            self._note("info", below, "left out: it belongs to the file system")
            return
        with self._open(name, parent, below) as fd:
            if fd is None:
                return
            if self._is_tablespace_root(fd):
                self._note("info", below, "is a tablespace inside the data directory, stored as such")
            elif below in EMPTIED_DIRECTORIES:
                self._begin(fd, below)
            elif below == WAL_DIRECTORY:
                self._wal(fd)
            else:
                self._directory(fd, below)

    def _begin(self, fd: int, path: bytes) -> DirectoryItem:
        status = os.fstat(fd)
        item = DirectoryItem(path, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, [])
        self._listing.directories.append(item)
        return item

    def _file(self, item: DirectoryItem, name: bytes, entry: "os.DirEntry[str]", relations: bool) -> None:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISREG(status.st_mode):
            item.files.append(_file_item(name, status, _kind(name, relations)))
        else:
            self._note("info", join(item.path, name), "left out: a socket, pipe or device, no file")

    # links ----------------------------------------------------------------------------------------------------------
    def _link(self, fd: int, item: DirectoryItem, name: bytes) -> None:
        """pg_wal's link is kept; a link of the user's to a file is followed, to a directory left out and told."""
        path = join(item.path, name)
        try:
            target = os.readlink(name, dir_fd=fd)
        except OSError:
            return  # gone, or no link any more
        first = path.partition(b"/")[0]
        if path == WAL_DIRECTORY:
            self._listing.links.append(LinkItem(path, target))
            with self._open(name, fd, path, follow=True) as linked:
                self._wal(_there(linked, self._shown(path)))
        elif path in EMPTIED_DIRECTORIES:
            self._note("warn", path, f"is a link to {os.fsdecode(target)}; restored as an empty directory")
            with self._open(name, fd, path, follow=True) as linked:
                self._begin(_there(linked, self._shown(path)), path)
        elif first in OWN_DIRECTORIES:
            raise Refused(
                f"{self._shown(path)} is a symbolic link to {os.fsdecode(target)}: "
                "what PostgreSQL keeps there would be missing from the backup",
                hint="Move it back into the data directory (server stopped), or make it a tablespace.",
                path=self._shown(path),
            )
        else:
            self._users_link(fd, item, name, target)

    def _users_link(self, fd: int, item: DirectoryItem, name: bytes, target: bytes) -> None:
        path, shown = join(item.path, name), os.fsdecode(target)
        try:
            status = os.stat(name, dir_fd=fd)
        except OSError as error:
            self._note("warn", path, f"left out: a link to {shown}, which cannot be read ({error.strerror})")
            return
        if stat.S_ISREG(status.st_mode):
            item.files.append(_file_item(name, status, FileKind.LINKED))
            self._note("info", path, f"is a link to {shown}; its content is stored as a file")
        else:
            self._note("warn", path, f"left out: a link to {shown}")

    # pg_wal and tablespaces -----------------------------------------------------------------------------------------
    def _wal(self, fd: int) -> None:
        self._begin(fd, WAL_DIRECTORY)
        for name in WAL_SUBDIRECTORIES:
            path = join(WAL_DIRECTORY, name)
            with self._open(name, fd, path) as below:
                if below is not None:
                    self._begin(below, path)

    def _tablespaces(self, fd: int) -> None:
        self._begin(fd, TABLESPACE_DIRECTORY)
        with os.scandir(fd) as scan:
            names = sorted(os.fsencode(entry.name) for entry in scan)
        found = []
        for name in names:
            if not name.isdigit():
                if not is_excluded(TABLESPACE_DIRECTORY, name):
                    self._note("warn", join(TABLESPACE_DIRECTORY, name), "left out: no tablespace has such a name")
                continue
            if self._reach(fd, name):
                found.append((name, _readlink(fd, name)))
        for name, target in found:
            self._listing.tablespaces.append(TablespaceItem(int(name), target, target is None))
            self._tablespace(fd, name)

    def _reach(self, fd: int, name: bytes) -> bool:
        """Note where a tablespace lies; False if it was dropped meanwhile. PostgresError if its directory is not there.

        DROP TABLESPACE removes the version directory before the link, so what looks lost is looked at again.
        """
        for _ in range(DROP_ATTEMPTS):
            if _status(fd, name, follow=False) is None:
                return False
            status = _status(fd, name)
            if status is not None and _status(fd, join(name, self._version_directory)) is not None:
                self._tablespace_roots.add((status.st_dev, status.st_ino))
                return True
            self._clock.sleep(DROP_PAUSE_SECONDS)
        shown = self._shown(join(TABLESPACE_DIRECTORY, name))
        place = os.fsdecode(_readlink(fd, name) or shown)
        raise PostgresError(
            f"tablespace {name.decode()} has no directory {self._version_directory.decode()} in {place}",
            hint="Is its file system mounted?",
            path=shown,
        )

    def _tablespace(self, fd: int, name: bytes) -> None:
        path = join(TABLESPACE_DIRECTORY, name)
        version = join(path, self._version_directory)
        with self._open(name, fd, path, follow=True) as root:
            if root is None:
                return
            self._begin(root, path)
            with self._open(self._version_directory, root, version) as inner:
                if inner is not None:
                    self._directory(inner, version)

    def _is_tablespace_root(self, fd: int) -> bool:
        if not self._tablespace_roots:
            return False
        status = os.fstat(fd)
        return (status.st_dev, status.st_ino) in self._tablespace_roots

    # outside --------------------------------------------------------------------------------------------------------
    def _outside(self, config_files: Iterable[tuple[str, str]]) -> None:
        for setting, given in config_files:
            source = os.fsencode(given)
            directory = os.fsencode(Path(given).parent.resolve())
            if directory == self._root or directory.startswith(self._root + b"/"):
                continue
            try:
                status = Path(given).stat()
            except OSError as error:
                self._note("warn", source, f"{setting} cannot be read and is left out ({error.strerror})")
                continue
            if stat.S_ISREG(status.st_mode):
                name = source.lstrip(b"/").replace(b"%", b"%25").replace(b"/", b"%2F")
                self._listing.outside.append(OutsideItem(setting, source, _file_item(name, status, FileKind.OTHER)))

    @contextmanager
    def _open(self, name: bytes, parent: int | None, path: bytes, *, follow: bool = False) -> Iterator[int | None]:
        """A directory's descriptor, None if it is gone. Links are followed only where one is expected."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        try:
            fd = os.open(name, flags, dir_fd=parent)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise PostgresError(
                f"directory {self._shown(path)} cannot be read: {error.strerror}",
                hint="Run as the operating-system user that owns the data directory.",
                path=self._shown(path),
            ) from error
        try:
            yield fd
        finally:
            os.close(fd)

    def _note(self, level: Literal["info", "warn"], path: bytes, text: str) -> None:
        self._listing.notes.append(Note(level, path, text))

    def _shown(self, path: bytes) -> str:
        return os.fsdecode(join(self._root, path))


def _entries(fd: int, relations: bool) -> Iterator[tuple[bytes, "os.DirEntry[str]"]]:
    """All names are read before the first is given: unlogged relations are known by their init forks."""
    with os.scandir(fd) as scan:
        entries = [(os.fsencode(entry.name), entry) for entry in scan]
    unlogged = unlogged_numbers(name for name, _ in entries) if relations else frozenset()
    entries.reverse()
    while entries:  # an entry that was given is forgotten, with the status that it keeps: there may be 100,000
        name, entry = entries.pop()
        if not unlogged or not is_unlogged_content(name, unlogged):
            yield name, entry


def _kind(name: bytes, relations: bool) -> FileKind:
    if name == FILENODE_MAP:
        return FileKind.FILENODE_MAP
    parsed = parse_relation_name(name) if relations else None
    if parsed is None:
        return FileKind.OTHER
    return FileKind.RELATION_MAIN if parsed[1] is Fork.MAIN else FileKind.RELATION_OTHER


def _file_item(name: bytes, status: os.stat_result, kind: FileKind) -> FileItem:
    mode, uid, gid = map(_same, (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid))
    return FileItem(name, status.st_size, status.st_mtime_ns, status.st_ino, mode, uid, gid, kind)


@lru_cache(1024)
def _same(number: int) -> int:
    """One object for equal numbers: what 100,000 files share is held once."""
    return number


def _status(fd: int, name: bytes, *, follow: bool = True) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=follow)
    except FileNotFoundError:
        return None


def _readlink(fd: int, name: bytes) -> bytes | None:
    """The target; None for what is no link, as an in-place tablespace."""
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError:
        return None


def _there(fd: int | None, shown: str) -> int:
    if fd is None:
        raise PostgresError(f"{shown} is a link to a directory that is not there", path=shown)
    return fd


def _read_major(pgdata: Path) -> str:
    """PG_VERSION's content, '18'; PostgresError where there is no data directory."""
    try:
        return (pgdata / "PG_VERSION").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PostgresError(
            f"{pgdata} is no data directory that we can read: PG_VERSION: {error}", pgdata=str(pgdata)
        ) from error
