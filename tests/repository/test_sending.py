"""Packs are stored behind the back of who fills them: bounded, complete at the end, and no failure is lost."""

import os
import threading

import pytest

from pgrecall.errors import StorageFull
from pgrecall.repository.columns import RANGE_SIZE
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import pack_name
from pgrecall.repository.pack import PackBuilder, PackNumbers
from pgrecall.repository.sending import PackSender
from pgrecall.storage.base import Buffer, ObjectInfo
from tests.support.memory import MemoryStorage
from tests.support.tiny_engine import label, make_store

RUN = label(0)
PACK = 300_000


class _Slow(MemoryStorage):
    """Lets nothing through before `go`; remembers how many puts were under way at once."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.begun = threading.Event()
        self.now = self.most = 0
        self._count = threading.Lock()

    def put(self, key: str, data: Buffer) -> ObjectInfo:
        with self._count:
            self.now += 1
            self.most = max(self.most, self.now)
        self.begun.set()
        assert self.go.wait(30)
        with self._count:
            self.now -= 1
        return super().put(key, data)


class _Full(MemoryStorage):
    def put(self, key: str, data: Buffer) -> ObjectInfo:
        raise StorageFull("no space left")


def test_every_pack_sent_is_stored_as_it_was_built_though_buffers_are_used_again() -> None:
    store, numbers = make_store(), PackNumbers()
    raws = [os.urandom(RANGE_SIZE) for _ in range(40)]
    with PackSender(store, 2) as sender:
        builders = [PackBuilder(store, RUN, numbers, target=PACK, sender=sender) for _ in range(2)]
        places = [builders[number % 2].add(raw) for number, raw in enumerate(raws)]
        for builder in builders:
            builder.close()
        sender.finish()
    assert len({place.pack for place in places}) == 14
    for raw, place in zip(raws, places, strict=True):
        assert store.read(ObjectType.PACK, pack_name(RUN, place.pack)).read(place.chunk) == raw
    records = {record.seq: record.hash for builder in builders for record in builder.records}
    assert records == {seq: store.read(ObjectType.PACK, pack_name(RUN, seq)).hash for seq in range(1, 15)}


def test_a_builder_goes_on_while_its_pack_is_on_its_way_and_waits_when_memory_is_used_up() -> None:
    storage = _Slow()
    store = make_store(storage)
    with PackSender(store, 1) as sender:
        builder = PackBuilder(store, RUN, PackNumbers(), target=PACK, sender=sender)
        filled = threading.Event()

        def fill() -> None:
            for _ in range(6):  # two packs: the third needs the buffer of the first
                builder.add(os.urandom(RANGE_SIZE))
            filled.set()
            builder.add(b"third")

        thread = threading.Thread(target=fill)
        thread.start()
        assert storage.begun.wait(30)
        assert filled.wait(30), "the builder waited for the disk"
        thread.join(0.1)
        assert thread.is_alive(), "a third pack was begun in memory that two others still use"
        storage.go.set()
        thread.join()
        builder.close()
        sender.finish()
    assert storage.most == 1
    assert len(storage.objects) == 3


def test_what_storage_refuses_is_raised_at_the_next_pack_and_again_at_the_end() -> None:
    store = make_store(_Full())
    with PackSender(store, 1) as sender:
        builder = PackBuilder(store, RUN, PackNumbers(), target=PACK, sender=sender)
        with pytest.raises(StorageFull):
            for _ in range(20):
                builder.add(os.urandom(RANGE_SIZE))
        with pytest.raises(StorageFull):
            sender.finish()


def test_a_failure_of_the_very_last_pack_is_not_lost() -> None:
    store = make_store(_Full())
    with PackSender(store, 1) as sender:
        builder = PackBuilder(store, RUN, PackNumbers(), sender=sender)
        builder.add(b"last")
        builder.close()
        with pytest.raises(StorageFull):
            sender.finish()
