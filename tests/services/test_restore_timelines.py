"""Along timelines: to each branch's end, with LSNs that people note, and never past what a server wrote on its own."""

from pathlib import Path

import pytest

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.target import AtLsn, AtTime
from pgrecall.errors import TargetUnreachable
from pgrecall.postgres.scratch import ScratchServer
from tests.conftest import NewServer, OpenServer
from tests.support.recovery import Protected

pytestmark = pytest.mark.newest


@pytest.fixture
def protected(new_server: NewServer, tmp_path: Path) -> Protected:
    made = Protected.start(new_server, tmp_path / "home", before=archive_by_file)
    made.server.execute("create table t (n int)", "insert into t values (1)")
    made.backup()
    return made


def archive_by_file(server: ScratchServer) -> None:
    """Archive settings where a user has them: a successor takes over only what the files say."""
    with (server.pgdata / "postgresql.conf").open("a") as conf:
        for name in ("archive_mode", "archive_command"):
            value = server.settings.pop(name).replace("'", "''")
            conf.write(f"{name} = '{value}'\n")


def rows(protected: Protected, copy: Path, open_server: OpenServer) -> list[int]:
    server = open_server(copy, isolated=False).start()
    server.wait_promoted()
    found = [row[0] for row in server.query("select n from t order by n")]
    server.close()
    return found


def test_each_branch_of_history_is_reached_by_its_number(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    moment = protected.moment()
    protected.server.execute("insert into t values (2)")
    protected.switch()
    # The successor starts from the moment before row 2, on timeline 2; the old primary goes on for a while.
    protected.restore(protected.plan(tmp_path / "successor", AtTime(moment), become="main"))
    successor = Protected(open_server(tmp_path / "successor", isolated=False).start(), protected.archive)
    successor.server.wait_promoted()
    successor.server.execute("insert into t values (20)")
    successor.switch()
    protected.server.execute("insert into t values (3)")
    protected.switch()
    for timeline, wanted in ((None, [1, 20]), (2, [1, 20]), (1, [1, 2, 3])):
        plan = protected.plan(tmp_path / f"to{timeline}", timeline=timeline)
        assert plan.wal.history.timeline == (timeline or 2)
        protected.restore(plan)
        assert rows(protected, tmp_path / f"to{timeline}", open_server) == wanted
    with pytest.raises(TargetUnreachable):
        protected.plan(tmp_path / "never", timeline=7)
    # A backup of timeline 2 does not lead back to the end of timeline 1: the older one is taken.
    second = successor.backup()
    assert second.timeline == 2
    assert successor.plan(tmp_path / "x").label == second.label
    assert successor.plan(tmp_path / "y", timeline=1).label != second.label


def test_the_position_noted_before_a_drop_brings_the_table_back(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    protected.server.execute("insert into t values (2)")
    noted = Lsn.parse(protected.server.value("select pg_current_wal_lsn()::text"))
    protected.server.execute("drop table t")
    protected.switch()
    protected.restore(protected.plan(tmp_path / "copy", AtLsn(noted), inclusive=False))
    assert rows(protected, tmp_path / "copy", open_server) == [1, 2]
