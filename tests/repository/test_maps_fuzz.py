"""Whatever bytes a decoder is given, only an error with a name comes out."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrecall.errors import PgrecallError
from pgrecall.repository import canonical
from pgrecall.repository.columns import ChunkRef
from pgrecall.repository.commit import CommitDetails, from_clear
from pgrecall.repository.fileblock import FileBlock
from pgrecall.repository.formatfile import FormatFile
from pgrecall.repository.hostkey import HostKey
from pgrecall.repository.identity import ClusterIdentity, SystemIdentity
from pgrecall.repository.keyring import RootKey, new_root, next_root
from pgrecall.repository.manifest import DamagedPage, Link, OutsideFile, Tablespace
from pgrecall.repository.manifest_json import decode_manifest, encode_manifest
from pgrecall.repository.node import Node, NodeList
from pgrecall.repository.runtable import RunTable
from pgrecall.repository.secrets import Keys
from tests.support.commit_samples import commit
from tests.support.map_samples import block, chunk, node, node_list, run_table
from tests.support.tiny_engine import TinyEngine, label, make_store


def _read_block(data: bytes) -> None:
    for file in FileBlock.decode(data):
        assert file.extents is None or file.extents.length == file.entry.size


def _read_list(data: bytes) -> None:
    nodes = NodeList.decode(data)
    assert len(nodes.nodes()) == len(nodes)
    nodes.packs_of(0)


def _read_commit(data: bytes) -> None:
    from_clear(canonical.decode(data, "commit"), label(0))


_KEYS = [Keys.of_sealed(number, bytes(32), bytes(32)) for number in (1, 2)]
_HOST_KEY = HostKey(bytes(16), bytes(16), "main", _KEYS[1], (_KEYS[0],))


def _manifest() -> bytes:
    engine = TinyEngine(make_store())
    made = engine.back_up(label(0), {b"base/5/1": b"x" * 9, b"PG_VERSION": b"16\n"}).manifest
    full = replace(
        made,
        tablespaces=(Tablespace(16400, b"/space", in_place=False),),
        links=(Link(b"pg_wal", b"/wal"),),
        outside=(OutsideFile("config_file", b"/etc/postgresql.conf", b"1"),),
        damage=(DamagedPage(b"base/5/1", 0, "checksum"),),
    )
    return encode_manifest(full)


DECODERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "node": (Node.decode, node().encode()),
    "list": (_read_list, node_list().encode()),
    "block": (_read_block, block().encode()),
    "table": (lambda data: RunTable.decode(data).packs(), run_table().encode()),
    "pointer": (lambda data: ChunkRef.from_bytes(data, "pointer"), chunk().to_bytes()),
    "manifest": (decode_manifest, _manifest()),
    "commit": (_read_commit, canonical.encode(commit(label(0), 1).to_clear())),
    "details": (CommitDetails.decode, CommitDetails(host="db1").encode()),
    "root key": (lambda data: RootKey.decode(data, "wrap"), next_root(new_root()).encode()),
    "host key": (lambda data: HostKey.decode(data, "file"), _HOST_KEY.encode()),
    "format file": (
        lambda data: FormatFile.decode(data, "format"),
        FormatFile(bytes(16), False, label(0).moment).encode(None),
    ),
    "identity": (
        lambda data: ClusterIdentity.from_clear(0, canonical.decode(data, "identity"), "identity"),
        canonical.encode(ClusterIdentity(0, bytes(16), "main", (SystemIdentity(1, 160004, label(0).moment),)).clear),
    ),
}
JSON = [name for name in DECODERS if DECODERS[name][1].startswith(b"{")]
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 53, -(1 << 53), "", "x", "%00", "%2F..", "/..", "0/0", "AAAA", "00" * 16, "f" * 96,
    "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "99991231T235959Z-full", "18446744073709551615", "9" * 5000,
    "\x1b[2J", "\u202e", [], {}, [None], [[]], {"": None}, ["x"], [1], [{}],
)  # fmt: skip


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_are_damage_and_nothing_else(name: str, data: bytes) -> None:
    decode, valid = DECODERS[name]
    for attempt in (data, valid[:32] + data):
        try:
            decode(attempt)
        except PgrecallError:
            continue


@pytest.mark.parametrize("name", DECODERS)
def test_changed_bytes_are_damage_or_another_valid_value(name: str) -> None:
    decode, valid = DECODERS[name]
    decode(valid)
    rng = random.Random(7)
    for _ in range(400):
        data = bytearray(valid)
        for _ in range(rng.choice((1, 1, 2, 5))):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        elif rng.random() < 0.1:
            data += rng.randbytes(rng.choice((1, 8, 48)))
        try:
            decode(bytes(data))
        except PgrecallError:
            continue


@pytest.mark.parametrize("name", ["node", "list", "block", "table"])
def test_a_map_chunk_cut_anywhere_or_too_long_is_refused(name: str) -> None:
    decode, valid = DECODERS[name]
    for end in range(len(valid)):
        with pytest.raises(PgrecallError):
            decode(valid[:end])
    with pytest.raises(PgrecallError):
        decode(valid + bytes(8))


def _variants(value: Any) -> Iterator[Any]:
    """The value with one of its parts, however deep, made odd or left out."""
    yield from ODD
    if isinstance(value, dict):
        for name, part in value.items():
            yield {other: each for other, each in value.items() if other != name}
            yield from ({**value, name: odd} for odd in _variants(part))
            yield {**value, name + "x": part}
    if isinstance(value, list):
        for index, part in enumerate(value):
            yield [*value, part]
            yield from ([*value[:index], odd, *value[index + 1 :]] for odd in _variants(part))


@pytest.mark.parametrize("name", JSON)
def test_canonical_json_with_any_field_made_odd_is_damage_or_another_valid_value(name: str) -> None:
    decode, valid = DECODERS[name]
    for value in _variants(canonical.decode(valid, name)):
        try:
            decode(canonical.encode(value))
        except PgrecallError:
            continue
