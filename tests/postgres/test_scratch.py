"""What a scratch server promises, on every version of PostgreSQL that is here."""

import os
from pathlib import Path

import pytest

from pgrecall.errors import ScratchFailed
from pgrecall.postgres.binaries import Binaries
from pgrecall.postgres.conffile import unquote
from pgrecall.postgres.processes import descendants, is_alive
from pgrecall.postgres.scratch import InitOptions, ScratchServer, isolation, quote_setting
from tests.conftest import NewServer, OpenServer
from tests.support.cluster import amcheck, checksums_are_good, pgbench_running, table_fingerprints


def test_a_scratch_server_answers_and_does_not_listen_on_tcp(pg: ScratchServer, binaries: Binaries) -> None:
    assert pg.value("select current_setting('server_version')::text").startswith(binaries.version.split()[0])
    assert pg.value("select current_setting('listen_addresses')") == ""


def test_initdb_options_reach_the_cluster(new_server: NewServer) -> None:
    server = new_server(options=InitOptions(checksums=False, wal_segment_bytes=1 << 20))
    assert server.value("select current_setting('data_checksums')") == "off"
    assert server.value("select current_setting('wal_segment_size')") == "1MB"


def test_a_crash_leaves_no_process_and_committed_rows_survive_it(pg: ScratchServer) -> None:
    pg.execute("create table t as select generate_series(1, 1000) as id")
    family = [pg.pid, *descendants(pg.pid)]
    assert len(family) > 3
    pg.crash()
    assert not [pid for pid in family if is_alive(pid)]
    assert pg.start().value("select count(*) from t") == 1000


@pytest.mark.newest
def test_leaving_the_block_stops_the_server_and_removes_its_socket(binaries: Binaries, tmp_path: Path) -> None:
    with ScratchServer(binaries, tmp_path / "pg").initdb() as server:
        pid = server.start().pid
        directory = server.socket_dir
    assert not Path(f"/proc/{pid}").exists()
    assert not directory.exists()


@pytest.mark.newest
def test_a_server_that_cannot_start_says_why(new_server: NewServer) -> None:
    server = new_server(start=False, settings={"shared_buffers": "none"})
    with pytest.raises(ScratchFailed, match="invalid value for parameter"):
        server.start()
    assert not server.running


@pytest.mark.newest
def test_settings_written_to_the_configuration_count_after_a_restart(pg: ScratchServer) -> None:
    pg.configure({"application_name": "it's here", "wal_log_hints": True}).restart()
    assert pg.value("select setting from pg_settings where name = 'wal_log_hints'") == "on"
    assert pg.value("select reset_val from pg_settings where name = 'application_name'") == "it's here"


def test_an_isolated_server_starts_on_a_copy_that_points_outside(pg: ScratchServer, open_server: OpenServer) -> None:
    pg.stop()
    pg.configure(
        {
            "hba_file": "/nonexistent/pg_hba.conf",
            "external_pid_file": "/nonexistent/pid",
            "archive_mode": True,
            "archive_command": "false",
            "synchronous_standby_names": "*",
        }
    )
    copy = open_server(pg.pgdata).start()
    copy.execute("create table written as select 1")
    assert copy.value("select current_setting('archive_mode')") == "off"
    assert set(isolation(pg.pgdata, copy.socket_dir)) >= {"data_directory", "primary_conninfo", "external_pid_file"}


def test_fingerprints_tell_equal_content_from_different(pg: ScratchServer) -> None:
    pg.execute("create table a (id int, note text)", "insert into a values (1, 'x'), (2, null), (2, null)")
    pg.execute("create table b (id int, note text)", "insert into b values (2, null), (1, 'x'), (2, null)")
    before = table_fingerprints(pg)
    assert before["postgres", "public.a"] == before["postgres", "public.b"]
    pg.execute("delete from b where ctid = (select max(ctid) from b)")
    after = table_fingerprints(pg)
    assert after["postgres", "public.a"] != after["postgres", "public.b"]


@pytest.mark.contrib
def test_amcheck_notices_an_index_that_lacks_a_row(pg: ScratchServer) -> None:
    pg.execute("create table t (id int primary key)", "insert into t select generate_series(1, 100)")
    amcheck(pg)
    set_ready = "update pg_index set indisready = {} where indexrelid = 't_pkey'::regclass"
    pg.execute(set_ready.format(False), "insert into t values (999)", set_ready.format(True))
    with pytest.raises(ScratchFailed, match="lacks matching index tuple"):
        amcheck(pg)


@pytest.mark.newest
def test_load_runs_in_the_background_and_ends_with_the_block(pg: ScratchServer) -> None:
    with pgbench_running(pg):
        while pg.value("select count(*) from pgbench_history") == 0:
            pass
    seen = pg.value("select count(*) from pgbench_history")
    assert seen == pg.value("select count(*) from pgbench_history")
    pg.stop()
    assert checksums_are_good(pg)


@pytest.mark.newest
def test_sockets_are_private(pg: ScratchServer) -> None:
    assert pg.socket_dir.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(pg.socket_dir)) < 100


def test_a_setting_is_quoted_as_the_server_reads_it() -> None:
    assert quote_setting(True) == "on"
    assert quote_setting(7) == "7"
    assert unquote(quote_setting("C:\\new 'wal'").encode()) == b"C:\\new 'wal'"
