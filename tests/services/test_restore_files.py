"""Files come back byte for byte, in parallel, with holes, below our own directory only, with modes that we choose."""

import errno
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgrecall.errors import DestinationFailed, DestinationFull, ObjectDamaged
from pgrecall.observe.reporter import Silent
from pgrecall.repository.extents import Extents
from pgrecall.repository.manifest import Manifest, Tablespace
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.services.crew import in_parallel
from pgrecall.services.restore.files import NEVER_RESTORED, data_spans, restore_files
from pgrecall.services.restore.prepare import check_tablespaces, make_directories
from pgrecall.services.restore.problems import writing
from pgrecall.services.restore.tablespaces import PlacedTablespace
from pgrecall.services.restore.tree import RestoredTree, directory_mode, file_mode
from tests.support.map_samples import chunk
from tests.support.tiny_engine import TinyEngine, label, make_store

MIB = 1 << 20
NOISE = random.Random(7)
TREE = {
    b"PG_VERSION": b"16\n",
    b"base/1/empty": b"",
    b"base/1/one": b"x",
    b"base/1/zeros": bytes(600_000),
    b"base/1/ends in zeros": NOISE.randbytes(200_000) + bytes(500_000),
    b"base/1/\xff name": b"bytes",
    b"base/5/large": NOISE.randbytes(3 * MIB) + bytes(30 * MIB) + NOISE.randbytes(5),
    b"base/5/large zeros": bytes(17 * MIB),
    b"global/pg_control": b"the last of all",
    b"pg_wal/000000010000000000000001": b"poison",
    b"pg_xact/0000": bytes(8192),
} | {b"base/1/%d" % number: NOISE.randbytes(number * 300) for number in range(1, 700)}


def back_up(tree: dict[bytes, bytes]) -> ManifestReader:
    store = make_store()
    TinyEngine(store, target=4 * MIB).back_up(label(1), tree)
    return ManifestReader.open(store, label(1))


def restore(reader: ManifestReader, root: Path, *, jobs: int = 2, placed: tuple[PlacedTablespace, ...] = ()) -> None:
    root.mkdir(exist_ok=True)
    tree = RestoredTree(root, {each.link: each.place for each in placed})
    make_directories(reader.manifest, tree, placed)
    restore_files(reader, tree, jobs=jobs, reporter=Silent())


def contents(root: Path) -> dict[bytes, bytes]:
    return {os.fsencode(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_file_comes_back_byte_for_byte_but_those_that_would_be_poison(tmp_path: Path, jobs: int) -> None:
    restore(back_up(TREE), tmp_path / "copy", jobs=jobs)
    wanted = {
        path: data for path, data in TREE.items() if path not in NEVER_RESTORED and not path.startswith(b"pg_wal/")
    }
    assert contents(tmp_path / "copy") == wanted
    assert (tmp_path / "copy/pg_wal/archive_status").is_dir()


def test_zeros_are_holes(tmp_path: Path) -> None:
    restore(back_up(TREE), tmp_path / "copy")
    for name, most in (("base/5/large", 4 * MIB), ("base/5/large zeros", 65536), ("base/1/zeros", 65536)):
        assert (tmp_path / "copy" / name).stat().st_blocks * 512 <= most


def test_signals_pid_files_and_settings_of_earlier_restores_are_never_restored(tmp_path: Path) -> None:
    restore(back_up(dict.fromkeys(NEVER_RESTORED, b"poison")), tmp_path / "copy")
    assert contents(tmp_path / "copy") == {}
    worst = {b"standby.signal", b"recovery.signal", b"tablespace_map", b"backup_label.old", b"postmaster.pid"}
    assert worst <= NEVER_RESTORED


def test_modes_are_one_of_four_whatever_a_backup_says() -> None:
    assert {file_mode(mode) for mode in range(0o10000)} == {0o600, 0o640}
    assert {directory_mode(mode) for mode in range(0o10000)} == {0o700, 0o750}
    assert [file_mode(0o640), directory_mode(0o750), directory_mode(0o740)] == [0o640, 0o750, 0o700]


def test_what_was_put_in_the_way_is_neither_followed_nor_written_over(tmp_path: Path) -> None:
    reader = back_up({b"base/1/file": b"new", b"PG_VERSION": b"16\n"})
    target = tmp_path / "target"
    target.mkdir()
    (target / "victim").write_bytes(b"precious")
    root, tree = tmp_path / "copy", RestoredTree(tmp_path / "copy")
    root.mkdir()
    make_directories(reader.manifest, tree, ())
    (root / "PG_VERSION").symlink_to(target / "victim")
    with pytest.raises(ObjectDamaged, match="PG_VERSION twice"):
        restore_files(reader, tree, jobs=1, reporter=Silent())
    (root / "PG_VERSION").unlink()
    (root / "base" / "1").rmdir()
    (root / "base" / "1").symlink_to(target)
    with pytest.raises(DestinationFailed):
        restore_files(reader, tree, jobs=1, reporter=Silent())
    with pytest.raises(OSError) as refused, tree.directory(b"base/1"):
        pass
    assert refused.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert contents(target) == {b"victim": b"precious"}


def test_a_tablespace_lands_in_its_place_behind_a_link_of_ours(tmp_path: Path) -> None:
    reader = back_up({b"PG_VERSION": b"16\n", b"pg_tblspc/16400/PG_16_202307071/5/1": b"rows"})
    placed = PlacedTablespace(16400, Path("/original"), tmp_path / "space")
    restore(reader, tmp_path / "copy", placed=(placed,))
    assert (tmp_path / "copy/pg_tblspc/16400").readlink() == tmp_path / "space"
    assert (tmp_path / "space/PG_16_202307071/5/1").read_bytes() == b"rows"


def test_a_directory_of_no_tablespace_below_pg_tblspc_is_damage() -> None:
    reader = back_up({b"PG_VERSION": b"16\n", b"pg_tblspc/1/PG_16_202307071/5/1": b"rows"})
    with pytest.raises(ObjectDamaged, match="no tablespace"):
        check_tablespaces(reader.manifest)
    fields = {name: getattr(reader.manifest, name) for name in reader.manifest.__dataclass_fields__}
    check_tablespaces(Manifest(**{**fields, "tablespaces": (Tablespace(1, b"/space", False),)}))


@pytest.mark.parametrize("path", [b"pg_tblspc/1/authorized_keys", b"pg_tblspc/1/.ssh/authorized_keys"])
def test_a_place_outside_the_destination_gets_nothing_but_the_version_directory(path: bytes) -> None:
    reader = back_up({b"PG_VERSION": b"16\n", b"pg_tblspc/1/PG_16_202307071/5/1": b"rows", path: b"ssh-ed25519"})
    fields = {name: getattr(reader.manifest, name) for name in reader.manifest.__dataclass_fields__}
    with pytest.raises(ObjectDamaged, match="not PostgreSQL's"):
        check_tablespaces(Manifest(**{**fields, "tablespaces": (Tablespace(1, b"/space", False),)}))


def test_data_is_written_in_joined_spans_and_zeros_not_at_all() -> None:
    extents = Extents.of([(0, 100, chunk(0), 0), (100, 50, chunk(1), 0), (150, 50, None, 0), (200, 10, chunk(2), 5)])
    assert data_spans(extents) == [(0, 150), (200, 210)]
    assert data_spans(Extents.zeros(100)) == []
    assert data_spans(Extents.empty()) == []


def test_a_full_disk_and_other_refusals_have_their_own_errors() -> None:
    for number, kind in (
        (errno.ENOSPC, DestinationFull),
        (errno.EDQUOT, DestinationFull),
        (errno.EIO, DestinationFailed),
    ):
        with pytest.raises(kind, match="/srv/copy"), writing("/srv/copy"):
            raise OSError(number, os.strerror(number))


def test_all_units_are_worked_on_once() -> None:
    done: list[int] = []

    def work(units: Iterator[int]) -> None:
        done.extend(units)

    in_parallel(iter(range(1000)), work, 4)
    assert sorted(done) == list(range(1000))


@pytest.mark.parametrize("fails", ["worker", "producer"])
def test_the_first_error_stops_everybody_and_leaves_no_thread(fails: str) -> None:
    before = threading.active_count()

    def units() -> Iterator[int]:
        for number in range(10**9):
            if fails == "producer" and number == 50:
                raise KeyError("producer")
            yield number

    def work(shared: Iterator[int]) -> None:
        for number in shared:
            if fails == "worker" and number == 50:
                raise KeyError("worker")

    with pytest.raises(KeyError, match=fails):
        in_parallel(units(), work, 3)
    assert threading.active_count() == before
