"""Whatever ends a backup: one clear error, nothing half-done visible, and the next run works without repair."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pgrecall.clock import SystemClock
from pgrecall.errors import (
    FileUnreadable,
    SessionLost,
    StorageError,
    StorageFull,
    WalForked,
    WalMissing,
    WalNotArchived,
    WrongCluster,
)
from pgrecall.repository.catalog import BackupState
from pgrecall.repository.cluster import ClusterStore
from pgrecall.storage.base import Storage
from pgrecall.storage.counted import CountedStorage
from tests.conftest import NewServer, OpenServer
from tests.support.archive import archiving
from tests.support.faulty import FaultyStorage
from tests.support.whole_cycle import SMALL_WAL, Cycle, Interfering

pytestmark = pytest.mark.newest


@pytest.fixture
def cycle(new_server: NewServer, open_server: OpenServer, tmp_path: Path) -> Iterator[Cycle]:
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        cycle.server.execute("create table t as select n, repeat('x', 500) from generate_series(1, 5000) n")
        yield cycle


def through(cycle: Cycle, storage: Storage) -> ClusterStore:
    scope = cycle.store.scope
    return ClusterStore(storage, scope.repository, scope.cluster, cycle.store.name, scope.keys)


def assert_next_backup_is_whole(cycle: Cycle) -> None:
    result = cycle.backup()
    assert result.state == "complete"
    assert cycle.differing_files(result.label) == []


def test_a_server_that_stops_in_mid_backup_ends_the_run(cycle: Cycle) -> None:
    interfering = Interfering("copy files", lambda: cycle.server.stop("immediate"))
    with pytest.raises(SessionLost):
        cycle.backup(reporter=interfering)
    assert set(cycle.states().values()) == {BackupState.ABORTED}
    cycle.server.start()
    assert_next_backup_is_whole(cycle)


@pytest.mark.parametrize("stage", ["list files", "copy files"])
def test_a_session_that_is_terminated_in_mid_backup_ends_the_run(cycle: Cycle, stage: str) -> None:
    def terminate() -> None:
        cycle.server.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = 'pgrecall'"
        )

    with pytest.raises(SessionLost):
        cycle.backup(reporter=Interfering(stage, terminate))
    assert set(cycle.states().values()) == {BackupState.ABORTED}
    assert_next_backup_is_whole(cycle)


@pytest.mark.parametrize("fault", ["F", "E", "L"], ids=["full", "refused", "reply-lost"])
def test_storage_that_fails_at_any_request_leaves_no_backup_that_is_half_there(cycle: Cycle, fault: str) -> None:
    counted = CountedStorage(cycle.store.storage)
    cycle.backup(cycle.request(independent=True), store=through(cycle, counted))
    requests = sum(counted.requests.values())
    for request in [*random.Random(fault).sample(range(requests), 4), requests - 1]:
        storage = FaultyStorage(cycle.store.storage, script="." * request + fault)
        before = cycle.states()
        try:
            result = cycle.backup(cycle.request(independent=True), store=through(cycle, storage))
        except StorageError:
            assert storage.faults
        else:
            assert result.state == "complete", storage.faults
            assert cycle.differing_files(result.label) == []
        (made,) = [state for label, state in cycle.states().items() if label not in before] or [BackupState.ABORTED]
        assert made is not BackupState.UNREADABLE
    assert_next_backup_is_whole(cycle)


def test_a_full_disk_is_called_so(cycle: Cycle) -> None:
    full = FaultyStorage(cycle.store.storage, rate=1, choices="F")
    with pytest.raises(StorageFull, match="No space left"):
        cycle.backup(store=through(cycle, full))
    assert cycle.states() == {}
    assert_next_backup_is_whole(cycle)


def test_a_file_that_cannot_be_read_is_named(cycle: Cycle) -> None:
    path = cycle.server.pgdata / cycle.server.value("select pg_relation_filepath('t')")
    cycle.server.execute("checkpoint")  # which could not write it either
    path.chmod(0)
    with pytest.raises(FileUnreadable, match=path.name) as caught:
        cycle.backup()
    path.chmod(0o600)
    assert caught.value.exit_status == 7
    assert set(cycle.states().values()) == {BackupState.ABORTED}
    assert_next_backup_is_whole(cycle)


def test_a_backup_whose_wal_does_not_come_is_stored_and_finished_by_the_next(cycle: Cycle) -> None:
    with (
        cycle.archiver.refusing(),
        pytest.raises(WalNotArchived, match="after 1 s the server has not archived") as caught,
    ):
        cycle.backup(cycle.request(wait_seconds=1))
    assert caught.value.hint is not None and "pgrecall check" in caught.value.hint
    assert list(cycle.states().values()) == [BackupState.STORED]
    cycle.switch()
    result = cycle.backup()
    assert list(cycle.states().values()) == [BackupState.COMPLETE] * 2
    late = next(iter(cycle.states()))
    assert result.parent == late
    assert cycle.differing_files(result.label) == []
    cycle.assert_restores(late)


def test_a_backup_is_not_finished_before_all_its_wal_has_come(cycle: Cycle) -> None:
    with cycle.archiver.refusing():
        for _ in range(2):
            with pytest.raises(WalNotArchived):
                cycle.backup(cycle.request(wait_seconds=0))
        assert list(cycle.states().values()) == [BackupState.STORED] * 2


def test_another_cluster_is_refused_before_anything_is_written(cycle: Cycle, new_server: NewServer) -> None:
    cycle.server = new_server("other", own_identity=True)
    with pytest.raises(WrongCluster, match="this server is system"):
        cycle.backup()
    assert cycle.states() == {}
    assert not (cycle.archive.home / "repository/clusters/main/packs").exists()


def test_a_copy_that_archives_as_the_same_cluster_gets_no_backup_with_the_originals_wal(
    cycle: Cycle, new_server: NewServer
) -> None:
    """Its own segments are kept apart; those under its names are the original's, and there all the same."""
    for _ in range(12):
        cycle.server.execute("insert into t select n, 'z' from generate_series(1, 100) n")
        cycle.switch()
    twin = new_server("twin", options=SMALL_WAL, start=False)
    twin.settings.update(archiving(cycle.archiver.command))  # the files it names are archived: so it believes
    twin.start()
    copy = replace(cycle, server=twin)
    with pytest.raises(WalForked, match="is not this server's"):
        copy.backup()
    assert list(cycle.states().values()) == [BackupState.ABORTED]
    assert_next_backup_is_whole(cycle)


class ClockSetBack(SystemClock):
    def now(self) -> datetime:
        return super().now() - timedelta(days=1)


def test_a_clock_set_back_does_not_put_a_new_backup_before_an_older_one(cycle: Cycle) -> None:
    first = cycle.backup()
    second = cycle.backup(clock=ClockSetBack())
    third = cycle.backup()
    assert first.label < second.label < third.label
    assert (second.parent, third.parent) == (first.label, second.label)
    assert list(cycle.states()) == [first.label, second.label, third.label]


def test_backups_at_the_same_time_do_not_disturb_each_other(cycle: Cycle) -> None:
    inner: list[str] = []
    outer = cycle.backup(reporter=Interfering("copy files", lambda: inner.append(cycle.backup().state)))
    assert (outer.state, inner) == ("complete", ["complete"])
    assert list(cycle.states().values()) == [BackupState.COMPLETE] * 2
    for label in cycle.states():
        assert cycle.differing_files(label) == []


def test_a_run_that_another_one_finished_while_it_waited_is_a_success(cycle: Cycle) -> None:
    inner: list[str] = []

    def let_the_wal_come_and_back_up() -> None:
        refusing.close()
        cycle.switch()
        inner.append(cycle.backup().state)

    with contextlib.ExitStack() as refusing:
        refusing.enter_context(cycle.archiver.refusing())
        outer = cycle.backup(reporter=Interfering("wait for WAL", let_the_wal_come_and_back_up))
    assert (outer.state, inner) == ("complete", ["complete"])
    assert list(cycle.states().values()) == [BackupState.COMPLETE] * 2


def test_wal_that_the_server_no_longer_keeps_fails_the_run_by_name(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    settings = {"max_slot_wal_keep_size": "8MB", "max_wal_size": "2MB", "min_wal_size": "2MB", "wal_keep_size": "0"}
    with Cycle.running(new_server, open_server, tmp_path, archives=False, settings=settings) as cycle:
        cycle.server.execute("create table t (note text)")

        def write_much() -> None:
            for _ in range(5):
                cycle.server.execute(
                    "insert into t select repeat('x', 1000) from generate_series(1, 4000)", "checkpoint"
                )

        with pytest.raises(WalMissing, match="max_slot_wal_keep_size is 8MB"):
            cycle.backup(reporter=Interfering("copy files", write_much))
        assert list(cycle.states().values()) == [BackupState.ABORTED]
        assert cycle.backup().self_contained
        assert cycle.states()[next(reversed(cycle.states()))] is BackupState.COMPLETE


def test_a_manifest_that_cannot_be_read_any_more_is_passed_over(cycle: Cycle) -> None:
    first = cycle.backup()
    cycle.server.execute("insert into t select n, 'y' from generate_series(1, 100) n", "checkpoint")
    second = cycle.backup()
    clusters = cycle.archive.home / "repository/clusters/main"
    (clusters / f"backups/{second.label}/manifest").unlink()
    third = cycle.backup()
    assert third.parent == second.label, "its second copy is in a pack"
    for path in (clusters / f"packs/{second.label}").iterdir():
        path.unlink()
    (clusters / f"backups/{third.label}/manifest").unlink()
    for path in (clusters / f"packs/{third.label}").iterdir():
        path.unlink()
    fourth = cycle.backup()
    assert fourth.parent == first.label
    assert any(str(second.label) in warning for warning in fourth.warnings)
    assert cycle.differing_files(fourth.label) == []


def test_nothing_new_rests_on_packs_that_are_gone(cycle: Cycle) -> None:
    first = cycle.backup()
    (cycle.archive.home / f"repository/clusters/main/packs/{first.label}/00000001").unlink()
    cycle.server.execute("insert into t select n, 'y' from generate_series(1, 100) n", "checkpoint")
    second = cycle.backup()
    assert any("1 packs that" in warning for warning in second.warnings)
    assert cycle.differing_files(second.label) == []
    for path in sorted((cycle.archive.home / f"repository/clusters/main/packs/{second.label}").iterdir()):
        path.unlink()  # with the maps
    third = cycle.backup()
    assert any("map cannot be read" in warning for warning in third.warnings)
    assert cycle.differing_files(third.label) == []
