"""Owns whole objects: building one in memory (ObjectWriter) and checking one that was read (ObjectReader)."""

import hmac
import os
from typing import Any, Final

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pgrecall.errors import FormatUnknown, KeyMismatch, ObjectDamaged
from pgrecall.repository import canonical
from pgrecall.repository.frames import AAD_SIZE, AAD_TAIL, NONCE, TAG_SIZE, FrameOpener, FrameRef, compressor, pad
from pgrecall.repository.header import (
    FLAG_PADDED,
    FLAG_SEALED,
    FOOTER_SIZE,
    HASHED_END,
    HEADER_SIZE,
    TABLE_ENTRY,
    TABLE_NUMBER,
    Footer,
    Header,
    ObjectType,
)
from pgrecall.repository.secrets import ChunkId, Keys, Scope
from pgrecall.storage.base import Buffer

__all__ = [
    "ChunkId", "FrameOpener", "FrameRef", "Keys", "ObjectReader", "ObjectType", "ObjectWriter", "Scope", "check_object",
    "read_clear",
]  # fmt: skip

_HASH_SIZE = 32
_NO_MAC = bytes(_HASH_SIZE)
_HASH: Final = slice(HASHED_END - FOOTER_SIZE, HASHED_END - FOOTER_SIZE + _HASH_SIZE)
_MAC: Final = slice(-_HASH_SIZE, None)


class ObjectWriter:
    """One object, built in one piece of memory. For one thread. Building it again takes a new writer, so a new salt.

    `buffer` is memory to build in, reused from writer to writer (`writer.buffer` when done; it may have grown);
    without one, `capacity` bytes are allocated. `zstd` is a compressor to share likewise.
    """

    def __init__(
        self,
        scope: Scope,
        kind: ObjectType,
        name: str,
        *,
        clear: dict[str, Any] | None = None,
        capacity: int = 1 << 20,
        buffer: bytearray | None = None,
        level: int = 3,
        zstd: zstandard.ZstdCompressor | None = None,
        padded: bool = False,
    ) -> None:
        self.kind = kind
        self.name = name
        self.salt = os.urandom(32)
        self.flags = (FLAG_SEALED if scope.keys.sealed else 0) | (FLAG_PADDED if padded else 0)
        self.generation = scope.keys.generation
        self.frames: list[FrameRef] = []
        self.hash: bytes | None = None
        self.zstd = zstd or compressor(level)
        self._keys = scope.keys
        self._padded = padded

        clear_part = b"" if clear is None else canonical.encode(clear)
        commitment = bytes(32)
        self._cipher: AESGCM | None = None
        if scope.keys.sealed:
            key, commitment = scope.keys.object_key(kind, self.salt)
            self._cipher = AESGCM(key)
        head = Header(kind, self.flags, self.generation, len(clear_part), self.salt, commitment).encode()
        self._binding = scope.binding(head, clear_part, name)
        self._aad = bytearray(self._binding.ljust(AAD_SIZE, b"\0"))
        self._nonce = bytearray(NONCE.size)

        self.size = 0
        self.buffer = bytearray(capacity) if buffer is None else buffer
        self._view = memoryview(self.buffer)
        self._append(head)
        self._append(clear_part)

    def add(self, raw: Buffer, chunk_id: ChunkId | None = None) -> FrameRef:
        """Compress and seal `raw` as the next frame; `chunk_id` when the caller knows it already."""
        if chunk_id is None:
            chunk_id = blake3(raw, key=self._keys.id_key).digest()
        return self.add_compressed(self.zstd.compress(raw), len(raw), chunk_id)

    def add_compressed(self, z: bytes, raw_length: int, chunk_id: ChunkId) -> FrameRef:
        """Seal `z`, one zstd frame that declares raw_length (`frames.compressor`), as the next frame."""
        assert self.hash is None, "the object is finished"
        number, offset = len(self.frames), self.size
        self._seal(z, number, raw_length, 0)
        frame = FrameRef(number, offset, self.size - offset, raw_length, chunk_id)
        self.frames.append(frame)
        return frame

    def finish(self) -> memoryview:
        """The whole object; valid until `buffer` is used again. Only once: each nonce seals one table."""
        assert self.hash is None, "the object is finished"
        table_offset = self.size
        table = b"".join(TABLE_ENTRY.pack(frame.offset, frame.stored, frame.raw, frame.id) for frame in self.frames)
        self._seal(self.zstd.compress(table), TABLE_NUMBER, len(table), 1)
        size = self.size + FOOTER_SIZE
        assert size <= self.kind.max_size, f"{self.name} is too large to be read again"
        self._append(Footer(table_offset, self.size - table_offset, len(table), len(self.frames), size).encode())
        self.hash = blake3(self._view[: self.size]).digest()
        self._append(self.hash)
        self._append(_mac(self._keys, self.hash, self._binding) if self._keys.mac_key else _NO_MAC)
        assert self.size == size
        return self._view[:size].toreadonly()

    def _seal(self, z: bytes, number: int, raw_length: int, last: int) -> None:
        if self._padded:
            z = pad(z)
        if self._cipher is None:
            self._append(z)
            return
        end = self.size + len(z) + TAG_SIZE
        if end > len(self.buffer):
            self._grow(end)
        AAD_TAIL.pack_into(self._aad, 32, number, raw_length, last)
        NONCE.pack_into(self._nonce, 0, number)
        self._cipher.encrypt_into(self._nonce, z, self._aad, self._view[self.size : end])
        self.size = end

    def _append(self, data: bytes) -> None:
        end = self.size + len(data)
        if end > len(self.buffer):
            self._grow(end)
        self._view[self.size : end] = data
        self.size = end

    def _grow(self, needed: int) -> None:
        larger = bytearray(needed + needed // 4)
        larger[: self.size] = self._view[: self.size]
        self.buffer = larger
        self._view = memoryview(larger)


def check_object(data: Buffer, kind: ObjectType | None, what: str) -> tuple[Header, Footer]:
    """All that a host without keys can check of a whole object: it is intact. `what` names it in errors."""
    view = memoryview(data)
    if kind is not None and len(view) > kind.max_size:
        raise ObjectDamaged(f"{what} has {len(view)} bytes, more than any {kind.label} has", size=len(view))
    intact = len(view) >= HEADER_SIZE + FOOTER_SIZE and blake3(view[: _HASH.start]).digest() == view[_HASH]
    try:
        header = Header.decode(view, what)
    except FormatUnknown as error:
        # Every format keeps the hash at its place, so that damage is told from novelty.
        if intact:
            raise
        raise ObjectDamaged(f"{what} is damaged, or not an object of this repository: {error}") from error
    if not intact:
        raise ObjectDamaged(f"{what} is damaged: its {len(view)} bytes are not the ones that were written")
    if kind is not None and header.type is not kind:
        raise ObjectDamaged(f"{what} holds a {header.type.label}, not a {kind.label}")
    return header, Footer.decode(view, header, what)


def read_clear(data: Buffer, what: str = "object") -> dict[str, Any]:
    """The clear part, from (at least) the beginning of an object. Nothing proves it true: ObjectReader does."""
    return _clear(memoryview(data), Header.decode(data, what), what)


class ObjectReader:
    """A whole object that passed every check which needs no frame. `authentic` says that the MAC was checked, too;
    without a MAC key an object is only intact. Frames are checked when read. Safe to share between threads.
    """

    def __init__(self, scope: Scope, kind: ObjectType, name: str, data: Buffer) -> None:
        view = memoryview(data)
        header, footer = check_object(view, kind, name)
        clear_part = bytes(view[HEADER_SIZE : HEADER_SIZE + header.clear_length])
        self.kind = kind
        self.name = name
        self.header = header
        self.hash = bytes(view[_HASH])
        self.size = len(view)
        self._opener = FrameOpener(scope, kind, name, header.generation, header.flags, header.salt, clear=clear_part)
        if not hmac.compare_digest(self._opener.commitment, header.commitment):
            raise KeyMismatch(f"{name} is sealed under another key than the one at hand")
        self.keys = self._opener.keys
        self.authentic = self.keys.mac_key is not None
        if self.authentic and not hmac.compare_digest(_mac(self.keys, self.hash, self._opener.binding), view[_MAC]):
            raise ObjectDamaged(
                f"{name} is not what was written under this name: its authentication code is wrong",
                hint="It belongs to another place, or somebody without the key wrote it.",
            )
        self.clear = _clear(view, header, name)
        self._view = view
        self.frames = self._read_table(footer)

    def read(self, number: int) -> bytes:
        """The raw bytes of a frame."""
        frame = self.frames[number]
        stored = self._view[frame.offset : frame.offset + frame.stored]
        return self._opener.open(stored, number, frame.raw, frame.id)

    def payload(self) -> bytes:
        """The raw bytes of all frames, in order."""
        raw = sum(frame.raw for frame in self.frames)
        if raw > self.kind.max_size:
            raise ObjectDamaged(f"{self.name} claims to hold {raw} bytes, more than any {self.kind.label} has")
        return b"".join(map(self.read, range(len(self.frames))))

    def _read_table(self, footer: Footer) -> list[FrameRef]:
        stored = self._view[footer.table_offset : footer.table_offset + footer.table_stored]
        table = self._opener.open_table(stored, footer.table_raw)
        frames = [FrameRef(number, *entry) for number, entry in enumerate(TABLE_ENTRY.iter_unpack(table))]
        end = HEADER_SIZE + self.header.clear_length
        for frame in frames:
            if frame.offset != end or frame.raw > self.kind.max_frame:
                raise ObjectDamaged(f"{self.name} has a damaged table: frame {frame.number} is out of its place")
            end += frame.stored
        if end != footer.table_offset:
            raise ObjectDamaged(f"{self.name} has a damaged table: its frames end at {end}")
        return frames


def _clear(view: memoryview, header: Header, what: str) -> dict[str, Any]:
    end = HEADER_SIZE + header.clear_length
    if end > min(len(view), header.type.max_size):
        raise ObjectDamaged(f"{what} is cut off within its clear part")
    return canonical.decode(view[HEADER_SIZE:end], what) if header.clear_length else {}


def _mac(keys: Keys, digest: bytes, binding: bytes) -> bytes:
    assert keys.mac_key is not None
    return blake3(digest + binding, key=keys.mac_key).digest()
