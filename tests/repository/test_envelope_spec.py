"""The envelope read by a second, naive reader: docs/format.md §2 word by word, sharing none of our code."""

import hashlib
import hmac
import json
import struct

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pgrecall.repository.envelope import ObjectWriter
from pgrecall.repository.header import ObjectType
from pgrecall.repository.secrets import Keys, Scope

REPOSITORY, CLUSTER = bytes(range(16)), bytes(range(100, 116))
DATA_KEY, ID_KEY, MAC_KEY = b"d" * 32, b"i" * 32, b"m" * 32
NAME = "wal/7298/00000001/000000010000000000000003"
FRAMES = [b'{"restore_points":[]}', b"page" * 300, b""]


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, spelled out."""
    secret = hmac.digest(salt or bytes(32), key, hashlib.sha256)
    block, out = b"", b""
    for number in range(1, 9):
        block = hmac.digest(secret, block + info + bytes([number]), hashlib.sha256)
        out += block
    return out[:length]


@pytest.mark.parametrize("padded", [False, True], ids=["plain", "padded"])
@pytest.mark.parametrize("sealed", [False, True], ids=["unsealed", "sealed"])
def test_an_object_has_the_bytes_of_the_specification(sealed: bool, padded: bool) -> None:
    keys = Keys.of_sealed(3, DATA_KEY, ID_KEY) if sealed else Keys.of_unsealed(CLUSTER, MAC_KEY)
    writer = ObjectWriter(
        Scope(REPOSITORY, CLUSTER, keys), ObjectType.WAL, NAME, clear={"b": 1, "a": "ä"}, padded=padded
    )
    for frame in FRAMES:
        writer.add(frame)
    data = bytes(writer.finish())

    # header, clear part
    assert data[:8] == b"PGRECALL"
    version, kind, flags, generation, clear_length = struct.unpack("<HHIII", data[8:24])
    assert (version, kind, flags, generation) == (1, 6, sealed | padded << 1, 3 if sealed else 0)
    assert data[24:32] == bytes(8)
    salt, commitment = data[32:64], data[64:96]
    clear = data[96 : 96 + clear_length]
    assert clear == '{"a":"ä","b":1}'.encode()
    assert json.loads(clear) == {"a": "ä", "b": 1}

    # key, binding
    both = hkdf(DATA_KEY, salt, b"pgrecall/1/wal", 64)
    assert commitment == (both[32:] if sealed else bytes(32))
    name = NAME.encode()
    binding = blake3(
        b"pgrecall/1/bind" + data[:96] + clear + REPOSITORY + CLUSTER + struct.pack("<I", len(name)) + name
    ).digest()

    def open_frame(stored: bytes, number: int, raw_length: int, last: int) -> bytes:
        z = stored
        if sealed:
            aad = binding + struct.pack("<QII", number, raw_length, last)
            z = AESGCM(both[:32]).decrypt(struct.pack("<Q", number) + bytes(4), stored, aad)
        if padded:
            assert len(z) % 512 == 0
            (length,) = struct.unpack("<I", z[:4])
            assert not any(z[4 + length :])
            z = z[4 : 4 + length]
        assert zstandard.frame_content_size(z) == raw_length
        raw = zstandard.ZstdDecompressor().decompress(z)
        assert len(raw) == raw_length
        return raw

    # footer, table
    footer = data[-128:]
    table_offset, table_stored, table_raw, frames, reserved, size = struct.unpack("<QIIIIQ", footer[:32])
    assert (frames, reserved, size, table_raw) == (len(FRAMES), 0, len(data), 48 * len(FRAMES))
    assert footer[32:64] == bytes(32)
    assert footer[64:96] == blake3(data[:-64]).digest()
    mac_key = hkdf(DATA_KEY, b"", b"pgrecall/1/mac", 32) if sealed else MAC_KEY
    assert footer[96:] == blake3(footer[64:96] + binding, key=mac_key).digest()
    table = open_frame(data[table_offset : table_offset + table_stored], 2**64 - 1, table_raw, 1)
    assert table_offset + table_stored + 128 == size

    # frames
    id_key = ID_KEY if sealed else hkdf(CLUSTER, b"", b"pgrecall/1/id", 32)
    end = 96 + clear_length
    for number, expected in enumerate(FRAMES):
        offset, stored, raw_length, chunk_id = struct.unpack("<QII32s", table[48 * number : 48 * number + 48])
        assert (offset, raw_length, chunk_id) == (end, len(expected), blake3(expected, key=id_key).digest())
        assert open_frame(data[offset : offset + stored], number, raw_length, 0) == expected
        end += stored
    assert end == table_offset
