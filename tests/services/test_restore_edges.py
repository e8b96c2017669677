"""Where a recovery must end exactly, and where it cannot: holes, branches just begun, points inside a backup."""

from pathlib import Path

import pytest

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.target import AtRestorePoint, AtTime, EndOfArchive, Immediate
from pgrecall.domain.wal import WalSegment
from pgrecall.errors import TargetUnreachable
from pgrecall.postgres.connection import connect
from pgrecall.postgres.scratch import ScratchServer
from pgrecall.repository.envelope import ObjectType
from pgrecall.repository.layout import wal_name
from pgrecall.services.backup.request import BackupRequest
from pgrecall.services.backup.run import run_backup
from tests.conftest import NewServer, OpenServer
from tests.support.archive import wait_archived
from tests.support.recovery import SMALL_WAL, Protected
from tests.support.whole_cycle import Interfering

pytestmark = pytest.mark.newest


@pytest.fixture
def protected(new_server: NewServer, tmp_path: Path) -> Protected:
    made = Protected.start(new_server, tmp_path / "home", settings={"track_commit_timestamp": "on"})
    made.server.execute("create table t (n int)", "insert into t values (1)")
    return made


def rows(copy: Path, open_server: OpenServer) -> list[int]:
    server = open_server(copy, isolated=False).start()
    server.wait_promoted()
    found = [row[0] for row in server.query("select n from t order by n")]
    server.close()
    return found


def end_segment(server: ScratchServer) -> str:
    """As Protected.switch, but the row before it stays the last commit."""
    name = str(server.value("select pg_walfile_name(pg_switch_wal())"))
    wait_archived(server, name)
    return name


def test_the_time_of_the_last_commit_is_the_last_row_whatever_arrives_before_the_server_starts(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    server = protected.server
    protected.backup()
    server.execute("insert into t values (2)")
    last = server.value("select pg_xact_commit_timestamp(xmin) from t where n = 2")
    end_segment(server)
    protected.restore(protected.plan(tmp_path / "copy", AtTime(last)))
    server.execute("insert into t values (3)")
    end_segment(server)
    assert rows(tmp_path / "copy", open_server) == [1, 2]


def test_a_moment_before_a_hole_is_reached_although_a_server_that_reads_ahead_would_meet_it(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    server = protected.server
    protected.backup()
    server.execute("insert into t values (2)")
    moment = protected.moment()
    server.execute("select pg_sleep(0.01)", "insert into t values (3)")
    protected.switch()
    lost = protected.switch()
    protected.switch()
    protected.archive.object_path(lost).unlink()
    with pytest.raises(TargetUnreachable, match=lost) as refused:
        protected.plan(tmp_path / "never")
    assert "last before" in (refused.value.hint or "")
    protected.restore(protected.plan(tmp_path / "copy", AtTime(moment)))
    assert rows(tmp_path / "copy", open_server) == [1, 2]
    # The next backup heals the window.
    protected.backup()
    assert protected.plan(tmp_path / "healed").blockers == ()


def test_an_older_backup_that_brings_its_own_wal_is_recovered_to_its_end(
    new_server: NewServer, tmp_path: Path, open_server: OpenServer
) -> None:
    alone = Protected.start(new_server, tmp_path / "home", archives=False)
    alone.server.execute("create table t (n int)", "insert into t values (1)")
    first = str(alone.backup().label)
    for number in (2, 3):
        alone.server.execute(f"insert into t values ({number})", "select pg_switch_wal()")
    alone.backup()
    with pytest.raises(TargetUnreachable) as refused:
        alone.plan(tmp_path / "never", from_label=first)
    assert refused.value.hint == f"--from {first} --at immediate"
    alone.restore(alone.plan(tmp_path / "copy", Immediate(), from_label=first))
    assert rows(tmp_path / "copy", open_server) == [1]


def test_parameters_that_stood_on_the_command_line_are_written_where_recovery_needs_them(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    given = {"max_connections": "120", "max_worker_processes": "12"}
    protected = Protected.start(new_server, tmp_path / "home", settings=given)
    protected.server.execute("create table t (n int)")
    protected.backup()
    protected.switch()
    done = protected.restore(protected.plan(tmp_path / "copy"))
    assert {name: done.configured.tree.value(name) for name in given} == given


def test_a_library_that_the_server_preloads_and_this_host_lacks_is_named(protected: Protected, tmp_path: Path) -> None:
    with (protected.server.pgdata / "postgresql.conf").open("a") as settings:
        settings.write("shared_preload_libraries = 'pg_not_here, \"$libdir/pgoutput\"'\n")
    protected.backup()
    done = protected.restore(protected.plan(tmp_path / "copy"))
    (warning,) = done.configured.warnings
    assert "pg_not_here" in warning


def test_a_restore_point_set_while_a_backup_is_made_is_reached_from_the_one_before(
    protected: Protected, tmp_path: Path
) -> None:
    first = protected.backup()
    server = protected.server
    request = BackupRequest(
        pgdata=server.pgdata,
        connect=lambda: connect(server.conninfo(), env={}, pgdata=server.pgdata),
        state_dir=protected.archive.home / "state-host",
        level=1,
    )
    meanwhile = Interfering("copy files", lambda: server.execute("select pg_create_restore_point('inside')"))
    second = run_backup(request, protected.archive.store, clock=protected.clock, reporter=meanwhile)
    protected.switch()
    plan = protected.plan(tmp_path / "copy", AtRestorePoint("inside"))
    assert plan.label == first.label
    assert any("restore point 'inside' of" in note for note in plan.notes), plan.notes
    with pytest.raises(TargetUnreachable, match="still being made when 'inside' was set"):
        protected.plan(tmp_path / "copy", AtRestorePoint("inside"), from_label=str(second.label))


def test_a_branch_of_which_only_the_history_is_stored_is_refused_with_the_branch_that_can_be_reached(
    protected: Protected, tmp_path: Path
) -> None:
    protected.backup()
    last = WalSegment.parse(protected.switch(), SMALL_WAL.wal_segment_bytes)
    switch = Lsn(last.end(SMALL_WAL.wal_segment_bytes))
    store, system = protected.archive.store, protected.archive.system_identifier
    text = f"1\t{switch}\tno recovery target specified\n".encode()
    store.put(ObjectType.HISTORY, wal_name(system, "00000002.history"), clear={"timeline": 2}, frames=[text])
    with pytest.raises(TargetUnreachable, match=f"timeline 2 has begun at {switch}, but none of its WAL") as refused:
        protected.plan(tmp_path / "copy")
    assert "--timeline 1" in (refused.value.hint or "")
    assert protected.plan(tmp_path / "copy", timeline=1).wal.target == EndOfArchive()
