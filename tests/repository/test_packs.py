"""Packs fill, close and are stored once."""

import os

import pytest

from pgrecall.errors import ObjectDamaged, StorageFull
from pgrecall.repository.columns import RANGE_SIZE, PackRef
from pgrecall.repository.envelope import FrameOpener
from pgrecall.repository.extents import Extents, Ranges
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import pack_name
from pgrecall.repository.pack import PackBuilder, PackNumbers
from pgrecall.storage.base import Buffer, ObjectInfo
from tests.support.memory import MemoryStorage
from tests.support.tiny_engine import label, make_store

RUN = label(0)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_chunk_reads_back_by_its_reference_and_its_packs_record_alone(sealed: bool) -> None:
    store = make_store(sealed=sealed)
    builder = PackBuilder(store, RUN, PackNumbers())
    raw = os.urandom(1000) * 100
    builder.add(b"other")
    place = builder.add(raw)
    builder.close()
    record = builder.records[0]
    name = pack_name(RUN, place.pack)
    opener = FrameOpener(store.scope, ObjectType.PACK, name, record.generation, record.flags, record.salt)
    stored = store.get_range(name, place.offset, place.stored)
    assert opener.open(stored, place.chunk, place.raw, place.id16) == raw
    assert place.id16 == store.scope.keys.chunk_id(raw)[:16]


def test_a_record_says_what_the_packs_footer_says() -> None:
    store = make_store()
    builder = PackBuilder(store, RUN, PackNumbers())
    builder.add(b"a")
    builder.add(b"b")
    builder.close()
    record = builder.records[0]
    pack = store.read(ObjectType.PACK, pack_name(RUN, record.seq))
    assert (record.frames, record.size, record.hash, record.salt) == (
        len(pack.frames),
        pack.size,
        pack.hash,
        pack.header.salt,
    )
    assert builder.stored == pack.size


def test_a_pack_is_stored_when_it_passes_its_target_and_the_last_at_close() -> None:
    store = make_store()
    builder = PackBuilder(store, RUN, PackNumbers(), target=300_000)
    places = [builder.add(os.urandom(RANGE_SIZE)) for _ in range(4)]
    assert [each.pack for each in places] == [1, 1, 1, 2]
    assert [each.seq for each in builder.records] == [1]
    builder.close()
    builder.close()
    assert [each.seq for each in builder.records] == [1, 2]


def test_builders_of_one_run_share_numbers_and_never_a_pack() -> None:
    store, numbers = make_store(), PackNumbers()
    one, two = PackBuilder(store, RUN, numbers), PackBuilder(store, RUN, numbers)
    assert {one.add(b"1").pack, two.add(b"2").pack, one.add(b"3").pack} == {1, 2}
    assert numbers.last == 2


def test_an_unused_builder_stores_nothing() -> None:
    storage = MemoryStorage()
    PackBuilder(make_store(storage), RUN, PackNumbers()).close()
    assert not storage.objects


class _FullStorage(MemoryStorage):
    def put(self, key: str, data: Buffer) -> ObjectInfo:
        raise StorageFull("no space left")


def test_a_pack_that_cannot_be_stored_has_no_record() -> None:
    builder = PackBuilder(make_store(_FullStorage()), RUN, PackNumbers())
    builder.add(b"a")
    with pytest.raises(StorageFull):
        builder.close()
    assert builder.records == []


def test_extents_of_a_chunk_hold_all_of_it() -> None:
    builder = PackBuilder(make_store(), RUN, PackNumbers())
    place = builder.add(b"x" * 100)
    extents = Extents.data(place)
    extents.check(100, "file")
    assert extents.packs() == {PackRef(RUN.number, 1)}
    with pytest.raises(ObjectDamaged):
        extents.check(99, "file")
    assert len(Ranges.unknown(1)) == 1
