"""Servers as people have them: linked, nested, crashed, with transactions left prepared; clones of subscribers."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from pgrecall.errors import WrongCluster
from pgrecall.postgres.scratch import InitOptions
from tests.conftest import NewServer, OpenServer
from tests.support.cluster import table_fingerprints
from tests.support.recovery import Protected
from tests.support.whole_cycle import Cycle

pytestmark = pytest.mark.newest


def test_a_server_with_everything_unusual_comes_back_from_every_backup(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    options = InitOptions(group_access=True, wal_segment_bytes=1 << 20)
    settings = {"full_page_writes": "off", "max_prepared_transactions": "5"}
    with Cycle.running(new_server, open_server, tmp_path, options=options, settings=settings) as cycle:
        server = cycle.server
        server.stop()
        shutil.move(server.pgdata / "pg_wal", tmp_path / "wal")
        (server.pgdata / "pg_wal").symlink_to(tmp_path / "wal")
        server.start()
        inner = server.pgdata / "inner"
        inner.mkdir()
        server.execute(
            f"create tablespace inner_space location '{inner}'",
            "create table t tablespace inner_space as select n, repeat('x', 100) from generate_series(1, 3000) n",
            "create unlogged table u (id serial, n int)",
            "insert into u (n) values (1)",
            "select lo_from_bytea(70000, convert_to(repeat('big', 500000), 'UTF8'))",
            "create table p (n int)",
        )
        with server.connect() as connection:
            for statement in ("begin", "insert into p values (1)", "prepare transaction 'waiting'"):
                connection.execute(statement)
        server.execute("checkpoint")
        first = cycle.backup()
        server.restart("immediate")
        server.execute("update t set n = -n where n % 7 = 0", "vacuum t")
        second = cycle.backup()
        cycle.switch()
        wanted = table_fingerprints(server)
        for number, result in enumerate((first, second)):
            with cycle.restored(f"copy{number}", label=result.label) as copy:
                assert table_fingerprints(copy) == wanted
                assert copy.value("select length(lo_get(70000))") == 1_500_000
                assert copy.query("select gid from pg_prepared_xacts") == [("waiting",)]
                copy.execute("commit prepared 'waiting'", "insert into u (n) values (2)")
                assert copy.query("select n from p union all select n from u") == [(1,), (2,)]
                assert copy.pgdata.stat().st_mode & 0o777 == 0o750


def test_a_backup_never_mixes_one_server_s_session_with_another_directory_s_files(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        shutil.copytree(cycle.server.pgdata, tmp_path / "elsewhere", symlinks=True)  # its postmaster.pid, too
        mistaken = dataclasses.replace(cycle.request(), pgdata=tmp_path / "elsewhere")
        with pytest.raises(WrongCluster) as refused:
            cycle.backup(mistaken)
        assert "checkpoint" not in refused.value.message
        # The second line of defence: the files do not know the checkpoint that this backup began with.
        monkeypatch.setattr("pgrecall.services.backup.source.prove_same_server", lambda *_: None)
        with pytest.raises(WrongCluster, match="checkpoint"):
            cycle.backup(mistaken)
        assert cycle.states() == {}


def test_a_clone_of_a_subscriber_takes_nothing_from_the_publisher(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    publisher = new_server("publisher", settings={"wal_level": "logical"}, own_identity=True)
    publisher.execute("create table t (n int)", "create publication p for table t")
    protected = Protected.start(new_server, tmp_path / "home")
    subscriber = protected.server
    subscriber.execute("create table t (n int)")
    subscriber.execute(f"create subscription s connection '{publisher.conninfo()}' publication p")
    protected.backup()
    protected.switch()
    subscriber.stop()
    publisher.execute("insert into t values (1)")
    place = "select confirmed_flush_lsn::text, active from pg_replication_slots"
    before = publisher.query(place)
    protected.restore(protected.plan(tmp_path / "copy"))
    copy = open_server(tmp_path / "copy", isolated=False).start()
    copy.wait_promoted()
    copy.execute("select pg_sleep(1)")
    assert copy.query("select subenabled, (select count(*) from t) from pg_subscription") == [(True, 0)]
    assert publisher.query(place) == before
    copy.close()
    # Proof that only the setting held it back: the original takes what waited.
    subscriber.start()
    subscriber.execute("do $$ begin while not exists (select from t) loop perform pg_sleep(0.05); end loop; end $$")
    assert publisher.query(place) != before
