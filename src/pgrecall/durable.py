"""Owns small files that survive power loss: there whole or not at all, and so is the directory's entry for them."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
Owner = tuple[int, int]
"""(user id, group id)"""


def create_whole(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """A new file. FileExistsError if there is one, also one that came at the same moment; it is durable then, too."""
    with _opened(path.parent) as directory:
        temporary = f".{path.name}.{secrets.token_hex(4)}"
        try:
            _write_new(directory, temporary, data, mode, None)
            os.link(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            os.fsync(directory)


def replace_whole(
    path: Path, data: bytes, *, mode: int = 0o600, owner: Owner | None = None, temporary: str | None = None
) -> None:
    """The path holds all of data when this returns, and until then what it held before.

    temporary: a name beside it to write under, so that writers that are killed leave one file at most; what has that
    name is removed. It is for one writer at a time.
    """
    with _opened(path.parent) as directory:
        replace_at(directory, os.fsencode(path.name), data, mode=mode, owner=owner, temporary=temporary)


def replace_at(
    directory: int, name: bytes, data: bytes, *, mode: int = 0o600, owner: Owner | None = None,
    temporary: str | bytes | None = None,
) -> None:  # fmt: skip
    """`replace_whole` by the handle of the directory."""
    if temporary is None:
        temporary = b"." + name + b"." + secrets.token_hex(4).encode()
    else:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
    try:
        _write_new(directory, temporary, data, mode, owner)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


def make_directories(path: Path, *, mode: int = 0o777) -> None:
    """The directory and what is missing above it, which gets the usual mode; what is there stays as it is."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=mode if each == path else 0o777, exist_ok=True)
        sync_directory(each.parent)


def sync_directory(path: Path) -> None:
    """Names made and removed in it survive power loss from now on."""
    with _opened(path) as directory:
        os.fsync(directory)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _write_new(directory: int, name: str | bytes, data: bytes, mode: int, owner: Owner | None) -> None:
    fd = os.open(name, _NEW, 0o600, dir_fd=directory)
    with os.fdopen(fd, "wb") as file:
        if owner is not None:
            os.fchown(fd, *owner)
        if mode != 0o600:
            os.fchmod(fd, mode)
        file.write(data)
        file.flush()
        os.fsync(fd)
