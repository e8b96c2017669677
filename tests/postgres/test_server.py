"""What we know of a server, and that a session and a directory are one server or are refused."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgrecall.clock import SystemClock
from pgrecall.errors import Refused, SessionLost, WrongCluster
from pgrecall.postgres.capabilities import Capabilities
from pgrecall.postgres.connection import connect
from pgrecall.postgres.control import read_control
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from pgrecall.postgres.server import (
    ServerIdentity,
    identify,
    prove_checkpoint,
    prove_same_server,
    read_config_files,
    read_facts,
)
from tests.conftest import NewServer

CLOCK = SystemClock()


def test_facts_agree_with_pg_control_and_the_settings(pg: ScratchServer) -> None:
    with connect(pg.conninfo()) as conn:
        facts = read_facts(conn)
    control = read_control(pg.pgdata, clock=CLOCK)
    assert facts.system_identifier == control.system_identifier
    assert (facts.timeline, facts.checkpoint_redo) == (control.timeline, control.redo)
    assert (facts.catalog_version, facts.control_version) == (control.catalog_version, control.control_version)
    assert (facts.page_size, facts.wal_segment_size) == (control.block_size, control.wal_segment_size)
    assert facts.relation_segment_pages == control.relation_segment_blocks
    assert facts.data_checksums
    assert facts.data_directory == pg.pgdata
    assert facts.version_num // 10000 == pg.binaries.major
    assert not facts.in_recovery
    assert not facts.archiving
    assert facts.rights.superuser
    assert not facts.rights.missing_for_backup(carry_wal=True)


@pytest.mark.newest
def test_sizes_that_initdb_chose_are_read_not_assumed(new_server: NewServer) -> None:
    server = new_server(options=InitOptions(checksums=False, wal_segment_bytes=1 << 20))
    with connect(server.conninfo()) as conn:
        facts = read_facts(conn)
    assert facts.wal_segment_size == 1 << 20
    assert not facts.data_checksums


@pytest.mark.newest
def test_a_foreign_archive_command_is_seen_even_while_archiving_is_off(new_server: NewServer) -> None:
    server = new_server(settings={"archive_command": "other-tool push %p"})
    with connect(server.conninfo()) as conn:
        assert conn.execute("SHOW archive_command").fetchone() == ("(disabled)",)
        assert read_facts(conn).setting("archive_command") == "other-tool push %p"


def test_session_and_files_of_one_server_are_proven_so(pg: ScratchServer) -> None:
    with connect(pg.conninfo()) as conn:
        prove_same_server(conn, pg.pgdata, CLOCK)
        assert list((pg.pgdata / "pg_snapshots").iterdir()) == []


@pytest.mark.newest
def test_a_data_directory_behind_a_symbolic_link_is_the_same_server(pg: ScratchServer, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(pg.pgdata)
    with connect(pg.conninfo()) as conn:
        prove_same_server(conn, link, CLOCK)


@pytest.mark.newest
def test_another_clusters_directory_is_refused_with_both_identifiers(new_server: NewServer) -> None:
    ours, other = new_server("ours"), new_server("other", own_identity=True)
    with connect(ours.conninfo()) as conn, pytest.raises(WrongCluster) as caught:
        prove_same_server(conn, other.pgdata, CLOCK)
    for server in (ours, other):
        assert str(read_control(server.pgdata, clock=CLOCK).system_identifier) in str(caught.value)


@pytest.mark.newest
def test_a_copy_with_the_same_identifier_is_refused(new_server: NewServer) -> None:
    ours, twin = new_server("ours"), new_server("twin")
    with connect(ours.conninfo()) as conn, pytest.raises(WrongCluster, match="data directory"):
        prove_same_server(conn, twin.pgdata, CLOCK)


@pytest.mark.newest
def test_a_copy_in_the_place_of_the_servers_own_files_is_refused(pg: ScratchServer, tmp_path: Path) -> None:
    copy, own = tmp_path / "copy", tmp_path / "own"
    with connect(pg.conninfo()) as conn:
        shutil.copytree(pg.pgdata, copy, symlinks=True)
        pg.pgdata.rename(own)
        copy.rename(pg.pgdata)
        try:
            with pytest.raises(WrongCluster, match="mark left by the session"):
                prove_same_server(conn, pg.pgdata, CLOCK)
        finally:
            pg.pgdata.rename(copy)
            own.rename(pg.pgdata)


@pytest.mark.newest
def test_files_older_than_the_backups_start_are_refused(pg: ScratchServer) -> None:
    redo = read_control(pg.pgdata, clock=CLOCK).redo
    prove_checkpoint(pg.pgdata, redo, CLOCK)
    with pytest.raises(WrongCluster, match="checkpoint"):
        prove_checkpoint(pg.pgdata, redo + 1, CLOCK)


@pytest.mark.newest
def test_an_identity_stays_and_a_restart_changes_it(pg: ScratchServer) -> None:
    with connect(pg.conninfo()) as conn:
        before = identify(conn, pg.pgdata)
        again = identify(conn, pg.pgdata)
    assert not before.differences(again)
    assert before.lsn_proves_unchanged
    pg.restart()
    with connect(pg.conninfo()) as conn:
        after = identify(conn, pg.pgdata)
    assert after.differences(before) == ("postmaster_started",)


def test_every_part_of_an_identity_counts_but_the_name_of_its_directory() -> None:
    identity = ServerIdentity(
        system_identifier=7298000000000000041,
        host="db1",
        data_directory="/srv/pg",
        device=64,
        inode=12345678901234567,
        postmaster_started=datetime(2026, 11, 20, 1, 0, 3, 123456, tzinfo=UTC),
        checksum_version=0,
        wal_log_hints=True,
        page_size=8192,
        relation_segment_pages=131072,
        wal_segment_size=16777216,
    )
    changes: dict[str, ServerIdentity] = {
        "system_identifier": replace(identity, system_identifier=1),
        "host": replace(identity, host="db2"),
        "device": replace(identity, device=65),
        "inode": replace(identity, inode=1),
        "postmaster_started": replace(identity, postmaster_started=identity.postmaster_started + timedelta(seconds=1)),
        "checksum_version": replace(identity, checksum_version=1),
        "wal_log_hints": replace(identity, wal_log_hints=False),
        "page_size": replace(identity, page_size=4096),
        "relation_segment_pages": replace(identity, relation_segment_pages=16),
        "wal_segment_size": replace(identity, wal_segment_size=1 << 20),
    }
    for name, changed in changes.items():
        assert identity.differences(changed) == (name,)
    assert not identity.differences(replace(identity, data_directory="/mnt/pg"))
    assert not identity.lsn_proves_unchanged
    assert replace(identity, checksum_version=1).lsn_proves_unchanged


def test_included_configuration_files_are_named(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server(start=False)
    included, rules = tmp_path / "more.conf", tmp_path / "more_hba.conf"
    included.write_text("work_mem = '5MB'\n")
    server.configure({"include": str(included)})
    if server.binaries.major >= 16:
        rules.write_text("local all nobody reject\n")
        with (server.pgdata / "pg_hba.conf").open("a") as hba:
            hba.write(f"include {rules}\n")
    server.start()
    with connect(server.conninfo()) as conn:
        files = {path: name for name, path in read_config_files(conn, read_facts(conn))}
    assert files[str(server.pgdata / "postgresql.conf")] == "config_file"
    assert files[str(server.pgdata / "pg_hba.conf")] == "hba_file"
    assert files[str(server.pgdata / "pg_ident.conf")] == "ident_file"
    assert files[str(included)] == "config_file"
    assert (str(rules) in files) == (server.binaries.major >= 16)


@pytest.mark.newest
def test_a_session_that_the_server_ended_is_lost(pg: ScratchServer) -> None:
    with connect(pg.conninfo()) as conn:
        pg.execute(f"SELECT pg_terminate_backend({conn.info.backend_pid}, 5000)")
        with pytest.raises(SessionLost):
            read_facts(conn)


def test_servers_before_15_are_refused() -> None:
    with pytest.raises(Refused, match=r"14\.20"):
        Capabilities.of(140020)
    assert not Capabilities.of(150009).included_hba
    assert Capabilities.of(160014).included_hba
