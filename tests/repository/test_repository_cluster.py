"""A cluster's objects: written once, told apart from somebody else's, labels that nobody shares."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.errors import ObjectDamaged, ObjectExists, StorageError
from pgrecall.repository import layout
from pgrecall.repository.cluster import ClusterStore, SystemIdentity
from pgrecall.repository.envelope import ObjectWriter
from pgrecall.repository.header import ObjectType
from pgrecall.repository.secrets import Keys
from pgrecall.storage.base import Buffer, ObjectInfo
from pgrecall.storage.posix import PosixStorage
from tests.support.faulty import FaultyStorage

NOW = datetime(2026, 11, 20, 15, 31, 27, 900_000, tzinfo=UTC)
NAME = "wal/7/00000001/000000010000000000000001"
KEYS = Keys.of_sealed(1, b"d" * 32, b"i" * 32)


@pytest.fixture
def storage(tmp_path: Path) -> PosixStorage:
    return PosixStorage(tmp_path / "repo")


@pytest.fixture
def store(storage: PosixStorage) -> ClusterStore:
    return ClusterStore(storage, bytes(16), bytes(16), "main", KEYS)


def over(storage: FaultyStorage | PosixStorage) -> ClusterStore:
    return ClusterStore(storage, bytes(16), bytes(16), "main", KEYS)


class Retrying(FaultyStorage):
    """A network storage that asks again when it did not hear."""

    def put(self, key: str, data: Buffer) -> ObjectInfo:
        while True:
            try:
                return super().put(key, data)
            except StorageError as error:
                if isinstance(error, ObjectExists):
                    raise


def test_an_object_is_read_back_by_its_name(store: ClusterStore, storage: PosixStorage) -> None:
    stored = store.put(ObjectType.WAL, NAME, clear={"size": 3}, frames=[b"index", b"one", b"two"])
    reader = store.read(ObjectType.WAL, NAME)
    assert (reader.clear, reader.payload(), reader.hash) == ({"size": 3}, b"indexonetwo", stored.hash)
    assert storage.head("clusters/main/" + NAME).size == stored.size
    assert store.exists(NAME)
    assert [info.key for info in store.list("wal/7/")] == [NAME]
    assert list(store.list_dirs("wal/7/")) == ["00000001"]
    assert store.get_range(NAME, 0, 8) == b"PGRECALL"
    store.delete(NAME)
    assert not store.exists(NAME)


def test_a_put_whose_answer_was_lost_is_a_success(storage: PosixStorage) -> None:
    store = over(Retrying(storage, script="L"))
    stored = store.put(ObjectType.WAL, NAME, frames=[b"rows"])
    assert store.read(ObjectType.WAL, NAME).hash == stored.hash


def test_somebody_elses_object_is_not_ours_even_with_the_same_content(storage: PosixStorage) -> None:
    over(storage).put(ObjectType.WAL, NAME, frames=[b"rows"])
    with pytest.raises(ObjectExists):
        over(Retrying(storage, script="E")).put(ObjectType.WAL, NAME, frames=[b"rows"])
    with pytest.raises(ObjectExists):
        over(storage).put(ObjectType.WAL, NAME, frames=[b"rows" * 9000])


def test_an_object_may_be_put_again_after_an_error(storage: PosixStorage) -> None:
    store = over(FaultyStorage(storage, script="LE"))
    writer = ObjectWriter(store.scope, ObjectType.PACK, layout.pack_name(BackupLabel.at(NOW, BackupKind.FULL), 1))
    writer.add(b"rows")
    data = writer.finish()
    for _ in range(2):
        with pytest.raises(StorageError):
            store.put_built(writer.name, data)
    assert store.put_built(writer.name, data).hash == writer.hash
    assert store.put_built(writer.name, data).salt == writer.salt


def test_a_read_that_was_cut_is_damage_and_never_data(storage: PosixStorage) -> None:
    over(storage).put(ObjectType.WAL, NAME, frames=[b"rows" * 100])
    for seed in range(20):
        with pytest.raises(ObjectDamaged):
            over(FaultyStorage(storage, script="C", seed=seed)).read(ObjectType.WAL, NAME)


def test_an_object_larger_than_its_type_may_be_is_not_even_read(store: ClusterStore, storage: PosixStorage) -> None:
    storage.put("clusters/main/" + NAME.replace("1/0", "1/owner"), b"x" * (65 << 10))
    with pytest.raises(ObjectDamaged, match="at most 65536"):
        store.read(ObjectType.OWNER, NAME.replace("1/0", "1/owner"))


def claim(store: ClusterStore, now: datetime = NOW, kind: BackupKind = BackupKind.FULL) -> str:
    return str(store.claim_label(kind, now, "db1", b"token"))


def test_labels_are_taken_in_order_whatever_the_clock_says(store: ClusterStore) -> None:
    assert claim(store) == "20261120T153127Z-full"
    assert claim(store, kind=BackupKind.INCR) == "20261120T153128Z-incr"
    assert claim(store, NOW - timedelta(days=9)) == "20261120T153129Z-full"
    assert claim(store, NOW + timedelta(hours=1)) == "20261120T163127Z-full"


def test_runs_that_start_in_one_second_get_a_label_each(store: ClusterStore) -> None:
    with ThreadPoolExecutor(6) as pool:
        labels = list(pool.map(lambda _: claim(store), range(12)))
    assert len(set(labels)) == 12
    assert [str(label) for label in store.labels()] == sorted(labels)


def test_a_label_of_the_end_of_time_stops_nobody(store: ClusterStore) -> None:
    store.put(ObjectType.CLAIM, "backups/99991231T235959Z-full/claim")
    assert claim(store) == "20261120T153127Z-full"


def test_a_claim_says_who_and_on_what_it_builds(store: ClusterStore) -> None:
    parent = BackupLabel.parse("20261119T010002Z-full")
    label = store.claim_label(
        BackupKind.INCR, NOW, "db1", b"token", parents=[parent], start_lsn=Lsn.parse("3/5A000028"), timeline=2
    )
    clear = store.read(ObjectType.CLAIM, layout.claim_name(label)).clear
    assert clear == {
        "cluster": bytes(16).hex(),
        "label": "20261120T153127Z-incr",
        "host": "db1",
        "token_hash": clear["token_hash"],
        "at": "2026-11-20T15:31:27.900000Z",
        "parents": ["20261119T010002Z-full"],
        "start_lsn": "3/5A000028",
        "timeline": 2,
    }
    assert "token" not in clear["token_hash"]


def test_a_claim_whose_answer_was_lost_is_ours(storage: PosixStorage) -> None:
    assert claim(over(Retrying(storage, script=".L"))) == "20261120T153127Z-full"


def test_a_new_system_identifier_is_appended(store: ClusterStore) -> None:
    old = SystemIdentity((1 << 64) - 1, 160_014, NOW)
    new = SystemIdentity(7, 180_001, NOW + timedelta(days=1))
    store.put(
        ObjectType.IDENTITY,
        "identity/0",
        clear={
            "cluster": bytes(16).hex(),
            "name": "main",
            "systems": [
                {"system_identifier": str(old[0]), "version_num": old[1], "since": "2026-11-20T15:31:27.900000Z"}
            ],
        },
    )
    assert store.record_system(new).systems == (old, new)
    assert store.identity().systems == (old, new)
    assert store.identity().number == 1
