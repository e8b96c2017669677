"""Owns which names a backup may hold, and how their bytes are written in JSON."""

import re

from pgrecall.errors import ObjectDamaged

OUTSIDE = b"\0outside"
"""The directory of configuration files that lay outside the data directory: a path that no file system can have."""

_PLAIN = re.compile(r"(?:[!-$&-~]|%[0-9A-F]{2})*\Z", re.ASCII)
_ESCAPED = re.compile(r"%([0-9A-F]{2})", re.ASCII)


def check_name(name: bytes, what: str) -> None:
    """One part of a path: not empty, no `/`, no NUL, not `.` or `..`."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name or len(name) > 255:
        raise ObjectDamaged(f"{what}: {name[:80]!r} is no name of a file")


def check_path(path: bytes, what: str) -> None:
    """A relative path of at least one part, each a name. `OUTSIDE` may stand first."""
    if len(path) > 4096:
        raise ObjectDamaged(f"{what}: a path of {len(path)} bytes")
    inside = path.removeprefix(OUTSIDE + b"/")
    for part in inside.split(b"/"):
        check_name(part, what)


def check_directory(path: bytes, what: str) -> None:
    """Like check_path; the data directory itself is the empty path, and `OUTSIDE` is a directory too."""
    if path not in (b"", OUTSIDE):
        check_path(path, what)
        if path.startswith(OUTSIDE):
            raise ObjectDamaged(f"{what}: a directory below the files from outside")


def join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """(directory, name)"""
    directory, _, name = path.rpartition(b"/")
    return directory, name


def quote(path: bytes) -> str:
    """Percent-encoding of format.md: every byte outside `!`…`~` and the byte `%`. Also fit for a terminal."""
    return "".join(chr(byte) if 0x21 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}" for byte in path)


def unquote(text: str, what: str) -> bytes:
    """ObjectDamaged unless text is exactly what `quote` writes."""
    if not _PLAIN.match(text):
        raise ObjectDamaged(f"{what}: {text[:80]!r} is not percent-encoded")
    path = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text).encode("latin-1")
    if quote(path) != text:
        raise ObjectDamaged(f"{what}: {text[:80]!r} is not percent-encoded as the format wants it")
    return path
