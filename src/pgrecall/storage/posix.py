"""Owns a repository in a directory: local disks, NFS, anything with hard links and fsync."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pgrecall.errors import (
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    PgrecallError,
    StorageDenied,
    StorageError,
    StorageFull,
)
from pgrecall.storage.base import Buffer, ObjectInfo
from pgrecall.storage.keys import check_key, check_prefix, is_key

_FILE_MODE = 0o640
_FOLDER_MODE = 0o750
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: somebody else's pipe must not hold us up.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_VANISHING_FOLDER_RETRIES = 20
_Entries = list[tuple[str, os.stat_result | None]]
_LOST_AND_FOUND = "lost+found"  # of the file system's, and only root may look into it


class PosixStorage:
    """Fulfils `Storage`. Folders appear with the first object in them and go with the last.

    An object is written under a name that no key can have (`#…`), synced, then linked to its key: link() alone decides
    who is first, on NFS too. Folders are opened one by one without following symbolic links.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._identity: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"PosixStorage({str(self._root)!r})"

    @property
    def place(self) -> str:
        return "file://" + quote(os.fspath(self._root))

    # Writing ------------------------------------------------------------------------------------------------------
    def put(self, key: str, data: Buffer) -> ObjectInfo:
        folder, _, name = check_key(key).rpartition("/")
        with self._errors(key):
            for _ in range(_VANISHING_FOLDER_RETRIES):
                # A folder that a delete just emptied may go between opening it and writing into it.
                with contextlib.suppress(FileNotFoundError), self._open_folder(folder, create=True) as fd:
                    return self._put_into(fd, key, name, data)
        raise StorageError(f"cannot store {key} in {self.place}: its folder keeps vanishing", key=key)

    def _put_into(self, folder: int, key: str, name: str, data: Buffer) -> ObjectInfo:
        temporary = f"#{os.urandom(8).hex()}"
        fd = os.open(temporary, _CREATE, _FILE_MODE, dir_fd=folder)
        try:
            _write_all(fd, memoryview(data).cast("B"))
            os.fsync(fd)
            self._link(fd, folder, temporary, key, name)
            written = os.fstat(fd)
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
        os.fsync(folder)
        return _info(key, written)

    def _link(self, fd: int, folder: int, temporary: str, key: str, name: str) -> None:
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if os.fstat(fd).st_nlink == 2:
                return  # The link is ours; only the answer was lost (NFS).
            if isinstance(error, FileExistsError):
                # Whoever is told "exists" may rely on it: the winner may not have synced the folder yet.
                os.fsync(folder)
                raise ObjectExists(f"{key} exists already in {self.place}", key=key) from error
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise StorageDenied(
                    f"{self.place} refuses hard links, so writing once cannot be guaranteed there",
                    hint="Use a file system with hard links (ext4, xfs, btrfs, zfs, NFS), not exFAT, SMB or FUSE.",
                    key=key,
                ) from error
            raise

    def delete(self, key: str) -> None:
        folder, _, name = check_key(key).rpartition("/")
        with self._errors(key), contextlib.suppress(FileNotFoundError, IsADirectoryError):
            with self._open_folder(folder) as fd:
                os.unlink(name, dir_fd=fd)
                os.fsync(fd)
            self._remove_empty(folder)

    def _remove_empty(self, folder: str) -> None:
        while folder:
            parent, _, name = folder.rpartition("/")
            try:
                with self._open_folder(parent) as fd:
                    os.rmdir(name, dir_fd=fd)
            except OSError:
                return
            folder = parent

    # Reading ------------------------------------------------------------------------------------------------------
    def get(self, key: str, *, limit: int | None = None) -> bytes:
        with self._errors(key), self._open_object(key) as (fd, size):
            if limit is not None and size > limit:
                raise ObjectDamaged(f"{key} has {size} bytes in {self.place}, at most {limit} make sense", key=key)
            data = os.pread(fd, size, 0)
            if len(data) == size:
                return data
            # One call reads at most 2 GiB.
            rest = bytearray(size - len(data))
            self._fill(fd, key, len(data), memoryview(rest))
            return data + rest

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with self._errors(key), self._open_object(key) as (fd, size):
            if offset + length > size:
                raise self._cut(key, offset, length, size)
            data = os.pread(fd, length, offset)
            if len(data) == length:
                return data
            target = bytearray(length)
            self._fill(fd, key, offset, memoryview(target))
            return bytes(target)

    def get_into(self, key: str, offset: int, target: memoryview) -> None:
        with self._errors(key), self._open_object(key) as (fd, _):
            self._fill(fd, key, offset, target)

    def _fill(self, fd: int, key: str, offset: int, target: memoryview) -> None:
        done = 0
        while done < len(target):
            count = os.preadv(fd, [target[done:]], offset + done)
            if count == 0:
                raise self._cut(key, offset, len(target), os.fstat(fd).st_size)
            done += count

    def _cut(self, key: str, offset: int, length: int, size: int) -> ObjectDamaged:
        return ObjectDamaged(
            f"{key} is cut off in {self.place}: it has {size} bytes, {length} at {offset} were asked for", key=key
        )

    def head(self, key: str) -> ObjectInfo:
        folder, _, name = check_key(key).rpartition("/")
        with self._errors(key), self._open_folder(folder) as fd:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        self._check_plain(key, found)
        return _info(key, found)

    # Listing ------------------------------------------------------------------------------------------------------
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder, _, beginning = check_prefix(prefix).rpartition("/")
        return self._walk(folder, beginning)

    def _walk(self, folder: str, beginning: str = "") -> Iterator[ObjectInfo]:
        path = f"{folder}/" if folder else ""
        for name, found in self._scan(folder):
            if not name.startswith(beginning):
                continue
            if name.endswith("/"):
                yield from self._walk(path + name[:-1])
            elif found is not None:
                yield _info(path + name, found)

    def list_dirs(self, prefix: str) -> Iterator[str]:
        assert not prefix or prefix.endswith("/")
        folder = check_prefix(prefix)[:-1]
        return (
            name[:-1] for name, _ in self._scan(folder) if name.endswith("/") and self._has_objects(prefix + name[:-1])
        )

    def _has_objects(self, folder: str) -> bool:
        return any(
            not name.endswith("/") or self._has_objects(f"{folder}/{name[:-1]}") for name, _ in self._scan(folder)
        )

    def _scan(self, folder: str) -> _Entries:
        """Names in the order that their keys have (a folder with its slash), and what each object is."""
        entries: _Entries = []
        missing = contextlib.suppress(FileNotFoundError)
        with self._errors(folder), missing, self._open_folder(folder) as fd, os.scandir(fd) as scan:
            for entry in scan:
                if not is_key(entry.name) or (not folder and _is_foreign(entry)):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    entries.append((entry.name + "/", None))
                    continue
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    self._check_plain(f"{folder}/{entry.name}", found)
                    entries.append((entry.name, found))
        entries.sort(key=lambda entry: entry[0])
        return entries

    def foreign_names(self) -> tuple[str, ...]:
        with (
            self._errors(""),
            contextlib.suppress(FileNotFoundError),
            self._open_folder("") as fd,
            os.scandir(fd) as scan,
        ):
            return tuple(
                sorted(
                    entry.name
                    for entry in scan
                    if entry.name != _LOST_AND_FOUND
                    and not entry.name.startswith("#")
                    and (not is_key(entry.name) or _is_foreign(entry))
                )
            )
        return ()

    def free_bytes(self) -> int | None:
        with self._errors(""):
            for folder in (self._root, *self._root.parents):
                with contextlib.suppress(FileNotFoundError):
                    found = os.statvfs(folder)
                    return found.f_bavail * found.f_frsize
        return None

    # Opening ------------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _open_folder(self, folder: str, *, create: bool = False) -> Iterator[int]:
        fd = self._open_root(create=create)
        try:
            for part in folder.split("/") if folder else ():
                inner = _open_part(fd, part, create=create)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _open_root(self, *, create: bool) -> int:
        if create and self._identity is None:
            self._root.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
        fd = os.open(self._root, _FOLDER)
        found = os.fstat(fd)
        if self._identity is None:
            self._identity = (found.st_dev, found.st_ino)
        elif self._identity != (found.st_dev, found.st_ino):
            os.close(fd)
            raise StorageError(
                f"{self.place} is another directory now than it was a moment ago", hint="Was it unmounted meanwhile?"
            )
        return fd

    @contextlib.contextmanager
    def _open_object(self, key: str) -> Iterator[tuple[int, int]]:
        folder, _, name = check_key(key).rpartition("/")
        with self._open_folder(folder) as folder_fd:
            fd = os.open(name, _READ, dir_fd=folder_fd)
        try:
            found = os.fstat(fd)
            self._check_plain(key, found)
            yield fd, found.st_size
        finally:
            os.close(fd)

    def _check_plain(self, key: str, found: os.stat_result) -> None:
        if stat.S_ISDIR(found.st_mode):
            raise ObjectMissing(f"{key} is not in {self.place}", key=key)
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"{key} in {self.place} is not a plain file", hint="Links are not followed.", key=key)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except PgrecallError:
            raise
        except FileNotFoundError as error:
            raise ObjectMissing(f"{key} is not in {self.place}", key=key) from error
        except OSError as error:
            kind = StorageError
            if error.errno in _FULL:
                kind = StorageFull
            elif error.errno in _DENIED:
                kind = StorageDenied
            hint = "Links are not followed." if error.errno in (errno.ELOOP, errno.ENOTDIR) else HINTS.get(kind)
            raise kind(f"{self.place}: {key or 'the directory'}: {error.strerror}", hint=hint, key=key) from error


HINTS = {
    StorageFull: "make room where the repository lies, then repeat it",
    StorageDenied: "is it mounted for writing, and may this user write there?",
}


def _open_part(parent: int, part: str, *, create: bool) -> int:
    try:
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, _FOLDER_MODE, dir_fd=parent)
    os.fsync(parent)
    return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _is_foreign(entry: "os.DirEntry[str]") -> bool:
    """At the top, where other things may lie beside a repository."""
    plain = entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False)
    return not plain or entry.name == _LOST_AND_FOUND


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))
