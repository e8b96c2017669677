"""What only a directory can suffer: links, pipes, full disks, lost answers, power loss between two steps."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pgrecall.errors import ObjectExists, ObjectMissing, StorageDenied, StorageError, StorageFull
from pgrecall.storage.posix import PosixStorage

KEY = "clusters/main/wal/1/00000001/000000010000000000000001"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repo"


@pytest.fixture
def storage(root: Path) -> PosixStorage:
    return PosixStorage(root)


def failing(call: Callable[..., object], number: int, *, after: bool = False) -> Callable[..., object]:
    def fail(*args: object, **options: object) -> object:
        if after:
            call(*args, **options)
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EROFS, StorageDenied),
        (errno.EACCES, StorageDenied),
        (errno.EIO, StorageError),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failed_write_leaves_nothing_and_has_a_name(
    monkeypatch: pytest.MonkeyPatch, storage: PosixStorage, root: Path, call: str, number: int, kind: type[StorageError]
) -> None:
    storage.put("clusters/main/wal/1/00000001/owner", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(getattr(os, call), number))
        with pytest.raises(kind, match="clusters/main/wal"):
            storage.put(KEY, b"data")
    with pytest.raises(ObjectMissing):
        storage.get(KEY)
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["owner"]
    storage.put(KEY, b"data")


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO, errno.ETIMEDOUT])
def test_a_link_whose_answer_was_lost_is_ours(
    monkeypatch: pytest.MonkeyPatch, storage: PosixStorage, root: Path, number: int
) -> None:
    monkeypatch.setattr(os, "link", failing(os.link, number, after=True))
    assert storage.put(KEY, b"data").size == 4
    assert storage.get(KEY) == b"data"
    assert (root / KEY).stat().st_nlink == 1


def test_a_link_that_failed_is_an_error(monkeypatch: pytest.MonkeyPatch, storage: PosixStorage) -> None:
    monkeypatch.setattr(os, "link", failing(os.link, errno.EIO))
    with pytest.raises(StorageError):
        storage.put(KEY, b"data")
    assert list(storage.list("")) == []


def test_a_file_system_without_links_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, storage: PosixStorage) -> None:
    monkeypatch.setattr(os, "link", failing(os.link, errno.EPERM))
    with pytest.raises(StorageDenied, match="hard links"):
        storage.put(KEY, b"data")


def test_file_then_folder_are_synced_before_a_put_returns(
    monkeypatch: pytest.MonkeyPatch, storage: PosixStorage
) -> None:
    storage.put("clusters/main/wal/1/00000001/owner", b"x")
    events: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(fd: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        real_fsync(fd)

    def link(*args: str, **options: int) -> None:
        events.append("link")
        real_link(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    storage.put(KEY, b"data")
    assert events == ["file", "link", "folder"]
    events.clear()
    with pytest.raises(ObjectExists):
        storage.put(KEY, b"data")
    # "It exists" must survive power loss, too: whoever hears it relies on it.
    assert events == ["file", "link", "folder"]


def test_a_new_folder_is_synced_into_its_parent(monkeypatch: pytest.MonkeyPatch, storage: PosixStorage) -> None:
    synced: list[tuple[int, int]] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        found = os.fstat(fd)
        synced.append((found.st_dev, found.st_ino))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.put("a/b/c", b"x")
    for folder in ("", "a", "a/b"):
        found = (Path(storage.place.removeprefix("file://")) / folder).stat()
        assert (found.st_dev, found.st_ino) in synced, folder


def test_leftovers_of_killed_writers_are_seen_by_nobody(storage: PosixStorage, root: Path) -> None:
    storage.put("a/b", b"x")
    (root / "a" / "#0123456789abcdef").write_bytes(b"half an obj")
    (root / "#0123456789abcdef").write_bytes(b"half an obj")
    assert [info.key for info in storage.list("")] == ["a/b"]
    assert storage.foreign_names() == ()
    storage.delete("a/b")
    assert list(storage.list_dirs("")) == []


def test_a_linked_folder_or_object_is_not_followed(storage: PosixStorage, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"not yours")
    storage.put("a/b", b"x")
    (root / "a" / "linked").symlink_to(outside)
    (root / "a" / "file").symlink_to(outside / "secret")
    for key in ("a/linked/secret", "a/file"):
        with pytest.raises(StorageError) as caught:
            storage.get(key)
        assert not isinstance(caught.value, ObjectMissing), "a link must not look like a proven absence"
        with pytest.raises(StorageError):
            storage.get_range(key, 0, 1)
        with pytest.raises(StorageError):
            storage.head(key)
    with pytest.raises(StorageError):
        storage.put("a/linked/new", b"x")
    with pytest.raises(StorageError):
        list(storage.list("a/"))
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


def test_the_root_itself_may_be_a_link(storage: PosixStorage, root: Path, tmp_path: Path) -> None:
    storage.put("a/b", b"x")
    (tmp_path / "alias").symlink_to(root)
    assert PosixStorage(tmp_path / "alias").get("a/b") == b"x"


def test_a_pipe_in_the_place_of_an_object_does_not_hold_us_up(storage: PosixStorage, root: Path) -> None:
    storage.put("a/b", b"x")
    os.mkfifo(root / "a" / "pipe")
    errors: list[Exception] = []

    def read() -> None:
        try:
            storage.get("a/pipe")
        except StorageError as error:
            errors.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert len(errors) == 1


def test_foreign_things_at_the_top_are_named_and_not_listed(storage: PosixStorage, root: Path) -> None:
    storage.put("a/b", b"x")
    (root / "My Documents").mkdir()
    (root / "latest").symlink_to("a")
    (root / "lost+found").mkdir(mode=0)
    assert [info.key for info in storage.list("")] == ["a/b"]
    assert list(storage.list_dirs("")) == ["a"]
    assert storage.foreign_names() == ("My Documents", "latest")


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(storage: PosixStorage, root: Path) -> None:
    storage.put("a/b", b"x")
    (root / "a").chmod(0)
    try:
        if os.access(root / "a", os.R_OK):
            pytest.skip("root reads everything")
        with pytest.raises(StorageDenied):
            list(storage.list(""))
        with pytest.raises(StorageDenied):
            storage.get("a/b")
    finally:
        (root / "a").chmod(0o755)


def test_a_directory_swapped_under_a_running_program_is_noticed(storage: PosixStorage, root: Path) -> None:
    storage.put("a/b", b"x")
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    with pytest.raises(StorageError, match="another directory"):
        storage.put("a/c", b"x")
    assert list(root.iterdir()) == []


def test_objects_are_not_readable_by_everybody(storage: PosixStorage, root: Path) -> None:
    storage.put("a/b", b"x")
    assert stat.S_IMODE((root / "a" / "b").stat().st_mode) & 0o027 == 0
    assert stat.S_IMODE((root / "a").stat().st_mode) & 0o027 == 0


def test_no_descriptor_is_leaked(storage: PosixStorage) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    storage.put("a/b", b"x")
    before = count()
    for _ in range(5):
        with pytest.raises(ObjectExists):
            storage.put("a/b", b"x")
        with pytest.raises(ObjectMissing):
            storage.get("a/c/d")
        storage.get("a/b")
        list(storage.list(""))
        storage.put("a/x", b"")
        storage.delete("a/x")
    assert count() == before
