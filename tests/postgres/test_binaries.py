"""Which PostgreSQL is found for what was asked."""

from pathlib import Path

import pytest

from pgrecall.errors import BinariesNotFound, ValueInvalid
from pgrecall.postgres.binaries import Binaries, available_binaries, find_binaries, wheel_bindirs


def test_every_installation_found_says_its_own_version(binaries: Binaries) -> None:
    assert binaries.config("version").startswith(f"PostgreSQL {binaries.version.split()[0]}")
    assert str(binaries.major) == binaries.version.split(".", maxsplit=1)[0]


def test_installations_come_newest_first_and_each_once() -> None:
    found = list(available_binaries())
    assert [each.major for each in found] == sorted((each.major for each in found), reverse=True)
    assert len({each.bindir.resolve() for each in found}) == len(found)


def test_the_wheel_can_be_asked_for_by_version() -> None:
    assert find_binaries("wheel:16").major == 16
    assert find_binaries("wheel").major == 18
    assert find_binaries("wheel:18").bindir in wheel_bindirs()


def test_a_directory_is_taken_as_it_is(binaries: Binaries) -> None:
    given = find_binaries(binaries.bindir)
    assert (given.bindir, given.version, given.origin) == (binaries.bindir, binaries.version, "given")


def test_a_directory_without_server_programs_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "postgres").touch()
    with pytest.raises(BinariesNotFound, match="initdb, pg_ctl missing"):
        find_binaries(tmp_path)


def test_programs_that_do_not_run_here_are_refused(tmp_path: Path) -> None:
    for name in ("postgres", "initdb", "pg_ctl"):
        (tmp_path / name).write_bytes(b"\x7fELF of another machine")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(BinariesNotFound, match="does not run on this machine"):
        find_binaries(tmp_path)


def test_a_version_that_is_not_here_is_refused_with_what_is() -> None:
    with pytest.raises(BinariesNotFound, match=r"PostgreSQL 9 .*wheel"):
        find_binaries(9)


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(ValueInvalid, match="neither a major version nor a directory"):
        find_binaries("latest")


@pytest.mark.newest
def test_a_program_that_is_missing_is_named(binaries: Binaries) -> None:
    with pytest.raises(BinariesNotFound, match="has no program pg_wash"):
        binaries.program("pg_wash")
