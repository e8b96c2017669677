"""What every storage must do: the contract of storage/base.py, line by line."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgrecall.errors import ObjectDamaged, ObjectExists, ObjectMissing, StorageError
from pgrecall.storage.base import Buffer, Storage
from pgrecall.storage.keys import is_key

KEY = "clusters/main/packs/20261120T010003Z-full/00000001"
BAD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "a/.",
    "../a",
    "a b",
    "a\n",
    "a\\b",
    "ä",
    "a#b",
    "x" * 901,
]


def test_what_was_put_is_got_back(storage: Storage) -> None:
    info = storage.put(KEY, b"some bytes")
    assert (info.key, info.size) == (KEY, 10)
    assert storage.get(KEY) == b"some bytes"


def test_memory_of_any_kind_can_be_put(storage: Storage) -> None:
    kinds: list[Buffer] = [b"bytes", bytearray(b"bytearray"), memoryview(b"a view")[2:], b""]
    for number, data in enumerate(kinds):
        storage.put(f"kinds/{number}", data)
        assert storage.get(f"kinds/{number}") == bytes(data)


def test_a_key_is_taken_once_and_the_first_bytes_stay(storage: Storage) -> None:
    storage.put(KEY, b"first")
    with pytest.raises(ObjectExists):
        storage.put(KEY, b"second")
    assert storage.get(KEY) == b"first"


def test_of_many_writers_exactly_one_wins_and_its_bytes_are_there(storage: Storage) -> None:
    barrier = threading.Barrier(8)

    def write(number: int) -> bool:
        barrier.wait()
        try:
            storage.put(KEY, bytes([number]) * 50_000)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert won.count(True) == 1
    assert storage.get(KEY) == bytes([won.index(True)]) * 50_000


def test_many_writers_may_make_the_same_folders(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: storage.put(f"deep/er/and/deeper/{number:03d}", b"x"), range(40)))
    assert len(list(storage.list("deep/er/"))) == 40


def test_writers_and_removers_in_one_folder_do_not_trip_each_other(storage: Storage) -> None:
    def work(number: int) -> None:
        for turn in range(30):
            key = f"busy/folder/{number}-{turn}"
            storage.put(key, b"x")
            storage.delete(key)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(storage.list("busy/")) == []


def test_ranges_are_exact(storage: Storage) -> None:
    data = bytes(range(256)) * 100
    storage.put(KEY, data)
    for offset, length in ((0, 0), (0, 1), (5, 1000), (len(data) - 1, 1), (0, len(data))):
        assert storage.get_range(KEY, offset, length) == data[offset : offset + length]
        target = bytearray(length)
        storage.get_into(KEY, offset, memoryview(target))
        assert target == data[offset : offset + length]


def test_a_range_beyond_the_end_is_damage(storage: Storage) -> None:
    storage.put(KEY, b"0123456789")
    for offset, length in ((0, 11), (10, 1), (9, 2), (500, 1)):
        with pytest.raises(ObjectDamaged):
            storage.get_range(KEY, offset, length)
        with pytest.raises(ObjectDamaged):
            storage.get_into(KEY, offset, memoryview(bytearray(length)))


def test_an_object_larger_than_the_limit_is_not_read(storage: Storage) -> None:
    storage.put(KEY, b"0123456789")
    assert storage.get(KEY, limit=10) == b"0123456789"
    with pytest.raises(ObjectDamaged):
        storage.get(KEY, limit=9)


def test_what_is_not_there_is_missing(storage: Storage) -> None:
    storage.put(KEY, b"x")
    for key in ("nothing", "clusters/main/packs/20261120T010003Z-full/00000002", "clusters/main", "a/b/c"):
        for request in (
            lambda key: storage.get(key),
            lambda key: storage.get_range(key, 0, 1),
            lambda key: storage.get_into(key, 0, memoryview(bytearray(1))),
            lambda key: storage.head(key),
        ):
            with pytest.raises(ObjectMissing):
                request(key)


def test_head_tells_size_and_a_time_near_now(storage: Storage) -> None:
    storage.put(KEY, b"12345")
    info = storage.head(KEY)
    assert (info.key, info.size) == (KEY, 5)
    assert abs(info.modified - datetime.now(UTC)) < timedelta(minutes=1)


def test_delete_removes_and_may_be_repeated(storage: Storage) -> None:
    storage.put(KEY, b"x")
    storage.delete(KEY)
    storage.delete(KEY)
    storage.delete("never/was")
    with pytest.raises(ObjectMissing):
        storage.head(KEY)
    assert list(storage.list("")) == []
    assert list(storage.list_dirs("")) == []
    storage.put(KEY, b"again")


def test_deleting_a_folder_of_objects_removes_none(storage: Storage) -> None:
    storage.put(KEY, b"x")
    storage.delete("clusters/main")
    assert storage.get(KEY) == b"x"


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_is_none_is_refused_by_every_request(storage: Storage, key: str) -> None:
    for request in (
        lambda: storage.put(key, b"x"),
        lambda: storage.get(key),
        lambda: storage.get_range(key, 0, 1),
        lambda: storage.head(key),
        lambda: storage.delete(key),
    ):
        with pytest.raises(StorageError, match="cannot be the key"):
            request()


def test_a_prefix_that_leaves_the_tree_is_refused(storage: Storage) -> None:
    for prefix in ("../", "a/../", "/", "a//", "#"):
        with pytest.raises(StorageError):
            list(storage.list(prefix))


PARTS = st.text("ab.-~/0Z", min_size=1, max_size=7).filter(is_key)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sets(PARTS, max_size=12), prefix=st.text("ab.-~/0Z", max_size=4))
def test_listings_have_the_order_of_the_keys_bytes(storage: Storage, keys: set[str], prefix: str) -> None:
    # A file system cannot hold both `a` and `a/b`; our layout never asks for it.
    keys = {key for key in keys if not any(other.startswith(key + "/") for other in keys)}
    folder, slash, _ = prefix.rpartition("/")
    for info in list(storage.list("")):
        storage.delete(info.key)
    for key in keys:
        storage.put(key, key.encode())
    if slash and not is_key(folder):
        return
    if not any(folder == key or folder.startswith(key + "/") for key in keys):
        assert [info.key for info in storage.list(prefix)] == sorted(key for key in keys if key.startswith(prefix))
        if not prefix or (slash and prefix.endswith("/")):
            below = {key[len(prefix) :] for key in keys if key.startswith(prefix)}
            assert list(storage.list_dirs(prefix)) == sorted(
                {rest.split("/")[0] for rest in below if "/" in rest}, key=lambda name: name + "/"
            )


def test_listing_nothing_is_empty(storage: Storage) -> None:
    assert list(storage.list("")) == []
    assert list(storage.list("clusters/")) == []
    assert list(storage.list_dirs("clusters/")) == []
    assert storage.foreign_names() == ()


def test_free_space_is_known_or_not(storage: Storage) -> None:
    free = storage.free_bytes()
    assert free is None or free > 0


def test_the_place_can_be_shown(storage: Storage) -> None:
    assert "://" in storage.place
