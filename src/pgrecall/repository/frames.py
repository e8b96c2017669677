"""Owns single frames: compressing, padding, sealing, and opening them again without believing a byte."""

import struct
import threading
from typing import NamedTuple, overload

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pgrecall.errors import KeyMismatch, ObjectDamaged
from pgrecall.repository.header import (
    FLAG_PADDED,
    FLAG_SEALED,
    TABLE_NUMBER,
    Header,
    ObjectType,
    refuse_unknown_flags,
)
from pgrecall.repository.secrets import ChunkId, Keys, Scope
from pgrecall.storage.base import Buffer

TAG_SIZE = 16
AAD_SIZE = 48
AAD_TAIL = struct.Struct("<QII")  # after the binding: number, raw length, last
NONCE = struct.Struct("<Q4x")
MAX_WINDOW = 8 << 20
MAX_LEVEL = 19  # higher levels use windows beyond 8 MiB
PADDING = 512

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_PAD_LENGTH = struct.Struct("<I")
_UNSEALED_COMMITMENT = bytes(32)


class FrameRef(NamedTuple):
    """Where a frame lies in its object and what it holds; `id` is the keyed hash (32 bytes) of the raw bytes."""

    number: int
    offset: int
    stored: int
    raw: int
    id: ChunkId


def compressor(level: int) -> zstandard.ZstdCompressor:
    """A reusable compressor for frames, for one thread at a time."""
    assert level <= MAX_LEVEL
    return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)


def pad(z: bytes) -> bytes:
    return b"".join((_PAD_LENGTH.pack(len(z)), z, bytes(-(_PAD_LENGTH.size + len(z)) % PADDING)))


def _unpad(padded: memoryview, what: str) -> memoryview:
    length = _PAD_LENGTH.unpack_from(padded)[0] if len(padded) >= PADDING else 0
    end = _PAD_LENGTH.size + length
    if len(padded) % PADDING or not 0 <= len(padded) - end < PADDING or any(padded[end:]):
        raise ObjectDamaged(f"{what} has damaged padding")
    return padded[_PAD_LENGTH.size : end]


class _PerThread(threading.local):
    """What may not be shared between threads and is too dear to make for every frame."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._scratch = memoryview(bytearray(160 << 10))

    def scratch(self, size: int) -> memoryview:
        if size > len(self._scratch):
            self._scratch = memoryview(bytearray(size))
        return self._scratch[:size]


_per_thread = _PerThread()


def decompress(z: Buffer, raw_length: int, what: str) -> bytes:
    """Exactly one zstd frame that declares raw_length. The library ignores limits when a frame declares its size, and
    skips trailing frames, so all of this is checked before.
    """
    try:
        frame = zstandard.get_frame_parameters(z)
        if z[:4] != _ZSTD_MAGIC or frame.content_size != raw_length or frame.window_size > MAX_WINDOW or frame.dict_id:
            raise ObjectDamaged(f"{what} is not the {raw_length} bytes that it should be", declared=frame.content_size)
        if raw_length:
            return _per_thread.decompressor.decompress(z, allow_extra_data=False)
        empty = zstandard.ZstdDecompressor().decompressobj()
        if empty.decompress(z) or not empty.eof or empty.unused_data:
            raise ObjectDamaged(f"{what} holds more than the nothing that it should hold")
        return b""
    except zstandard.ZstdError as error:
        raise ObjectDamaged(f"{what} does not decompress: {error}") from error


class FrameOpener:
    """Opens single frames of one object, given what its header says; safe to share between threads.

    `keys` are those of the object's generation. Raise KeyMismatch where they are not at hand, or for an unsealed object
    in a sealed repository.
    """

    def __init__(
        self,
        scope: Scope,
        kind: ObjectType,
        name: str,
        generation: int,
        flags: int,
        salt: bytes,
        *,
        clear: Buffer = b"",
    ) -> None:
        refuse_unknown_flags(flags, name)
        self.keys = _keys_for(scope, generation, flags, name)
        self.name = name
        self.kind = kind
        self._padded = bool(flags & FLAG_PADDED)
        self._id_key = self.keys.id_key
        self._cipher: AESGCM | None = None
        self.commitment = _UNSEALED_COMMITMENT
        if flags & FLAG_SEALED:
            key, self.commitment = self.keys.object_key(kind, salt)
            self._cipher = AESGCM(key)
        header = Header(kind, flags, generation, len(clear), salt, self.commitment)
        self.binding = scope.binding(header.encode(), clear, name)

    @overload
    def open(self, stored: Buffer, number: int, raw_length: int, expected: bytes | None, out: None = None) -> bytes: ...
    @overload
    def open(
        self, stored: Buffer, number: int, raw_length: int, expected: bytes | None, out: memoryview
    ) -> memoryview: ...
    def open(
        self, stored: Buffer, number: int, raw_length: int, expected: bytes | None, out: memoryview | None = None
    ) -> bytes | memoryview:
        """The raw bytes of frame `number`, or the beginning of `out` filled with them.

        `expected` is the id asked for (16 or 32 bytes); None only where the caller checks the content otherwise.
        """
        if raw_length > self.kind.max_frame:
            raise ObjectDamaged(f"{self.name}: frame {number} claims {raw_length} bytes")
        raw = self._open(stored, number, raw_length, 0)
        if expected is not None and blake3(raw, key=self._id_key).digest(len(expected)) != expected:
            raise ObjectDamaged(f"{self.name}: frame {number} holds other bytes than the ones asked for")
        if out is None:
            return raw
        out[:raw_length] = raw
        return out[:raw_length]

    def open_table(self, stored: Buffer, raw_length: int) -> bytes:
        return self._open(stored, TABLE_NUMBER, raw_length, 1)

    def _open(self, stored: Buffer, number: int, raw_length: int, last: int) -> bytes:
        what = f"{self.name}: {'table' if last else f'frame {number}'}"
        z = memoryview(stored)
        if self._cipher is not None:
            z = self._decrypt(self._cipher, stored, number, raw_length, last)
        if self._padded:
            z = _unpad(z, what)
        return decompress(z, raw_length, what)

    def _decrypt(self, cipher: AESGCM, stored: Buffer, number: int, raw_length: int, last: int) -> memoryview:
        z = _per_thread.scratch(max(len(stored) - TAG_SIZE, 0))
        try:
            cipher.decrypt_into(NONCE.pack(number), stored, self.binding + AAD_TAIL.pack(number, raw_length, last), z)
        except (InvalidTag, ValueError) as error:
            raise ObjectDamaged(f"{self.name}: frame {number} was changed, or belongs to another object") from error
        return z


def _keys_for(scope: Scope, generation: int, flags: int, name: str) -> Keys:
    sealed = bool(flags & FLAG_SEALED)
    if sealed and not scope.keys.sealed:
        raise KeyMismatch(f"{name} is sealed; there is no key for it", hint="Name the key file of this cluster.")
    if scope.keys.sealed and not sealed:
        raise KeyMismatch(f"{name} is not sealed, but this repository is: it was put there by somebody without the key")
    keys = scope.keys_of(generation)
    if keys is None:
        at_hand = ", ".join(str(each.generation) for each in (*scope.older, scope.keys))
        raise KeyMismatch(f"{name} is sealed under key generation {generation}, the key at hand is {at_hand}")
    return keys
