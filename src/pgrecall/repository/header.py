"""Owns the fixed parts of an object: its types and limits, the 96 bytes before it and the 128 bytes behind it."""

import struct
from enum import IntEnum
from typing import NamedTuple

from pgrecall.errors import FormatUnknown, ObjectDamaged
from pgrecall.storage.base import Buffer

MAGIC = b"PGRECALL"
FORMAT = 1
HEADER_SIZE = 96
FOOTER_SIZE = 128
HASHED_END = 64  # of the footer: the hash covers every byte before this place
TABLE_ENTRY = struct.Struct("<QII32s")
TABLE_NUMBER = (1 << 64) - 1
MAX_FRAMES = 1 << 20  # of one object: bounds the table, which is unfolded whole
SALT = slice(32, 64)  # of the header

FLAG_SEALED = 1
FLAG_PADDED = 2
CRITICAL_FLAGS = 0xFFFF
KNOWN_FLAGS = FLAG_SEALED | FLAG_PADDED

_HEADER = struct.Struct("<8sHHIII8s32s32s")
_FOOTER = struct.Struct("<QIIIIQ32s32s32s")
_ZEROS = bytes(32)
_MIB = 1 << 20


class ObjectType(IntEnum):
    PACK = 1
    MANIFEST = 2
    COMMIT = 3
    CLAIM = 4
    BEAT = 5
    WAL = 6
    HISTORY = 7
    OWNER = 8
    IDENTITY = 9
    CLUSTER_KEY = 10
    BAD_MARK = 11

    @property
    def label(self) -> str:
        """The name that keys are derived with."""
        return _LABELS[self]

    @property
    def max_size(self) -> int:
        """Bytes of the largest object a reader accepts, and of the most that its frames may hold together."""
        return _MAX_SIZES[self]

    @property
    def max_frame(self) -> int:
        """Raw bytes of the largest frame a reader accepts."""
        large = self in (ObjectType.COMMIT, ObjectType.PACK)  # a pack for its run table
        return min(_MAX_SIZES[self], (64 if large else 16) * _MIB)


_LABELS = {
    ObjectType.PACK: "pack",
    ObjectType.MANIFEST: "manifest",
    ObjectType.COMMIT: "commit",
    ObjectType.CLAIM: "claim",
    ObjectType.BEAT: "beat",
    ObjectType.WAL: "wal",
    ObjectType.HISTORY: "history",
    ObjectType.OWNER: "owner",
    ObjectType.IDENTITY: "identity",
    ObjectType.CLUSTER_KEY: "clusterkey",
    ObjectType.BAD_MARK: "bad",
}
_MAX_SIZES = {
    ObjectType.PACK: 1024 * _MIB,
    ObjectType.MANIFEST: 256 * _MIB,
    ObjectType.COMMIT: 64 * _MIB,
    ObjectType.CLAIM: _MIB,
    ObjectType.BEAT: 64 << 10,
    ObjectType.WAL: 2048 * _MIB,
    ObjectType.HISTORY: _MIB,
    ObjectType.OWNER: 64 << 10,
    ObjectType.IDENTITY: _MIB,
    ObjectType.CLUSTER_KEY: 64 << 10,
    ObjectType.BAD_MARK: _MIB,
}


class Header(NamedTuple):
    type: ObjectType
    flags: int
    generation: int
    clear_length: int
    salt: bytes
    commitment: bytes

    @property
    def sealed(self) -> bool:
        return bool(self.flags & FLAG_SEALED)

    @property
    def padded(self) -> bool:
        return bool(self.flags & FLAG_PADDED)

    def encode(self) -> bytes:
        return _HEADER.pack(
            MAGIC,
            FORMAT,
            self.type,
            self.flags,
            self.generation,
            self.clear_length,
            bytes(8),
            self.salt,
            self.commitment,
        )

    @classmethod
    def decode(cls, data: Buffer, what: str) -> "Header":
        """Check all that needs no key; `what` names the object in errors."""
        if len(data) < HEADER_SIZE:
            raise ObjectDamaged(f"{what} is cut off: {len(data)} bytes")
        magic, version, number, flags, generation, clear_length, reserved, salt, commitment = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise FormatUnknown(f"{what} was not written by pgrecall")
        if version != FORMAT:
            raise FormatUnknown(
                f"{what} has format {version}, this program reads format {FORMAT}", hint="Install a newer pgrecall."
            )
        if number not in _LABELS_BY_NUMBER:
            raise FormatUnknown(f"{what} has the unknown object type {number}", hint="Install a newer pgrecall.")
        refuse_unknown_flags(flags, what)
        header = cls(ObjectType(number), flags, generation, clear_length, salt, commitment)
        if any(reserved) or (not header.sealed and (generation or commitment != _ZEROS)):
            raise ObjectDamaged(f"{what} has a damaged header: reserved bytes are not zero")
        return header


_LABELS_BY_NUMBER = frozenset(int(kind) for kind in ObjectType)


def refuse_unknown_flags(flags: int, what: str) -> None:
    unknown = flags & CRITICAL_FLAGS & ~KNOWN_FLAGS
    if unknown:
        raise FormatUnknown(f"{what} needs the unknown features {unknown:#x}", hint="Install a newer pgrecall.")


class Footer(NamedTuple):
    table_offset: int
    table_stored: int
    table_raw: int
    frames: int
    size: int

    def encode(self) -> bytes:
        """The part that the hash covers."""
        return _FOOTER.pack(
            self.table_offset, self.table_stored, self.table_raw, self.frames, 0, self.size, _ZEROS, _ZEROS, _ZEROS
        )[:HASHED_END]

    @classmethod
    def decode(cls, data: Buffer, header: Header, what: str) -> "Footer":
        """The footer of the whole object `data`, when its numbers agree with each other and with the object."""
        start = len(data) - FOOTER_SIZE
        offset, stored, raw, frames, reserved, size, zeros, _hash, _mac = _FOOTER.unpack_from(data, start)
        # The smallest frame of zstd has 9 bytes: a table cannot claim more frames than fit.
        fits = offset >= HEADER_SIZE + header.clear_length + 9 * frames and offset + stored + FOOTER_SIZE == size
        fits = fits and frames <= MAX_FRAMES and raw == TABLE_ENTRY.size * frames
        if reserved or zeros != _ZEROS or size != len(data) or not fits:
            raise ObjectDamaged(f"{what} has a damaged footer, or is cut off: {len(data)} bytes", size=len(data))
        return cls(offset, stored, raw, frames, size)
