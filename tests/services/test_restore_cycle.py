"""A server is backed up, goes on, is restored to any moment beside itself: what comes back is exact."""

from datetime import timedelta
from pathlib import Path

import pytest

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.target import AtLsn, AtRestorePoint, AtTime, AtXid, Immediate, RecoveryTarget
from pgrecall.errors import TargetUnreachable
from pgrecall.postgres.recovery_settings import RecoveryAction
from pgrecall.postgres.scratch import InitOptions
from tests.conftest import NewServer, OpenServer
from tests.support.cluster import table_fingerprints
from tests.support.recovery import Protected


@pytest.fixture
def protected(new_server: NewServer, tmp_path: Path) -> Protected:
    return Protected.start(new_server, tmp_path / "home")


def rows_after(protected: Protected, destination: Path, open_server: OpenServer) -> list[int]:
    server = open_server(destination, isolated=False).start()
    server.wait_promoted()
    found = [row[0] for row in server.query("select n from t order by n")]
    assert server.value("show archive_mode") == "off"
    assert server.value("select pg_walfile_name(pg_current_wal_lsn())").startswith("00000002")
    server.close()
    return found


@pytest.mark.newest  # test_recovery_settings tries every target on every version
def test_every_target_brings_back_exactly_the_rows_before_it(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    server = protected.server
    server.execute("create table t (n int)", "insert into t values (1)")
    protected.backup()
    server.execute("insert into t values (2)")
    moment = protected.moment()
    server.execute("select pg_sleep(0.01)", "insert into t values (3)")
    protected.backup()
    server.execute("insert into t values (4)")
    lsn = Lsn.parse(server.value("select pg_current_wal_lsn()::text"))
    with server.connect(autocommit=False) as connection:
        connection.execute("insert into t values (5)")
        row = connection.execute("select pg_current_xact_id()::text").fetchone()
        assert row is not None
    server.execute("select pg_create_restore_point('before')", "insert into t values (6)")
    protected.switch()
    objects = protected.objects()
    targets: list[tuple[RecoveryTarget | None, bool, list[int]]] = [
        (None, True, [1, 2, 3, 4, 5, 6]),
        (AtTime(moment), True, [1, 2]),
        (AtLsn(lsn), False, [1, 2, 3, 4]),
        (AtXid(int(row[0])), False, [1, 2, 3, 4]),
        (AtXid(int(row[0])), True, [1, 2, 3, 4, 5]),
        (AtRestorePoint("before"), True, [1, 2, 3, 4, 5]),
        (Immediate(), True, [1, 2, 3]),
    ]
    for number, (target, inclusive, rows) in enumerate(targets):
        plan = protected.plan(tmp_path / f"copy{number}", target, inclusive=inclusive)
        assert plan.blockers == ()
        protected.restore(plan)
        assert rows_after(protected, tmp_path / f"copy{number}", open_server) == rows, target
    assert protected.objects() == objects, "a clone wrote into its original's repository"


def test_latest_brings_back_every_table_while_the_original_runs(
    new_server: NewServer, tmp_path: Path, open_server: OpenServer
) -> None:
    protected = Protected.start(new_server, tmp_path / "home", options=InitOptions())
    protected.server.run("pgbench", "-i", "-q", "-s", "1")
    protected.backup()
    protected.server.run("pgbench", "-n", "-t", "200")
    protected.backup()
    protected.server.run("pgbench", "-n", "-t", "100")
    protected.switch()
    wanted = table_fingerprints(protected.server)
    protected.restore(protected.plan(tmp_path / "copy"))
    server = open_server(tmp_path / "copy", isolated=False).start()
    server.wait_promoted()
    assert table_fingerprints(server) == wanted


@pytest.mark.newest
def test_a_target_that_cannot_be_reached_is_refused_with_the_moments_that_can(
    protected: Protected, tmp_path: Path
) -> None:
    protected.server.execute("create table t (n int)")
    early = protected.moment()
    result = protected.backup()
    protected.server.execute("insert into t values (1)")
    protected.switch()
    with pytest.raises(TargetUnreachable, match=str(result.label)) as before:
        protected.plan(tmp_path / "copy", AtTime(early))
    assert f"--from {result.label} --at immediate" in (before.value.hint or "")
    with pytest.raises(TargetUnreachable, match="no commit after it is stored"):
        protected.plan(tmp_path / "copy", AtTime(protected.moment() + timedelta(hours=1)))
    with pytest.raises(TargetUnreachable, match="no restore point 'gone'"):
        protected.plan(tmp_path / "copy", AtRestorePoint("gone"))
    assert not (tmp_path / "copy").exists()


@pytest.mark.newest
def test_a_hole_in_the_wal_is_named_and_an_older_backup_does_not_hide_it(protected: Protected, tmp_path: Path) -> None:
    protected.server.execute("create table t (n int)")
    protected.backup()
    moment = protected.moment()
    protected.server.execute("insert into t values (1)")
    lost = protected.switch()
    protected.server.execute("insert into t values (2)")
    protected.switch()
    protected.archive.object_path(lost).unlink()
    with pytest.raises(TargetUnreachable, match=lost):
        protected.plan(tmp_path / "copy", AtTime(moment + timedelta(seconds=30)))


@pytest.mark.newest
def test_the_server_pauses_or_shuts_down_at_the_target_when_asked(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    protected.server.execute("create table t (n int)", "insert into t values (1)")
    protected.backup()
    moment = protected.moment()
    protected.server.execute("insert into t values (2)")
    protected.switch()
    protected.restore(protected.plan(tmp_path / "pause", AtTime(moment), action=RecoveryAction.PAUSE))
    paused = open_server(tmp_path / "pause", isolated=False, settings={"hot_standby": "on"}).start()
    assert paused.value("select pg_is_in_recovery()") is True
    assert paused.query("select n from t") == [(1,)]
    protected.restore(protected.plan(tmp_path / "stop", AtTime(moment), action=RecoveryAction.SHUTDOWN))
    stopped = open_server(tmp_path / "stop", isolated=False).start(wait=False)
    stopped.wait_exit()
    assert "shutdown at recovery target" in stopped.log()


@pytest.mark.newest
def test_a_successor_archives_on_a_new_timeline_and_can_be_restored_in_turn(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    protected.server.execute("create table t (n int)", "insert into t values (1)")
    protected.backup()
    protected.switch()
    # archive settings of the tests stand on the command line; a user's stand in postgresql.conf
    protected.server.stop()
    archived_as_in_files(protected.server.pgdata / "postgresql.conf", protected.server.settings)
    protected.server.start()
    protected.backup()
    protected.switch()
    protected.server.stop()
    protected.restore(protected.plan(tmp_path / "successor", become="main"))
    successor = open_server(tmp_path / "successor", isolated=False, settings={"wal_level": "replica"}).start()
    successor.wait_promoted()
    assert successor.value("show archive_mode") == "on"
    successor.execute("insert into t values (2)")
    again = Protected(successor, protected.archive)
    again.switch()
    again.restore(again.plan(tmp_path / "again"))
    third = open_server(tmp_path / "again", isolated=False).start()
    third.wait_promoted()
    assert third.query("select n from t order by n") == [(1,), (2,)]
    assert third.value("select pg_walfile_name(pg_current_wal_lsn())").startswith("00000003")


def archived_as_in_files(conf: Path, settings: dict[str, str]) -> None:
    with conf.open("a") as file:
        for name in ("archive_mode", "archive_command"):
            value = settings.pop(name).replace("'", "''")
            file.write(f"{name} = '{value}'\n")


@pytest.mark.newest
def test_a_backup_that_brings_its_own_wal_is_recovered_to_its_end_on_a_new_timeline(
    new_server: NewServer, tmp_path: Path, open_server: OpenServer
) -> None:
    alone = Protected.start(new_server, tmp_path / "home", archives=False)
    alone.server.execute("create table t (n int)", "insert into t values (1)")
    assert alone.backup().self_contained
    moment = alone.moment()
    alone.server.execute("insert into t values (2)")
    with pytest.raises(TargetUnreachable):
        alone.plan(tmp_path / "copy", AtTime(moment))
    for name, target in (("copy", None), ("other", Immediate())):
        alone.restore(alone.plan(tmp_path / name, target))
        assert rows_after(alone, tmp_path / name, open_server) == [1]
