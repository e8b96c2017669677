"""Which storage a URL means, the bill, and the storage that fails on purpose."""

from pathlib import Path

import pytest

from pgrecall.clock import ManualClock
from pgrecall.errors import ConfigInvalid, ObjectDamaged, StorageError, StorageFull
from pgrecall.storage.counted import CountedStorage
from pgrecall.storage.open import open_storage
from pgrecall.storage.posix import PosixStorage
from tests.support.faulty import FaultyStorage


@pytest.mark.parametrize("shape", ["{}", "file://{}", "file://localhost{}"])
def test_a_path_and_a_file_url_are_the_same_place(tmp_path: Path, shape: str) -> None:
    open_storage(shape.format(tmp_path / "repo")).put("a/b", b"x")
    assert (tmp_path / "repo" / "a" / "b").read_bytes() == b"x"


def test_the_place_of_a_storage_opens_it_again(tmp_path: Path) -> None:
    storage = PosixStorage(tmp_path / "with space & ü")
    storage.put("a/b", b"x")
    assert open_storage(storage.place).get("a/b") == b"x"


@pytest.mark.parametrize(
    "url", ["s3://bucket/x", "sftp://host/x", "backup", "./backup", "file://host/x", "file:///x?y"]
)
def test_what_is_no_local_directory_is_refused_with_what_would_be_one(url: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        open_storage(url)
    assert "file:///absolute/path" in (caught.value.hint or "")


def test_the_bill_counts_requests_and_bytes(tmp_path: Path) -> None:
    storage = CountedStorage(PosixStorage(tmp_path))
    storage.put("a/b", b"12345")
    storage.get("a/b")
    storage.get_range("a/b", 1, 2)
    storage.get_into("a/b", 0, memoryview(bytearray(3)))
    list(storage.list(""))
    with pytest.raises(StorageError):
        storage.put("a/b", b"12345")
    assert storage.requests == {"put": 2, "get": 3, "list": 1}
    assert (storage.bytes_written, storage.bytes_read) == (5, 10)


def test_a_script_decides_which_request_fails_and_how(tmp_path: Path) -> None:
    clock = ManualClock("2026-11-20T15:00:00Z")
    storage = FaultyStorage(PosixStorage(tmp_path), script=".ELFCD", clock=clock)
    storage.put("a/1", b"x")
    with pytest.raises(StorageError):
        storage.put("a/2", b"x")
    with pytest.raises(StorageError):
        storage.put("a/3", b"x")
    with pytest.raises(StorageFull):
        storage.put("a/4", b"x")
    with pytest.raises(ObjectDamaged):
        storage.get_range("a/1", 0, 1)
    storage.get("a/1")
    assert clock.monotonic() == 1
    assert [info.key for info in storage.list("")] == ["a/1", "a/3"]


def test_the_same_seed_draws_the_same_faults(tmp_path: Path) -> None:
    def suffered(folder: str, seed: int) -> list[tuple[str, str, str]]:
        storage = FaultyStorage(PosixStorage(tmp_path / folder), seed=seed, rate=0.5)
        for number in range(30):
            try:
                storage.put(f"a/{number}", b"x")
            except StorageError:
                continue
        return storage.faults

    assert suffered("one", 7) == suffered("two", 7) != suffered("three", 8)
