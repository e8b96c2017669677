"""The WAL that a backup brings itself: found in pg_wal, whole, this cluster's, and not written over meanwhile."""

from pathlib import Path

import pytest

from pgrecall.clock import SystemClock
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.wal import WalSegment
from pgrecall.errors import PgrecallError, WalMissing, WrongCluster
from pgrecall.postgres.backup_session import BackupSession, StartPoint, StopResult, hold_wal
from pgrecall.postgres.connection import connect
from pgrecall.postgres.control import ControlFile, read_control
from pgrecall.postgres.pgwal import WalFile, find_segments, read_archive_status, read_segment, wal_tail
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from tests.conftest import NewServer

SMALL = InitOptions(wal_segment_bytes=1 << 20)


def backup_over_three_segments(server: ScratchServer) -> tuple[StartPoint, StopResult]:
    with hold_wal(connect(server.conninfo())) as hold, BackupSession(connect(server.conninfo())) as session:
        start = session.start("t", fast=True)
        server.execute("CREATE TABLE t AS SELECT n, repeat('x', 200) FROM generate_series(1, 10000) AS n")
        stop = session.stop()
        hold.check(needed_from=start.lsn)
    return start, stop


def read(control: ControlFile, file: WalFile) -> bytes:
    return read_segment(
        file,
        segment_size=control.wal_segment_size,
        system_identifier=control.system_identifier,
        wal_page_size=control.wal_block_size,
    )


def test_a_backups_segments_are_found_and_every_page_of_them_is_their_own(new_server: NewServer) -> None:
    server = new_server(options=SMALL)
    start, stop = backup_over_three_segments(server)
    control = read_control(server.pgdata, clock=SystemClock())
    files = find_segments(
        server.pgdata, timeline=start.timeline, start=start.lsn, stop=stop.lsn, segment_size=control.wal_segment_size
    )
    assert len(files) >= 3
    assert (files[0].name, files[-1].name) == (start.wal, stop.wal)
    for file in files:
        # The last one ends in what follows the switch record: zeros.
        assert read(control, file) == file.path.read_bytes()


@pytest.mark.newest
def test_a_recycled_segment_is_not_taken_for_the_one_it_was(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server(options=SMALL, settings={"wal_keep_size": "64MB"})
    start, stop = backup_over_three_segments(server)
    server.stop()
    control = read_control(server.pgdata, clock=SystemClock())
    first, second = find_segments(
        server.pgdata, timeline=1, start=start.lsn, stop=stop.lsn, segment_size=control.wal_segment_size
    )[:2]
    # Half written over by the segment that the file is becoming
    mixed = bytearray(first.path.read_bytes())
    mixed[8192 * 40 : 8192 * 41] = second.path.read_bytes()[8192 * 40 : 8192 * 41]
    path = tmp_path / first.name
    path.write_bytes(mixed)
    with pytest.raises(WalMissing, match="recycled while it was read: page 40"):
        read(control, first._replace(path=path))
    # Renamed altogether
    path.write_bytes(second.path.read_bytes())
    with pytest.raises(PgrecallError):
        read(control, first._replace(path=path))
    path.write_bytes(mixed[:-8192])
    with pytest.raises(WalMissing, match="instead of 1048576"):
        read(control, first._replace(path=path))
    path.unlink()
    with pytest.raises(WalMissing, match="is not there"):
        read(control, first._replace(path=path))


@pytest.mark.newest
def test_another_clusters_segment_is_refused(new_server: NewServer) -> None:
    server = new_server(options=SMALL)
    start, stop = backup_over_three_segments(server)
    files = find_segments(server.pgdata, timeline=1, start=start.lsn, stop=stop.lsn, segment_size=1 << 20)
    with pytest.raises(WrongCluster):
        read_segment(files[0], segment_size=1 << 20, system_identifier=4711, wal_page_size=8192)


@pytest.mark.newest
def test_a_segment_that_is_gone_is_named(pg: ScratchServer) -> None:
    far = Lsn.parse("A/5000028")
    with pytest.raises(WalMissing, match="000000010000000A00000005"):
        find_segments(pg.pgdata, timeline=1, start=far, stop=far + 100, segment_size=16 << 20)


@pytest.mark.newest
def test_archive_status_tells_what_waits_and_what_is_done(new_server: NewServer) -> None:
    server = new_server(settings={"archive_mode": "on", "archive_command": "false"})
    server.execute("CREATE TABLE t (n int)")
    waiting = server.value("SELECT pg_walfile_name(pg_switch_wal())")
    status = server.pgdata / "pg_wal/archive_status"
    (server.pgdata / "pg_wal/00000002.history").touch()  # the archiver removes a status without a file
    (status / "00000002.history.ready").touch()
    (status / "000000010000000000000000.done").touch()
    (status / "not a segment.ready").touch()
    found = read_archive_status(server.pgdata)
    assert found.ready == ("00000002.history", waiting)
    assert found.done == ("000000010000000000000000",)


def test_the_tail_is_the_segment_in_writing(pg: ScratchServer) -> None:
    pg.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    with connect(pg.conninfo()) as conn:
        tail = wal_tail(conn)
    assert tail.flushed <= tail.inserted
    assert tail.segment == WalSegment.containing(tail.flushed, 1, 16 << 20)
    assert (pg.pgdata / "pg_wal" / tail.name).is_file()
