"""Whatever bytes a decoder is given, only an error with a name comes out."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrecall.errors import PgrecallError
from pgrecall.repository import canonical
from pgrecall.repository.columns import ChunkRef
from pgrecall.repository.commit import CommitDetails, from_clear
from pgrecall.repository.fileblock import FileBlock
from pgrecall.repository.manifest_json import decode_manifest, encode_manifest
from pgrecall.repository.node import Node, NodeList
from pgrecall.repository.runtable import RunTable
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


def _manifest() -> bytes:
    engine = TinyEngine(make_store())
    return encode_manifest(engine.back_up(label(0), {b"base/5/1": b"x" * 9, b"PG_VERSION": b"16\n"}).manifest)


DECODERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "node": (Node.decode, node().encode()),
    "list": (_read_list, node_list().encode()),
    "block": (_read_block, block().encode()),
    "table": (lambda data: RunTable.decode(data).packs(), run_table().encode()),
    "pointer": (lambda data: ChunkRef.from_bytes(data, "pointer"), chunk().to_bytes()),
    "manifest": (decode_manifest, _manifest()),
    "commit": (_read_commit, canonical.encode(commit(label(0), 1).to_clear())),
    "details": (CommitDetails.decode, CommitDetails(host="db1").encode()),
}


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
