"""What the beginning of a stored segment says, and to whom it may be believed."""

import base64
import contextlib
import json
import random
from dataclasses import replace
from typing import Any

import pytest

from pgrecall.domain.wal import WalSegment
from pgrecall.errors import KeyMismatch, ObjectDamaged
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.envelope import ObjectType, ObjectWriter
from pgrecall.repository.layout import wal_name
from pgrecall.services.archive.inventory import WalInventory
from pgrecall.services.archive.segment import facts_of
from tests.support.memory import MemoryStorage
from tests.support.tiny_engine import make_store

SYSTEM, FILE, SIZE = 7_500_000_000_000_000_001, "000000010000000000000003", 16 << 20
SEGMENT = WalSegment.parse(FILE, SIZE)
CLEAR: dict[str, Any] = {
    "system_identifier": str(SYSTEM), "timeline": 1, "segment": FILE, "size": SIZE, "first_commit": None,
    "last_commit": "2026-11-20T15:31:27.000001Z", "first_record": "0/3000028", "first_prev": None,
    "last_record": "0/3000028", "minimal_at": None, "broken_at": None, "writer": "00000000", "tablespaces": 0,
}  # fmt: skip


def put(store: ClusterStore, content: dict[str, Any], **changed: Any) -> None:
    raw = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    name = wal_name(SYSTEM, FILE)
    probe = ObjectWriter(store.scope, ObjectType.WAL, name)
    clear = {**CLEAR, "index": [probe.add(raw).stored, len(raw)], **changed}
    store.put(ObjectType.WAL, name, clear=clear, frames=[raw])


def index(head: bytes | None = None) -> dict[str, Any]:
    text = None if head is None else base64.b64encode(head).decode()
    return {"restore_points": [], "tablespaces": [], "parameter_changes": [], "head": text, "tail": None}


@pytest.mark.parametrize("text", ["2026-11-20", "2026-11-20T15:31:27", "2026-11-20T15:31:27+01:00", 7, "now"])
def test_a_time_without_zone_is_damage_before_anything_is_compared_with_it(text: object) -> None:
    assert facts_of(CLEAR, SEGMENT, "it").last_commit is not None
    with pytest.raises(ObjectDamaged):
        facts_of({**CLEAR, "first_commit": text}, SEGMENT, "it")
    store = make_store()
    put(store, {**index(), "restore_points": [{"name": "x", "lsn": "0/1", "time": text}]})
    with pytest.raises(ObjectDamaged):
        WalInventory(store, SYSTEM, segment_size=SIZE).facts([SEGMENT])


def test_an_index_longer_than_the_first_request_is_read_by_a_second_one() -> None:
    store = make_store()
    put(store, index(random.Random(1).randbytes(60_000)))
    inventory = WalInventory(store, SYSTEM, segment_size=SIZE)
    head = inventory.index(SEGMENT).head
    assert head is not None
    assert len(head) == 60_000


@pytest.mark.parametrize("unfit", [[15 << 20, 100], [80_500, 80_600]], ids=["beyond the object", "a little more"])
def test_the_clear_part_of_somebody_without_the_key_is_not_believed(unfit: list[int]) -> None:
    """It says that its index, which would prove it, lies beyond the first request."""
    storage = MemoryStorage()
    ours, theirs = make_store(storage), make_store(storage)
    keys = replace(theirs.scope.keys, data_key=b"E" * 32, mac_key=b"E" * 32)
    forger = ClusterStore(storage, theirs.scope.repository, theirs.scope.cluster, "main", keys)
    put(forger, index(random.Random(1).randbytes(60_000)), index=unfit, last_commit="2030-01-01T00:00:00Z")
    with pytest.raises(ObjectDamaged):
        WalInventory(ours, SYSTEM, segment_size=SIZE).facts([SEGMENT])


def test_the_clear_part_of_an_unsealed_object_is_not_believed_in_a_sealed_repository() -> None:
    storage = MemoryStorage()
    put(make_store(storage, sealed=False), index())
    with pytest.raises((ObjectDamaged, KeyMismatch)):
        WalInventory(make_store(storage), SYSTEM, segment_size=SIZE).facts([SEGMENT])


@pytest.mark.parametrize("field", CLEAR)
@pytest.mark.parametrize(
    "odd", [True, -1, 1 << 53, "", "x", "0/0", "9" * 5000, [], {}, [None]], ids=lambda odd: repr(odd)[:9]
)
def test_facts_with_any_field_made_odd_are_damage_or_other_valid_facts(field: str, odd: object) -> None:
    """They are read before anything proves them."""
    for clear in ({**CLEAR, field: odd}, {name: each for name, each in CLEAR.items() if name != field}):
        with contextlib.suppress(ObjectDamaged):
            facts_of(clear, SEGMENT, "it")
        store = make_store()
        put(store, {**index(), field: odd}, **clear)
        with contextlib.suppress(ObjectDamaged):
            WalInventory(store, SYSTEM).facts([SEGMENT])
