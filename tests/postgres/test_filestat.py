"""Birth times tell a file made again from the one before."""

import os
from pathlib import Path

import pytest

from pgrecall.clock import SystemClock
from pgrecall.postgres import filestat


def test_a_file_made_again_has_another_birth_time(tmp_path: Path) -> None:
    path = tmp_path / "16384"
    path.write_bytes(b"first")
    first = filestat.birth_ns(path)
    if first == 0:
        pytest.skip("this file system keeps no birth time")
    path.write_bytes(b"changed in place")
    os.utime(path, ns=(1, 1))
    assert filestat.birth_ns(path) == first
    SystemClock().sleep(0.02)  # file systems count in ticks of a few milliseconds
    path.unlink()
    path.write_bytes(b"second")
    assert filestat.birth_ns(path) > first


def test_a_descriptor_and_its_path_have_one_birth_time(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    try:
        assert filestat.birth_ns(fd) == filestat.birth_ns(str(path)) == filestat.birth_ns(path)
    finally:
        os.close(fd)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        filestat.birth_ns(tmp_path / "none")


def test_without_a_c_library_the_birth_time_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filestat, "_libc", lambda: None)
    monkeypatch.setattr("sys.platform", "linux")
    assert filestat.birth_ns(tmp_path) == 0
