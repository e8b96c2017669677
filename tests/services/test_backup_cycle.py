"""Whole cycles: full and incremental backups while everything changes; each restored equals the source."""

from pathlib import Path

import pytest

from pgrecall.domain.label import BackupKind
from pgrecall.postgres.scratch import InitOptions
from tests.conftest import NewServer, OpenServer
from tests.support.cluster import amcheck, pgbench_running
from tests.support.whole_cycle import Cycle, Interfering
from tests.support.workload import Workload


def back_up_under_load(cycle: Cycle, seed: int, *, increments: int) -> None:
    """One full backup and some increments while pgbench and a workload of all statements run; then all are restored."""
    server = cycle.server
    space = cycle.home / "space"
    space.mkdir(mode=0o700)
    server.execute(f"create tablespace elsewhere location '{space}'")
    server.execute("create table placed (n int, note text) tablespace elsewhere")
    workload = Workload(server, seed).run(20)
    labels = []
    with pgbench_running(server, rate=100), workload.running():
        for number in range(increments + 1):
            server.execute(f"insert into placed select {number}, repeat('p', n) from generate_series(1, 300) n")
            result = cycle.backup()
            assert (result.state, result.warnings) == ("complete", ()), f"seed {seed}"
            labels.append(result.label)
    assert [label.kind for label in labels] == [BackupKind.FULL] + [BackupKind.INCR] * increments
    server.execute("checkpoint")
    labels.append(cycle.backup().label)
    assert cycle.differing_files(labels[-1]) == [], f"seed {seed}"
    cycle.assert_restores(labels[0], *labels[-2:])


@pytest.mark.parametrize("seed", [1])
def test_backups_under_load_restore_to_what_the_source_holds(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path, seed: int
) -> None:
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        back_up_under_load(cycle, seed, increments=2)


@pytest.mark.newest
@pytest.mark.parametrize(
    ("megabytes", "checksums", "hints"), [(64, True, "off"), (1, False, "on"), (16, False, "off")], ids=str
)
def test_wal_segments_checksums_and_hints_of_every_kind(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path, megabytes: int, checksums: bool, hints: str
) -> None:
    options = InitOptions(checksums=checksums, wal_segment_bytes=megabytes << 20)
    settings = {"wal_log_hints": hints, "max_wal_size": "10GB", "min_wal_size": f"{2 * megabytes}MB"}
    with Cycle.running(new_server, open_server, tmp_path, options=options, settings=settings) as cycle:
        cycle.server.run("pgbench", "-i", "-q", "-s", "1")
        cycle.backup()
        cycle.server.run("pgbench", "-n", "-t", "100")
        result = cycle.backup()
        assert ("page LSNs show what changed" in result.why[-1]) is checksums
        cycle.assert_restores()


@pytest.mark.contrib
def test_a_restored_cluster_passes_amcheck(new_server: NewServer, open_server: OpenServer, tmp_path: Path) -> None:
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        workload = Workload(cycle.server, 7)
        for _ in range(2):
            workload.run(30)
            cycle.backup()
        cycle.switch()
        with cycle.restored("copy") as server:
            amcheck(server)


@pytest.mark.newest
@pytest.mark.parametrize("strategy", ["wal_log", "file_copy"])
def test_a_database_created_while_files_are_copied_comes_back(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path, strategy: str
) -> None:
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        server = cycle.server
        server.execute("create database model", "create database leaving")
        server.execute("create table m as select generate_series(1, 1000) n", dbname="model")

        def change_everything() -> None:
            server.execute(f"create database made template model strategy {strategy}", "drop database leaving")
            server.execute("insert into m values (1001)", "truncate m", "insert into m values (1)", dbname="made")

        cycle.backup()
        result = cycle.backup(reporter=Interfering("copy files", change_everything))
        cycle.assert_restores(result.label)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_many_backups_under_load_restore_to_what_the_source_holds(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path, seed: int
) -> None:
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        back_up_under_load(cycle, seed, increments=5)


@pytest.mark.slow
@pytest.mark.newest
def test_a_table_of_more_than_one_segment_comes_back(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    """Block numbers count over segments, checksums are made with them; the second segment appears between backups."""
    options = InitOptions(wal_segment_bytes=64 << 20)
    with Cycle.running(new_server, open_server, tmp_path, options=options) as cycle:
        server = cycle.server
        wide = "insert into big select n, repeat(md5(n::text), 55) from generate_series({}, {}) n"
        server.execute("create table big (n int, note text)", "alter table big alter note set storage plain")
        server.execute(wide.format(1, 500_000), "checkpoint")
        cycle.backup()
        server.execute(wide.format(500_001, 640_000), "update big set n = -n where n % 5000 = 0", "checkpoint")
        result = cycle.backup()
        assert (result.state, result.warnings) == ("complete", ())
        path = str(server.value("select pg_relation_filepath('big')"))
        assert (server.pgdata / f"{path}.1").exists()
        assert cycle.differing_files(result.label) == []
        cycle.assert_restores()
