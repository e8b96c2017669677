"""Increments against real servers: what a page's LSN does not show must not be taken from the parent."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgrecall.domain.label import BackupKind
from pgrecall.postgres.scratch import InitOptions
from tests.conftest import NewServer, OpenServer
from tests.support.whole_cycle import Cycle
from tests.support.workload import Workload

NO_CHECKSUMS = InitOptions(checksums=False, wal_segment_bytes=1 << 20)
INDEX_ONLY = ("set enable_seqscan = off", "set enable_bitmapscan = off", "set enable_indexscan = off")
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
    for _ in range(3):
        server.execute(points.format(50), "checkpoint")
        result = cycle.backup()
        assert result.label.kind is BackupKind.INCR
        assert "page LSNs show" in result.why[-1]
        assert result.warnings == ()
        assert cycle.differing_files(result.label) == []
    after = index.read_bytes()[:8192]
    assert after[:8] == before[:8], "its LSN"
    assert after != before


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


@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "plain"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.newest
def test_every_increment_of_a_changing_cluster_holds_the_very_files(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path, seed: int, checksums: bool
) -> None:
    options = InitOptions(checksums=checksums, wal_segment_bytes=1 << 20)
    with Cycle.running(new_server, open_server, tmp_path, options=options, sealed=bool(seed)) as cycle:
        workload = Workload(cycle.server, seed)
        for round_number in range(6):
            workload.run(25)
            cycle.server.execute("checkpoint")
            result = cycle.backup(cycle.request(jobs=1 + round_number % 3))
            assert result.warnings == ()
            assert cycle.differing_files(result.label) == [], f"seed {seed}, round {round_number}: {result}"
