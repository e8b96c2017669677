"""What `wal fetch` answers: found and whole, proven absent, or nothing; a server never promotes on a non-answer."""

import os
import shutil
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pgrecall.clock import ManualClock
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History, HistoryEntry
from pgrecall.domain.wal import WalSegment
from pgrecall.errors import PgrecallError, StorageError, WalGap, WalNameInvalid, WalWithheld
from pgrecall.postgres.recovery_settings import restore_command
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from pgrecall.repository.cluster import ClusterStore
from pgrecall.services.archive.fetch import Fetched, FetchRequest, fetch_wal
from pgrecall.services.archive.recovery_file import RECOVERY_FILE, RecoveryPath
from pgrecall.storage.posix import PosixStorage
from tests.conftest import NewServer, OpenServer
from tests.support.archive import SOURCE, Archive, archiving, cold_copy, fill, recover, wait_archived
from tests.support.faulty import FaultyStorage

SIZE = 1 << 20
SMALL = InitOptions(wal_segment_bytes=SIZE)
KEEP = {"archive_mode": "on", "archive_command": "false", "max_wal_size": "10GB", "wal_level": "replica"}

pytestmark = pytest.mark.newest


class Filled:
    """An archive with four segments, and a place to fetch to."""

    def __init__(self, server: ScratchServer, archive: Archive, target: Path) -> None:
        self.server, self.archive, self.target = server, archive, target
        self.names = fill(server, 4)
        for name in self.names:
            archive.push(server, name)

    def fetch(self, name: str, *, history: History | None = None, standby: bool = False, patience: float = 0,
              storage: FaultyStorage | None = None, clock: ManualClock | None = None) -> Fetched:  # fmt: skip
        system = self.archive.system_identifier
        path = RecoveryPath(system, history) if history else None
        store = self.archive.store
        if storage is not None:
            store = ClusterStore(storage, store.scope.repository, store.scope.cluster, "main", store.keys)
        return fetch_wal(
            lambda: store,
            FetchRequest(name, self.target, system, path, standby),
            patience=timedelta(seconds=patience),
            clock=clock or ManualClock("2026-11-20T12:00:00Z"),
        )

    def after(self, name: str) -> str:
        return WalSegment.parse(name, SIZE).next().name(SIZE)


@pytest.fixture
def filled(new_server: NewServer, tmp_path: Path) -> Filled:
    server = new_server(options=SMALL, settings=KEEP)
    (tmp_path / "target").mkdir()
    return Filled(server, Archive.of(server, tmp_path / "home"), tmp_path / "target" / "RECOVERYXLOG")


def test_a_stored_segment_is_brought_whole(filled: Filled) -> None:
    assert filled.fetch(filled.names[1]) is Fetched.FOUND
    assert filled.target.read_bytes() == (filled.server.pgdata / "pg_wal" / filled.names[1]).read_bytes()
    assert os.listdir(filled.target.parent) == ["RECOVERYXLOG"]  # noqa: PTH208


def test_absent_is_said_only_after_the_last_segment(filled: Filled) -> None:
    assert filled.fetch(filled.after(filled.names[-1])) is Fetched.ABSENT
    assert filled.fetch("00000002.history") is Fetched.ABSENT
    filled.archive.object_path(filled.names[2]).unlink()
    with pytest.raises(WalGap, match="the archive has a gap"):
        filled.fetch(filled.names[2])
    assert filled.fetch(filled.names[2], standby=True) is Fetched.ABSENT


def test_a_gap_that_is_filled_meanwhile_ends_the_wait(filled: Filled) -> None:
    missing = filled.names[2]
    filled.archive.object_path(missing).unlink()

    class Arriving(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.monotonic() > 100:
                filled.archive.push(filled.server, missing)

    assert filled.fetch(missing, patience=600, clock=Arriving("2026-11-20T12:00:00Z")) is Fetched.FOUND


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.unlink()
    path.write_bytes(data)


def damage_cut(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) - 100])


def damage_swap(path: Path) -> None:
    """Another segment's object in this one's place."""
    other = next(each for each in path.parent.iterdir() if each.name != path.name and len(each.name) == 24)
    path.unlink()
    shutil.copy(other, path)


def damage_empty(path: Path) -> None:
    path.unlink()
    path.touch()


DAMAGES = [damage_flip, damage_cut, damage_swap, damage_empty]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_object_is_no_answer_and_leaves_nothing_behind(
    filled: Filled, damage: Callable[[Path], None]
) -> None:
    damage(filled.archive.object_path(filled.names[1]))
    with pytest.raises(PgrecallError):
        filled.fetch(filled.names[1])
    assert list(filled.target.parent.iterdir()) == []


def test_a_storage_that_fails_is_asked_again_and_then_no_answer_is_given(filled: Filled) -> None:
    inner = filled.archive.storage
    clock = ManualClock("2026-11-20T12:00:00Z")
    for name in (filled.names[0], filled.after(filled.names[-1]), "00000002.history"):
        with pytest.raises(StorageError):
            filled.fetch(name, patience=600, clock=clock, storage=FaultyStorage(inner, rate=1.0, choices="E"))
    assert clock.monotonic() >= 3 * 600
    assert filled.fetch(filled.names[0], patience=600, storage=FaultyStorage(inner, script="EEECC")) is Fetched.FOUND
    assert list(filled.target.parent.iterdir()) == [filled.target]


def test_whatever_a_storage_does_the_answer_is_never_wrong(filled: Filled) -> None:
    answers = [(name, Fetched.FOUND) for name in filled.names] + [(filled.after(filled.names[-1]), Fetched.ABSENT)]
    for seed in range(100):
        name, expected = answers[seed % len(answers)]
        storage = FaultyStorage(filled.archive.storage, seed=seed, rate=0.4)
        filled.target.unlink(missing_ok=True)
        try:
            assert filled.fetch(name, storage=storage) is expected, storage.faults
        except PgrecallError:
            assert not filled.target.exists(), storage.faults
            continue
        if expected is Fetched.FOUND:
            assert filled.target.read_bytes() == (filled.server.pgdata / "pg_wal" / name).read_bytes()


def test_a_repository_that_is_not_there_proves_nothing(filled: Filled) -> None:
    shutil.move(filled.archive.home / "repository", filled.archive.home / "away")
    for name in (filled.names[0], filled.after(filled.names[-1]), "00000002.history"):
        with pytest.raises(StorageError):
            filled.fetch(name)
    (filled.archive.home / "repository").mkdir()  # the mount point
    empty = FaultyStorage(PosixStorage(filled.archive.home / "repository"))
    with pytest.raises(StorageError, match="is not at"):
        filled.fetch(filled.after(filled.names[-1]), storage=empty)


def test_past_the_switch_the_parent_s_segment_is_withheld(filled: Filled) -> None:
    switch = WalSegment.parse(filled.names[1], SIZE)
    child = History(2, (HistoryEntry(1, Lsn(switch.start(SIZE) + 0x1000)),))
    assert filled.fetch(filled.names[0], history=child) is Fetched.FOUND
    for name in (filled.names[1], filled.names[2], filled.after(filled.names[-1])):
        with pytest.raises(WalWithheld, match="is withheld: the way to timeline 2 takes 00000002"):
            filled.fetch(name, history=child, patience=600)


def test_the_path_of_an_earlier_recovery_hides_no_gap_on_a_timeline_that_followed(filled: Filled) -> None:
    asked, later = ("00000003" + name[8:] for name in filled.names[:2])
    assert filled.fetch(asked, history=History.root(1)) is Fetched.ABSENT
    stored = filled.archive.object_path(later)
    stored.parent.mkdir()
    stored.touch()
    with pytest.raises(WalGap, match=later):
        filled.fetch(asked, history=History.root(1))


def test_a_recovery_that_restore_did_not_set_up_follows_the_newest_history_it_was_given(filled: Filled) -> None:
    archive, pgdata = filled.archive, filled.server.pgdata
    switch = WalSegment.parse(filled.names[1], SIZE).start(SIZE) + 0x1000
    (pgdata / "pg_wal/00000002.history").write_text(f"1\t{switch}\tno recovery target specified\n")
    archive.push(filled.server, "00000002.history")

    def ask(name: str, *, standby: bool) -> Fetched:
        request = FetchRequest.of_server(name, pgdata / "pg_wal/RECOVERYXLOG", pgdata, standby=standby)
        return fetch_wal(lambda: archive.store, request, patience=timedelta(0), clock=ManualClock("2026-11-20T12:00Z"))

    for standby in (False, True):
        (pgdata / "pg_wal/pgrecall-served.json").unlink(missing_ok=True)
        assert ask(filled.names[2], standby=standby) is Fetched.FOUND
        assert ask("00000002.history", standby=standby) is Fetched.FOUND
        assert ask(filled.names[0], standby=standby) is Fetched.FOUND
        with pytest.raises(WalWithheld):
            ask(filled.names[2], standby=standby)


def test_a_partial_segment_is_stored_but_never_served(filled: Filled) -> None:
    wal = filled.server.pgdata / "pg_wal"
    partial = f"{filled.names[1]}.partial"
    (wal / partial).write_bytes((wal / filled.names[1]).read_bytes())
    filled.archive.push(filled.server, partial)
    assert filled.fetch(partial) is Fetched.ABSENT
    assert not filled.target.exists()


def test_names_that_are_none_are_refused_at_once(filled: Filled) -> None:
    for name in ("../../etc/passwd", "", "000000010000000000000001x"):
        with pytest.raises(WalNameInvalid):
            filled.fetch(name, patience=600)


@pytest.mark.parametrize(
    ("words", "status"),
    [("wal fetch", 126), ("wal fetch --what 000000010000000000000001 RECOVERYXLOG", 126), ("wal push", 2)],
)
def test_wrong_usage_is_not_taken_for_the_end_of_the_archive(filled: Filled, words: str, status: int) -> None:
    assert filled.archive.run(words, cwd=filled.server.pgdata).returncode == status


def test_the_program_s_exit_status_is_what_postgres_must_hear(filled: Filled) -> None:
    archive, pgdata = filled.archive, filled.server.pgdata
    archive.write_config(patience="0s")

    def status(name: str, *more: str) -> int:
        return archive.run(" ".join(["wal fetch", *more, name, "pg_wal/RECOVERYXLOG"]), cwd=pgdata).returncode

    assert status(filled.names[0]) == 0
    assert status(filled.after(filled.names[-1])) == 1
    damage_flip(archive.object_path(filled.names[1]))
    assert status(filled.names[1]) == 126
    assert status(filled.names[1], "--standby") == 1
    (archive.home / "keys/main.key").unlink()
    assert status(filled.names[0]) == 126
    archive.config.write_text("this is no TOML")
    assert status(filled.after(filled.names[-1])) == 126
    archive.config.unlink()
    assert status(filled.after(filled.names[-1])) == 126


def spoil_hole(archive: Archive, names: list[str]) -> None:
    archive.object_path(names[2]).unlink()


def spoil_flip(archive: Archive, names: list[str]) -> None:
    damage_flip(archive.object_path(names[2]))


def spoil_cut(archive: Archive, names: list[str]) -> None:
    damage_cut(archive.object_path(names[2]))


def spoil_denied(archive: Archive, names: list[str]) -> None:
    archive.object_path(names[2]).chmod(0)


def spoil_unmounted(archive: Archive, names: list[str]) -> None:
    shutil.move(archive.home / "repository", archive.home / "away")


def spoil_key(archive: Archive, names: list[str]) -> None:
    (archive.home / "keys/main.key").unlink()


def spoil_installation(archive: Archive, names: list[str]) -> None:
    """The program's files are gone: Python ends with 1, which PostgreSQL alone would take for the archive's end.

    An empty package stays, so that no other installation is found in its place.
    """
    shutil.rmtree(archive.home / "packages/pgrecall")
    (archive.home / "packages/pgrecall").mkdir()
    (archive.home / "packages/pgrecall/__init__.py").touch()


SPOILS = [
    spoil_hole, spoil_flip, spoil_cut, spoil_denied, spoil_unmounted, spoil_key, spoil_installation,
]  # fmt: skip


def test_a_server_whose_fetch_fails_ends_and_never_promotes(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    server = new_server(options=SMALL, start=False)
    archive = Archive.of(server, tmp_path / "home")
    archive.write_config(patience="1s")
    (archive.home / "packages").mkdir()
    shutil.copytree(SOURCE / "pgrecall", archive.home / "packages/pgrecall")
    program = ["env", f"PYTHONPATH={archive.home}/packages", f"PGRECALL_CONFIG={archive.config}", sys.executable]
    server.settings.update(archiving(archive.command("wal push %p")))
    server.start()
    cold_copy(server, tmp_path / "base")
    names = fill(server, 4)
    wait_archived(server, names[-1])
    server.stop()
    pristine = tmp_path / "pristine"
    shutil.copytree(archive.home, pristine)
    for spoil in [*SPOILS, None]:
        shutil.rmtree(archive.home)
        shutil.copytree(pristine, archive.home)
        if spoil is not None:
            spoil(archive, names)
        pgdata = tmp_path / (spoil.__name__ if spoil else "fine")
        shutil.copytree(tmp_path / "base", pgdata, symlinks=True)
        settings = recover(pgdata, restore_command([*program, "-m", "pgrecall"]))
        restored = open_server(pgdata, settings=settings, isolated=False)
        restored.start(wait=False)
        if spoil is None:
            restored.wait_promoted()
            assert restored.value("select count(*) from filled") == 400
            continue
        assert restored.wait_exit() != 0, spoil.__name__
        assert "FATAL:  could not restore file" in restored.log(), restored.log()[-2000:]
        assert not (pgdata / "pg_wal/00000002.history").exists(), spoil.__name__
        assert (pgdata / "recovery.signal").exists(), spoil.__name__


def test_a_child_s_switch_segment_that_is_missing_ends_recovery_instead_of_leading_it_astray(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    server = new_server(options=SMALL, start=False)
    archive = Archive.of(server, tmp_path / "home")
    archive.write_config(patience="1s")
    server.settings.update(archiving(archive.command("wal push %p")))
    server.start()
    point = cold_copy(server, tmp_path / "base")
    wait_archived(server, fill(server, 2)[-1])

    # A second server recovers to here and becomes timeline 2; the first goes on.
    branch_dir = tmp_path / "branch"
    shutil.copytree(tmp_path / "base", branch_dir, symlinks=True)
    settings = recover(branch_dir, archive.command("wal fetch %f %p", host="branch"), recovery_target_timeline="1")
    settings |= archiving(archive.command("wal push %p", host="branch"))
    branch = open_server(branch_dir, settings=settings, isolated=False).start()
    branch.wait_promoted()
    branch.execute("insert into filled values (7777, 'branch')")
    last = fill(branch, 2)[-1]
    wait_archived(branch, last)
    fill(server, 3)
    server.execute("insert into filled values (8888, 'abandoned')")
    wait_archived(server, fill(server, 1)[-1])

    inventory = archive.inventory()
    assert inventory.timelines() == [1, 2]
    history = inventory.history(2)
    assert history is not None
    switch = history.switch_point(1)
    assert switch is not None
    windows = inventory.windows([point])
    assert [each.history.timeline for each in windows] == [1, 2]
    assert all(len(each.windows) == 1 and not each.gaps for each in windows)

    child = archive.object_path(history.segment(switch // SIZE, SIZE).name(SIZE))
    segments = [each for each in child.parent.iterdir() if len(each.name) == 24]
    kept = {each: each.read_bytes() for each in segments}
    # Without the switch segment there is a hole; without any segment of the child there is only the parent's to refuse.
    for withheld, said in (([child], "has a gap here"), (segments, "is withheld"), ([], None)):
        for each in segments:
            each.unlink(missing_ok=True)
            if each not in withheld:
                each.write_bytes(kept[each])
        pgdata = tmp_path / f"without-{len(withheld)}"
        shutil.copytree(tmp_path / "base", pgdata, symlinks=True)
        (pgdata / RECOVERY_FILE).write_bytes(RecoveryPath(archive.system_identifier, history).encode())
        settings = recover(pgdata, archive.command("wal fetch %f %p"), recovery_target_timeline="2")
        restored = open_server(pgdata, settings=settings, isolated=False)
        restored.start(wait=False)
        if said is None:
            restored.wait_promoted()
            assert restored.value("select count(*) from filled where n = 7777") == 1
            assert restored.value("select count(*) from filled where n = 8888") == 0
            continue
        assert restored.wait_exit() != 0
        assert said in restored.log()
        assert not (pgdata / "pg_wal/00000003.history").exists()
