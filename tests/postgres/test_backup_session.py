"""One session from pg_backup_start to pg_backup_stop, lost or kept, and the slot that keeps its WAL."""

import time
from pathlib import Path

import pytest

from pgrecall.clock import SystemClock
from pgrecall.domain.lsn import Lsn
from pgrecall.errors import BackupLabelUnreadable, Refused, RightsMissing, SessionLost, ValueInvalid, WalMissing
from pgrecall.postgres.backup_session import BackupSession, LabelFile, create_restore_point, hold_wal, switch_wal
from pgrecall.postgres.connection import connect
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from pgrecall.postgres.server import prove_checkpoint
from tests.conftest import NewServer

LABEL = b"""START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000080
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-20 15:31:27 CET
LABEL: nightly: the first
START TIMELINE: 1
"""


def test_a_backup_session_returns_the_label_that_the_server_wrote(pg: ScratchServer) -> None:
    with BackupSession(connect(pg.conninfo())) as session:
        start = session.start("pgrecall nightly: 1", fast=True)
        prove_checkpoint(pg.pgdata, start.lsn, SystemClock())
        pg.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
        session.check()
        stop = session.stop()
    assert start.redo >= start.lsn
    assert stop.lsn > start.lsn
    assert stop.timeline == start.timeline == 1
    assert stop.time > start.time
    assert stop.label.start == start.lsn
    assert stop.label.start_file == start.wal
    assert stop.label.label == "pgrecall nightly: 1"
    assert stop.label.checkpoint > start.lsn
    assert stop.backup_label.startswith(f"START WAL LOCATION: {start.lsn} (file {start.wal})\n".encode())
    assert stop.backup_label.endswith(b"START TIMELINE: 1\n")
    assert (stop.tablespace_map, stop.label.incremental_from) == (b"", None)
    assert (pg.pgdata / "pg_wal" / stop.wal).is_file()
    assert start.full_page_writes
    assert stop.full_page_writes


@pytest.mark.newest
def test_label_and_map_keep_their_bytes_in_a_latin_database(pg: ScratchServer, tmp_path: Path) -> None:
    pg.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    place = tmp_path / "spaß"
    place.mkdir()
    pg.execute(f"CREATE TABLESPACE s LOCATION '{place}'")
    with BackupSession(connect(pg.conninfo("latin"))) as session:
        session.start("t", fast=True)
        stop = session.stop()
    assert stop.tablespace_map.endswith(f" {place}\n".encode())
    assert stop.backup_label.isascii()


def test_a_tablespace_map_is_returned_byte_for_byte(pg: ScratchServer, tmp_path: Path) -> None:
    place = tmp_path / "spaß"
    place.mkdir()
    pg.execute(f"CREATE TABLESPACE s LOCATION '{place}'")
    oid = pg.value("SELECT oid FROM pg_tablespace WHERE spcname = 's'")
    with BackupSession(connect(pg.conninfo())) as session:
        session.start("t", fast=True)
        assert session.stop().tablespace_map == f"{oid} {place}\n".encode()


def test_a_session_lost_in_mid_backup_fails_the_run(pg: ScratchServer) -> None:
    conn = connect(pg.conninfo())
    with BackupSession(conn) as session:
        session.start("t", fast=True)
        pg.execute(f"SELECT pg_terminate_backend({conn.info.backend_pid}, 5000)")
        with pytest.raises(SessionLost):
            session.check()
        with pytest.raises(SessionLost):
            session.stop()


@pytest.mark.newest
def test_a_server_stopped_in_mid_backup_is_a_lost_session(pg: ScratchServer) -> None:
    with BackupSession(connect(pg.conninfo())) as session:
        session.start("t", fast=True)
        pg.stop()
        with pytest.raises(SessionLost):
            session.stop()


@pytest.mark.newest
def test_leaving_a_session_abandons_its_backup_and_the_next_one_starts(pg: ScratchServer) -> None:
    for _ in range(2):
        with BackupSession(connect(pg.conninfo())) as session:
            session.start("t", fast=True)
    with BackupSession(connect(pg.conninfo())) as session:
        session.start("t", fast=True)
        session.stop()


@pytest.mark.newest
def test_two_backups_at_once_do_not_disturb_each_other(pg: ScratchServer) -> None:
    with BackupSession(connect(pg.conninfo())) as one, BackupSession(connect(pg.conninfo())) as two:
        first = one.start("one", fast=True)
        second = two.start("two", fast=True)
        assert one.stop().label.start == first.lsn
        assert two.stop().label.start == second.lsn


@pytest.mark.newest
def test_a_segment_size_other_than_16_mib_names_the_right_segments(new_server: NewServer) -> None:
    server = new_server(options=InitOptions(wal_segment_bytes=1 << 20))
    with BackupSession(connect(server.conninfo())) as session:
        start = session.start("t", fast=True)
        stop = session.stop()
    assert stop.label.start_file == start.wal
    assert (server.pgdata / "pg_wal" / stop.wal).stat().st_size == 1 << 20


@pytest.mark.newest
def test_a_standby_is_refused_for_now(new_server: NewServer) -> None:
    server = new_server()
    server.stop()
    (server.pgdata / "standby.signal").touch()
    server.start()
    with BackupSession(connect(server.conninfo())) as session, pytest.raises(Refused, match="standby"):
        session.start("t", fast=True)


@pytest.mark.newest
def test_minimal_wal_is_refused_with_the_cure(new_server: NewServer) -> None:
    server = new_server(settings={"wal_level": "minimal", "max_wal_senders": "0"})
    with BackupSession(connect(server.conninfo())) as session, pytest.raises(Refused) as caught:
        session.start("t", fast=True)
    assert caught.value.hint is not None
    assert "wal_level" in caught.value.hint


@pytest.mark.newest
def test_a_role_without_rights_is_told_so(pg: ScratchServer) -> None:
    pg.execute("CREATE ROLE app LOGIN")
    with BackupSession(connect(pg.conninfo(user="app"))) as session, pytest.raises(RightsMissing, match="app"):
        session.start("t", fast=True)


@pytest.mark.newest
@pytest.mark.parametrize("label", ["", "two\nlines", "wöchentlich", "x" * 1025])
def test_a_label_is_one_line_of_ascii(label: str, pg: ScratchServer) -> None:
    with BackupSession(connect(pg.conninfo())) as session, pytest.raises(ValueInvalid):
        session.start(label, fast=True)


def test_every_line_of_a_label_is_read() -> None:
    label = LabelFile.parse(LABEL)
    assert (label.start, label.start_file) == (Lsn.parse("0/2000028"), "000000010000000000000002")
    assert (label.checkpoint, label.method, label.taken_from) == (Lsn.parse("0/2000080"), "streamed", "primary")
    assert (label.label, label.timeline) == ("nightly: the first", 1)
    assert label.raw == LABEL
    incremental = LabelFile.parse(LABEL + b"INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n")
    assert incremental.incremental_from == (Lsn.parse("0/1000028"), 1)


@pytest.mark.parametrize("missing", [b"START WAL", b"CHECKPOINT", b"BACKUP METHOD", b"START TIMELINE", b"LABEL"])
def test_a_label_without_one_of_its_lines_is_not_accepted(missing: bytes) -> None:
    lines = [line for line in LABEL.splitlines(keepends=True) if not line.startswith(missing)]
    with pytest.raises(BackupLabelUnreadable):
        LabelFile.parse(b"".join(lines))


def test_a_slot_made_before_the_start_keeps_the_backups_wal_until_it_is_released(pg: ScratchServer) -> None:
    with hold_wal(connect(pg.conninfo())) as hold, BackupSession(connect(pg.conninfo())) as session:
        start = session.start("t", fast=True)
        pg.execute("CREATE TABLE t AS SELECT generate_series(1, 100) AS n")
        for _ in range(4):
            pg.execute("INSERT INTO t VALUES (1)", "SELECT pg_switch_wal()", "CHECKPOINT")
        session.stop()
        assert hold.check(needed_from=start.lsn) == "reserved"
        assert (pg.pgdata / "pg_wal" / start.wal).is_file()
        with pytest.raises(WalMissing, match="keeps WAL from"):
            hold.check(needed_from=Lsn(0))
    deadline = time.monotonic() + 10
    while pg.value("SELECT count(*) FROM pg_replication_slots") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pg.value("SELECT count(*) FROM pg_replication_slots") == 0


def test_a_slot_that_lost_its_wal_fails_the_run_by_name(new_server: NewServer) -> None:
    server = new_server(
        options=InitOptions(wal_segment_bytes=1 << 20),
        settings={"max_slot_wal_keep_size": "1MB", "min_wal_size": "2MB", "max_wal_size": "2MB"},
    )
    with hold_wal(connect(server.conninfo())) as hold:
        server.execute("CREATE TABLE t (n int)")
        for _ in range(6):
            server.execute("INSERT INTO t VALUES (1)", "SELECT pg_switch_wal()")
        server.execute("CHECKPOINT")
        with pytest.raises(WalMissing, match="max_slot_wal_keep_size"):
            hold.check()


@pytest.mark.newest
def test_a_slot_session_that_ended_is_noticed(pg: ScratchServer) -> None:
    conn = connect(pg.conninfo())
    with hold_wal(conn) as hold:
        pg.execute(f"SELECT pg_terminate_backend({conn.info.backend_pid}, 5000)")
        with pytest.raises(SessionLost):
            hold.check()


def test_a_switch_completes_the_segment_that_holds_the_last_record(pg: ScratchServer) -> None:
    with connect(pg.conninfo()) as conn:
        point = create_restore_point(conn, "before the change")
        switch = switch_wal(conn)
        assert switch.segment.start(16 << 20) < point <= switch.lsn <= switch.segment.end(16 << 20)
        assert (pg.pgdata / "pg_wal" / switch.name).stat().st_size == 16 << 20
        idle = switch_wal(conn)
        assert idle.segment == switch.segment
        create_restore_point(conn, "then")
        assert switch_wal(conn).segment == switch.segment.next()


@pytest.mark.newest
def test_a_restore_points_name_is_what_the_server_takes(pg: ScratchServer) -> None:
    with connect(pg.conninfo()) as conn:
        create_restore_point(conn, "x" * 63)
        for name in ("", "x" * 64):
            with pytest.raises(ValueInvalid):
                create_restore_point(conn, name)
