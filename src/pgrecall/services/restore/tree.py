"""The restored tree by handle: every name is opened below a directory that we hold, no link is ever followed.

What a backup says about paths and modes is not believed (rule 37): names were checked when the manifest was read, and
here each part of a path is opened by itself with O_NOFOLLOW, files are created with O_EXCL, modes are one of four.
"""

import os
import pwd
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from grp import getgrnam
from pathlib import Path

from pgrecall.durable import Owner, replace_at
from pgrecall.errors import ObjectDamaged
from pgrecall.repository.paths import quote, split

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def directory_mode(mode: int) -> int:
    """0750 where the group could read, else 0700."""
    return 0o750 if mode & 0o050 == 0o050 else 0o700


def file_mode(mode: int) -> int:
    """0640 where the group could read, else 0600."""
    return 0o640 if mode & 0o040 else 0o600


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who owns what is restored: us, or, for root, the users whose names the backup holds."""

    owners: Mapping[tuple[int, int], Owner] = field(default_factory=dict)
    default: Owner | None = None

    def of(self, owner: int, group: int) -> Owner | None:
        """None: leave it to us."""
        return self.owners.get((owner, group), self.default)


def ownership_for_root(principals: Sequence[str], owner: int, group: int) -> Ownership | None:
    """By name, as far as this host knows the names; the data directory's owner (`owner`, `group`) for all others.

    None if that owner is not known here.
    """
    users = {index: uid for index, name in enumerate(principals) if (uid := _user_id(name)) is not None}
    groups = {index: gid for index, name in enumerate(principals) if (gid := _group_id(name)) is not None}
    if owner not in users:
        return None
    default_group = groups.get(group, pwd.getpwuid(users[owner]).pw_gid)
    known = {(user, grp): (users[user], groups[grp]) for user in users for grp in groups}
    return Ownership(known, (users[owner], default_group))


def _user_id(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _group_id(name: str) -> int | None:
    try:
        return getgrnam(name).gr_gid
    except KeyError:
        return None


@dataclass(slots=True)
class RestoredTree:
    """A destination and, by the path of their links below it, the tablespaces that lie elsewhere."""

    root: Path
    mounts: Mapping[bytes, Path] = field(default_factory=dict)
    ownership: Ownership = field(default_factory=Ownership)

    @contextmanager
    def directory(self, path: bytes) -> Iterator[int]:
        """A handle of an existing directory; `b""` is the destination itself."""
        start, below = self._start(path)
        fd = os.open(start, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in below.split(b"/") if below else ():
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _start(self, path: bytes) -> tuple[Path, bytes]:
        for link, place in self.mounts.items():
            if path == link or path.startswith(link + b"/"):
                return place, path[len(link) + 1 :]
        return self.root, path

    def make_directory(self, path: bytes, mode: int, owner: Owner | None = None) -> None:
        """Exactly one new directory; its parent is there."""
        parent, name = split(path)
        with self.directory(parent) as fd:
            os.mkdir(name, 0o700, dir_fd=fd)
        self.settle_directory(path, mode, owner)

    def settle_directory(self, path: bytes, mode: int, owner: Owner | None = None) -> None:
        """Owner and mode of a directory that is there."""
        with self.directory(path) as fd:
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, directory_mode(mode))

    def make_link(self, path: bytes, target: Path, owner: Owner | None = None) -> None:
        parent, name = split(path)
        with self.directory(parent) as fd:
            os.symlink(os.fsencode(target), name, dir_fd=fd)
            if owner is not None:
                os.chown(name, *owner, dir_fd=fd, follow_symlinks=False)

    @contextmanager
    def new_file(self, directory: int, name: bytes, mode: int, owner: Owner | None = None) -> Iterator[int]:
        """A handle of a file that was not there before."""
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        try:
            if owner is not None:
                os.fchown(fd, *owner)
            if file_mode(mode) != 0o600:
                os.fchmod(fd, file_mode(mode))
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def file(self, path: bytes) -> Iterator[int]:
        """A handle, for writing, of a file that we made."""
        parent, name = split(path)
        with self.directory(parent) as directory:
            fd = os.open(name, _FILE, dir_fd=directory)
        try:
            yield fd
        finally:
            os.close(fd)

    def read(self, path: bytes) -> bytes | None:
        """A small file's bytes; None where there is no regular file."""
        parent, name = split(path)
        try:
            with self.directory(parent) as directory:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(fd, "rb") as file:
            return file.read() if stat.S_ISREG(os.fstat(fd).st_mode) else None

    def names(self, path: bytes) -> list[str]:
        """What a directory holds; nothing where there is none."""
        try:
            with self.directory(path) as fd:
                return sorted(os.listdir(fd))  # noqa: PTH208 - by handle
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write(self, path: bytes, content: bytes, *, mode: int = 0o600, owner: Owner | None = None) -> None:
        """A whole small file, new or replaced, durable, there whole or not at all; missing directories are made."""
        parent, name = split(path)
        if parent and not self._is_there(parent):
            self.make_directory(parent, 0o700, owner)
        with self.directory(parent) as directory:
            replace_at(
                directory, name, content, mode=file_mode(mode), owner=owner, temporary=name + b".pgrecall"
            )  # prepare.py writes this name down before

    def _is_there(self, path: bytes) -> bool:
        try:
            with self.directory(path):
                return True
        except FileNotFoundError:
            return False

    def mode_of(self, path: bytes) -> int:
        parent, name = split(path)
        with self.directory(parent) as directory:
            return stat.S_IMODE(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def refuse_twice(path: bytes) -> ObjectDamaged:
    return ObjectDamaged(f"the backup names {quote(path)} twice, or as a file and a directory", path=quote(path))
