"""A stranger restores with the identity and docs/format.md §12: a second reader, sharing none of our code."""

import base64
import hashlib
import hmac
import json
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote_to_bytes

import pyrage  # type: ignore[import-untyped]
import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pgrecall.clock import ManualClock
from pgrecall.domain.label import BackupKind
from pgrecall.domain.lsn import Lsn
from pgrecall.repository.catalog import Catalog
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.commit import Commit, CommitDetails
from pgrecall.repository.repository import Repository
from tests.support.memory import MemoryStorage
from tests.support.tiny_engine import TinyEngine, label

Get = Callable[[str], bytes]
MIB = 1 << 20
BEFORE = {
    b"PG_VERSION": b"16\n",
    b"base/5/1259": bytes(range(256)) * 700,
    b"base/5/1259_fsm": b"",
    b"base/5/16384": bytes(5 * MIB) + b"page" * 4 * MIB + b"end",
    b"odd n\xe4me%": b"x",
}
AFTER = {
    **BEFORE,
    b"base/5/1259": b"y" * 8192 + BEFORE[b"base/5/1259"][8192:],
    b"base/5/16384": BEFORE[b"base/5/16384"][: 20 * MIB]
    + b"new page" * 1024
    + BEFORE[b"base/5/16384"][20 * MIB + 8192 :],
}


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869."""
    secret = hmac.digest(salt or bytes(32), key, hashlib.sha256)
    block, out = b"", b""
    while len(out) < length:
        block = hmac.digest(secret, block + info + bytes([len(out) // 32 + 1]), hashlib.sha256)
        out += block
    return out[:length]


class Opened:
    """§2: what header and keys say of one object; opens its frames."""

    def __init__(self, header: bytes, clear: bytes, kind: str, name: str, ids: bytes, key: bytes) -> None:
        flags = struct.unpack("<I", header[12:16])[0]
        assert flags == 1, "sealed, not padded"
        both = hkdf(key, header[32:64], b"pgrecall/1/" + kind.encode(), 64)
        assert header[64:96] == both[32:], "the key does not belong to this object"
        self.cipher = AESGCM(both[:32])
        path = name.encode()
        bound = (b"pgrecall/1/bind", header, clear, ids, struct.pack("<I", len(path)), path)
        self.binding = blake3(b"".join(bound)).digest()

    def frame(self, stored: bytes, number: int, raw_length: int, last: int = 0) -> bytes:
        aad = self.binding + struct.pack("<QII", number, raw_length, last)
        z = self.cipher.decrypt(struct.pack("<Q", number) + bytes(4), stored, aad)
        assert zstandard.frame_content_size(z) == raw_length
        return zstandard.ZstdDecompressor().decompress(z) if raw_length else b""


def open_object(data: bytes, kind: tuple[int, str], name: str, ids: bytes, key: bytes, id_key: bytes) -> list[bytes]:
    """The frames of a whole object, after the checks of §2."""
    assert blake3(data[:-64]).digest() == data[-64:-32]
    assert data[:8] == b"PGRECALL"
    version, number, _, _, clear_length = struct.unpack("<HHIII", data[8:24])
    assert (version, number) == (1, kind[0])
    assert not any(data[24:32])
    clear = data[96 : 96 + clear_length]
    opened = Opened(data[:96], clear, kind[1], name, ids, key)
    mac_key = hkdf(key, b"", b"pgrecall/1/mac", 32)
    assert blake3(data[-64:-32] + opened.binding, key=mac_key).digest() == data[-32:]
    offset, stored, raw, count, zero, size = struct.unpack("<QIIIIQ", data[-128:-96])
    assert (zero, size) == (0, len(data))
    table = opened.frame(data[offset : offset + stored], 2**64 - 1, raw, 1)
    frames = []
    for at in range(count):
        where, stored, raw, chunk_id = struct.unpack_from("<QII32s", table, 48 * at)
        frames.append(opened.frame(data[where : where + stored], at, raw))
        assert blake3(frames[-1], key=id_key).digest() == chunk_id
    return frames


def read_clear(data: bytes) -> Any:
    return json.loads(data[96 : 96 + struct.unpack("<I", data[20:24])[0]])


class Columns:
    """§4: columns, each padded to a multiple of 8 bytes."""

    def __init__(self, raw: bytes, head: str, magic: bytes) -> None:
        found, version, *self.head = struct.unpack_from("<4sI" + head, raw)
        assert (found, version) == (magic, 1)
        self.raw, self.at = raw, struct.calcsize("<4sI" + head)

    def take(self, length: int) -> bytes:
        column = self.raw[self.at : self.at + length]
        self.at += -(-length // 8) * 8
        return column

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        return struct.unpack(f"<{count}{code}", self.take(struct.calcsize("<" + code) * count))

    def cells(self, width: int, count: int) -> list[bytes]:
        column = self.take(width * count)
        return [column[at * width : (at + 1) * width] for at in range(count)]

    def extents(self, count: int) -> list[tuple[Any, ...]]:
        columns: list[Any] = [self.numbers(code, count) for code in "IIQIIIIIIB"]
        return list(zip(*columns, self.cells(16, count), strict=True))


class Stranger:
    """Has an identity and the page; `get` is all of the storage."""

    def __init__(self, get: Get, keys: list[str], identity: str, cluster: str) -> None:
        self.get, self.prefix = get, f"clusters/{cluster}/"
        person = pyrage.x25519.Identity.from_str(identity)
        mine = [key for key in keys if key.startswith("keys/") and key.endswith(f"/{person.to_public()}.age")]
        root = json.loads(pyrage.decrypt(get(max(mine, key=lambda key: int(key.split("/")[1]))), [person]))
        roots = [base64.b64decode(each) for each in (*root["older"], root["key"])]
        repository = bytes.fromhex(json.loads(get("format/0.json"))["repository"])
        assert repository == hkdf(roots[0], b"", b"pgrecall/1/repository", 16)
        self.check_format(roots)

        data = get(self.prefix + "keys/1/root")
        self.ids = repository + bytes.fromhex(read_clear(data)["cluster"])
        sealer = roots[struct.unpack("<I", data[16:20])[0] - 1]
        id_key = hkdf(sealer, b"", b"pgrecall/1/id", 32)
        (payload,) = open_object(data, (10, "clusterkey"), "keys/1/root", self.ids, sealer, id_key)
        said = json.loads(payload)
        assert (said["repository"], said["generation"]) == (repository.hex(), 1)
        self.key, self.id_key = base64.b64decode(said["data_key"]), base64.b64decode(said["id_key"])

    def check_format(self, roots: list[bytes]) -> None:
        said = json.loads(self.get("format/0.json"))
        body = {name: value for name, value in said.items() if name not in ("hash", "mac")}
        plain = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        assert blake3(plain).hexdigest() == said["hash"]
        assert blake3(plain, key=hkdf(roots[-1], b"", b"pgrecall/1/format", 32)).hexdigest() == said["mac"]
        assert said["features"]["read"] == []

    def open(self, kind: tuple[int, str], name: str) -> list[bytes]:
        return open_object(self.get(self.prefix + name), kind, name, self.ids, self.key, self.id_key)

    def chunk(self, run: int, pack: int, chunk: int, offset: int, stored: int, raw: int, id16: bytes) -> bytes:
        """§3: one chunk of a pack, by the pack's header."""
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=run >> 4)
        name = f"packs/{moment:%Y%m%dT%H%M%SZ}-{('full', 'incr', 'dump')[run & 15]}/{pack:08d}"
        data = self.get(self.prefix + name)
        content = Opened(data[:96], b"", "pack", name, self.ids, self.key).frame(
            data[offset : offset + stored], chunk, raw
        )
        assert blake3(content, key=self.id_key).digest(16) == id16
        return content

    def pointer(self, text: bytes) -> bytes:
        run, pack, chunk, offset, stored, raw, zero, id16 = struct.unpack("<QIIIIII16s", text)
        assert zero == 0
        return self.chunk(run, pack, chunk, offset, stored, raw, id16)

    def manifest(self, backup: str) -> Any:
        commit = read_clear(self.get(f"{self.prefix}backups/{backup}/backup.json"))
        assert commit["state"] == "committed"
        assert self.get(f"{self.prefix}backups/{backup}/manifest")[-64:-32].hex() == commit["manifest"]
        return json.loads(b"".join(self.open((2, "manifest"), f"backups/{backup}/manifest")))

    def restore(self, backup: str) -> Iterator[tuple[bytes, bytes]]:
        for directory in self.manifest(backup)["directories"]:
            path = unquote_to_bytes(directory["path"])
            for pointer in directory["blocks"]:
                for name, content in self.block(self.pointer(bytes.fromhex(pointer)), path):
                    yield (path + b"/" + name if path else name), content

    def block(self, raw: bytes, directory: bytes) -> Iterator[tuple[bytes, bytes]]:
        columns = Columns(raw, "IIIIII", b"PGRF")
        files, ranges, extents, pointers, names, path = columns.head
        assert columns.take(path) == directory
        joined = columns.take(names)
        ends = columns.numbers("I", files)
        per_file = [columns.numbers(code, files) for code in "HHHBQqqQIII"]
        states, digests = columns.numbers("B", ranges), columns.cells(16, ranges)
        all_extents = columns.extents(extents)
        lists = [columns.take(48) for _ in range(pointers)]
        assert columns.at == len(raw)
        begin = 0
        for end, _, _, _, storage, size, _, _, _, own_ranges, own_extents, own_pointers in zip(
            ends, *per_file, strict=True
        ):
            name, begin = joined[begin:end], end
            known = list(zip(states[:own_ranges], digests[:own_ranges], strict=True))
            mine, all_extents = all_extents[:own_extents], all_extents[own_extents:]
            states, digests = states[own_ranges:], digests[own_ranges:]
            if storage == 1:
                yield name, self.fill(mine, known, size)
            else:
                where, lists = lists[:own_pointers], lists[own_pointers:]
                yield name, b"".join(self.large(b"".join(where), directory + b"/" + name if directory else name, size))

    def large(self, pointer: bytes, path: bytes, size: int) -> Iterator[bytes]:
        columns = Columns(self.pointer(pointer), "QII", b"PGRL")
        said, nodes, path_length = columns.head
        assert (said, nodes) == (size, -(-size // (16 * MIB)))
        assert columns.take(path_length) == path
        for number, each in enumerate([columns.take(48) for _ in range(nodes)]):
            node = Columns(self.pointer(each), "QIIII", b"PGRN")
            offset, length, ranges, extents, path_length = node.head
            assert (node.take(path_length), offset) == (path, number * 16 * MIB)
            known = list(zip(node.numbers("B", ranges), node.cells(16, ranges), strict=True))
            yield self.fill(node.extents(extents), known, length)

    def fill(self, extents: list[tuple[Any, ...]], ranges: list[tuple[int, bytes]], size: int) -> bytes:
        content = b""
        for start, length, run, pack, chunk, offset, stored, raw, place, kind, id16 in extents:
            assert start == len(content)
            if kind == 1:
                content += self.chunk(run, pack, chunk, offset, stored, raw, id16)[place : place + length]
            else:
                assert kind == 2
                content += bytes(length)
        assert len(content) == size
        for number, (known, digest) in enumerate(ranges):
            span = content[number << 17 : number + 1 << 17]
            assert not known or blake3(span, key=self.id_key).digest(16) == digest
        return content


def commit_of(store: ClusterStore, engine: TinyEngine) -> None:
    made = engine.written[-1]
    start = made.manifest.start
    commit = Commit(
        label=made.manifest.label, sequence=Catalog(store).next_sequence(), parent=made.manifest.parent,
        system_identifier=1, timeline=1, version_num=160004, start_lsn=start.lsn, stop_lsn=Lsn(start.lsn + 1),
        wal_segment_size=16 * MIB, started=start.time, stopped=start.time, self_contained=False,
        size=made.manifest.size, stored=made.stored, files=made.manifest.files, damaged_pages=0, manifest=made.hash,
        live=made.live, seen=Catalog(store).seen(), newest_wal=None,
    )  # fmt: skip
    Catalog(store).commit(commit, CommitDetails())


@pytest.fixture(scope="module")
def repository() -> tuple[MemoryStorage, str]:
    storage = MemoryStorage()
    made = Repository.create(storage, sealed=True, clock=ManualClock("2026-11-20T15:31:27Z"), passphrase=False)
    assert made.identity
    store = ClusterStore.from_host_key(storage, made.repository.add_cluster("main", made.root))
    engine = TinyEngine(store)
    engine.back_up(label(0), BEFORE)
    commit_of(store, engine)
    engine.back_up(label(1, BackupKind.INCR), AFTER, label(0), BEFORE)
    commit_of(store, engine)
    return storage, made.identity


@pytest.mark.parametrize(("backup", "tree"), [(label(0), BEFORE), (label(1, BackupKind.INCR), AFTER)], ids=str)
def test_a_stranger_restores_every_byte_with_the_identity_and_the_page(
    repository: tuple[MemoryStorage, str], backup: object, tree: dict[bytes, bytes]
) -> None:
    storage, identity = repository
    stranger = Stranger(storage.objects.__getitem__, list(storage.objects), identity, "main")
    assert dict(stranger.restore(str(backup))) == tree


def test_a_stranger_finds_the_second_copy_of_a_manifest(repository: tuple[MemoryStorage, str]) -> None:
    storage, identity = repository
    stranger = Stranger(storage.objects.__getitem__, list(storage.objects), identity, "main")
    packs = sorted(key for key in storage.objects if key.startswith(f"clusters/main/packs/{label(0)}/"))
    frames = stranger.open((1, "pack"), packs[-1].removeprefix("clusters/main/"))
    table = max(number for number, frame in enumerate(frames) if frame.startswith(b"PGRT"))
    assert json.loads(b"".join(frames[table + 1 :])) == stranger.manifest(str(label(0)))
