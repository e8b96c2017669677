"""Small files are there whole or not at all, and their names are made durable with them."""

import os
import stat
from pathlib import Path

import pytest

from pgrecall.durable import create_whole, make_directories, replace_whole, sync_directory


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synced, in order."""
    seen: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        seen.append(Path(f"/proc/self/fd/{fd}").resolve().name)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


@pytest.mark.parametrize("write", [create_whole, replace_whole])
def test_a_file_and_then_its_directory_are_synced(tmp_path: Path, write: object, synced: list[str]) -> None:
    assert callable(write)
    write(tmp_path / "key", b"secret")
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert synced[0].startswith(".key.") and synced[1:] == [tmp_path.name]
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_what_is_there_is_not_created_again(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "key").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        create_whole(tmp_path / "key", b"new")
    assert (tmp_path / "key").read_bytes() == b"old"
    assert synced[-1] == tmp_path.name, "whoever is told so may rely on it"
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_whole(tmp_path / "key", b"new")
    assert (tmp_path / "key").read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"theirs")
    (tmp_path / "key.new").symlink_to(tmp_path / "other")
    replace_whole(tmp_path / "key", b"new", mode=0o640, temporary="key.new")
    assert (tmp_path / "other").read_bytes() == b"theirs"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o640


def test_each_new_directory_is_durable_in_the_one_above(tmp_path: Path, synced: list[str]) -> None:
    make_directories(tmp_path / "a" / "b", mode=0o700)
    assert synced == [tmp_path.name, "a"]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    make_directories(tmp_path / "a" / "b", mode=0o755)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    sync_directory(tmp_path)
    assert synced[-1] == tmp_path.name
