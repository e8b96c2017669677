"""Increments against real servers: what a page's LSN does not show must not be taken from the parent."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgrecall.domain.label import BackupKind
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from tests.conftest import NewServer, OpenServer
from tests.support.cluster import checksums_are_good
from tests.support.whole_cycle import Cycle
from tests.support.workload import Workload

NO_CHECKSUMS = InitOptions(checksums=False, wal_segment_bytes=1 << 20)
INDEX_ONLY = ("set enable_seqscan = off", "set enable_bitmapscan = off")
SEQUENTIAL = ("set enable_indexscan = off", "set enable_indexonlyscan = off", "set enable_bitmapscan = off")


@pytest.fixture
def cycle(new_server: NewServer, open_server: OpenServer, tmp_path: Path) -> Iterator[Cycle]:
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        yield cycle


@pytest.mark.newest
def test_a_metapage_written_without_wal_comes_from_the_file_not_from_the_parent(cycle: Cycle) -> None:
    server = cycle.server
    points = "insert into p select point(random(), random()) from generate_series(1, {})"
    server.execute("create table p (at point)", points.format(20000), "create index pi on p using spgist (at)")
    cycle.backup()
    index = server.pgdata / server.value("select pg_relation_filepath('pi')")
    before = index.read_bytes()[:8192]
    changed = 0
    for _ in range(30):  # where a page has room is noted there now and then
        server.execute(points.format(50), "checkpoint")
        now = index.read_bytes()[:8192]
        changed += now != before
        assert now[:8] == before[:8], "its LSN"
        result = cycle.backup()
        assert result.label.kind is BackupKind.INCR
        assert "page LSNs show" in result.why[-1]
        assert result.warnings == ()
        assert cycle.differing_files(result.label) == []
        if changed == 2:
            break
        before = now
    assert changed


@pytest.mark.newest
def test_a_table_cut_off_by_vacuum_raises_no_alarm(cycle: Cycle) -> None:
    server = cycle.server
    server.execute(
        "create table t as select n, repeat('x', 500) from generate_series(1, 4000) n", "vacuum t", "checkpoint"
    )
    cycle.backup()
    blocks = "select pg_relation_size('t') / 8192"
    before = server.value(blocks)
    # VACUUM keeps pages from which it removed rows as "pruned"; pages all empty at the end are cut off.
    server.execute("delete from t where n > 3990", "vacuum (truncate on) t", "checkpoint")
    assert server.value(blocks) < before
    result = cycle.backup()
    assert result.warnings == ()
    assert cycle.differing_files(result.label) == []


def counts(server: ScratchServer) -> tuple[int, int]:
    """Rows of t by an index-only scan, which believes the visibility map, and by reading the table."""
    found = []
    for settings in (INDEX_ONLY, SEQUENTIAL):
        with server.connect() as connection:
            for setting in settings:
                connection.execute(setting)
            row = connection.execute("select count(*) from t where id > 0").fetchone()
            assert row is not None
            found.append(row[0])
    return found[0], found[1]


def test_pages_set_all_visible_without_a_new_lsn_are_not_the_parents(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    vacuum_between_backups(new_server, open_server, tmp_path, ("off", "off"))


@pytest.mark.newest
@pytest.mark.parametrize("hints", [("on", "on"), ("on", "off"), ("off", "on")], ids="-".join)
def test_page_lsns_are_not_trusted_without_checksums_whether_hint_bits_are_logged_or_not(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path, hints: tuple[str, str]
) -> None:
    vacuum_between_backups(new_server, open_server, tmp_path, hints)


def vacuum_between_backups(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path, hints: tuple[str, str]
) -> None:
    settings = {"wal_log_hints": hints[0]}
    with Cycle.running(new_server, open_server, tmp_path, options=NO_CHECKSUMS, settings=settings) as cycle:
        server = cycle.server
        server.execute(
            "create table t (id int primary key, pad text)",
            "insert into t select n, repeat('x', 50) from generate_series(1, 5000) n",
            "select count(*) from t",
            "checkpoint",
        )
        cycle.backup()
        if hints[1] != hints[0]:
            server.settings["wal_log_hints"] = hints[1]
            server.restart()
        server.execute("vacuum t", "checkpoint")
        result = cycle.backup()
        assert result.label.kind is BackupKind.INCR
        assert "page LSNs not trusted" in result.why[-1]
        assert cycle.differing_files(result.label) == []
        cycle.switch()
        with cycle.restored("copy") as copy:
            copy.execute("delete from t where id <= 1000")
            assert counts(copy) == (4000, 4000)


@pytest.mark.newest
def test_checksums_enabled_between_two_backups_are_in_the_second(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    with Cycle.running(new_server, open_server, tmp_path, options=NO_CHECKSUMS) as cycle:
        server = cycle.server
        server.execute("create table t as select n, repeat('x', 300) from generate_series(1, 3000) n")
        cycle.backup()
        server.stop()
        argv = [str(server.binaries.program("pg_checksums")), "--enable", "--no-sync", "-D", str(server.pgdata)]
        subprocess.run(argv, check=True, capture_output=True)
        server.start()
        result = cycle.backup()
        assert result.label.kind is BackupKind.INCR
        assert "checksum_version" in result.why[-1]
        assert cycle.differing_files(result.label) == []
        cycle.switch()
        with cycle.restored("copy") as copy:
            copy.stop()
            assert checksums_are_good(copy)


@pytest.mark.newest
def test_a_database_made_anew_under_the_same_oid_is_not_the_dropped_one(cycle: Cycle) -> None:
    server = cycle.server
    for name, rows in (("one", 3000), ("two", 3100)):
        server.execute(f"create database {name}")
        server.execute(f"create table t as select n, '{name}' || n from generate_series(1, {rows}) n", dbname=name)
    make = "create database d template {} oid 90000 strategy file_copy"
    server.execute(make.format("one"), "checkpoint")
    cycle.backup()
    server.execute("drop database d", make.format("two"), "checkpoint")
    result = cycle.backup()
    assert result.label.kind is BackupKind.INCR
    assert cycle.differing_files(result.label) == []
    cycle.assert_restores()


@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "plain"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.newest
def test_every_increment_of_a_changing_cluster_holds_the_very_files(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path, seed: int, checksums: bool
) -> None:
    options = InitOptions(checksums=checksums, wal_segment_bytes=1 << 20)
    with Cycle.running(new_server, open_server, tmp_path, options=options, sealed=bool(seed)) as cycle:
        workload = Workload(cycle.server, seed)
        for round_number in range(4):
            workload.run(25)
            cycle.server.execute("checkpoint")
            result = cycle.backup(cycle.request(jobs=1 + round_number % 3))
            assert result.warnings == ()
            assert cycle.differing_files(result.label) == [], f"seed {seed}, round {round_number}: {result}"
