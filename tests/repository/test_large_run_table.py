"""A run of 200,000 packs (6 TB) has a table that can be written, pointed to, and read again."""

import os

import numpy as np
import pytest

from pgrecall.errors import ObjectDamaged
from pgrecall.repository.columns import MAP_CHUNK_MAX, RUN_TABLE_MAX, ChunkRef
from pgrecall.repository.envelope import FrameOpener
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import pack_name
from pgrecall.repository.manifest import PackKeyhole, RunEntry
from pgrecall.repository.pack import PackBuilder, PackNumbers
from pgrecall.repository.pack_index import PackIndex
from pgrecall.repository.runtable import _ROW, RunTable
from tests.support.tiny_engine import label, make_store

PACKS = 200_000


def large_table() -> RunTable:
    rows = np.zeros(PACKS, _ROW)
    rows["seq"] = np.arange(1, PACKS + 1)
    rows["generation"] = rows["flags"] = 1
    rows["frames"], rows["size"] = 300, 32 << 20
    rows["salt"] = np.frombuffer(os.urandom(32 * PACKS), "V32")
    return RunTable(label(0).number, rows)


def test_a_run_of_200_000_packs_is_read_back_from_its_pack() -> None:
    store, run = make_store(), label(0)
    numbers = PackNumbers()
    builder = PackBuilder(store, run, numbers)
    table = large_table()
    raw = table.encode()
    assert MAP_CHUNK_MAX < len(raw) <= RUN_TABLE_MAX
    keyhole = builder.keyhole()
    pointer = builder.append(raw)
    builder.close()
    entry = RunEntry(run, PACKS + 1, ChunkRef.from_bytes(pointer.to_bytes(), "table", largest=RUN_TABLE_MAX), keyhole)
    read = PackIndex(store, [entry]).table(run.number)
    assert len(read) == PACKS and read.find(PACKS) == table.find(PACKS)
    assert store.read(ObjectType.PACK, pack_name(run, 1)).payload() == raw


def test_only_a_run_table_may_be_that_large() -> None:
    pointer = ChunkRef(label(0).number, 1, 0, 96, 20_000_000, 20_000_000, b"x" * 16)
    with pytest.raises(ObjectDamaged, match="exceeds"):
        ChunkRef.from_bytes(pointer.to_bytes(), "node list")
    huge = pointer._replace(raw=RUN_TABLE_MAX + 1)
    with pytest.raises(ObjectDamaged, match="exceeds"):
        ChunkRef.from_bytes(huge.to_bytes(), "table", largest=RUN_TABLE_MAX)
    store, keyhole = make_store(), PackKeyhole(1, 1, 1, bytes(32))
    opener = FrameOpener(store.scope, ObjectType.PACK, pack_name(label(0), 1), 1, keyhole.flags, keyhole.salt)
    with pytest.raises(ObjectDamaged, match="claims"):
        opener.open(b"", 0, RUN_TABLE_MAX + 1, None)
