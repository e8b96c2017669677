"""The workload that other tests stand on: every statement runs on every version, and a seed says it all."""

import threading
import time
from pathlib import Path

import pytest

from pgrecall.postgres.scratch import ScratchServer
from tests.conftest import NewServer
from tests.support.cluster import table_fingerprints
from tests.support.workload import Workload


def test_every_kind_of_step_runs_and_what_was_committed_survives_a_crash(pg: ScratchServer, tmp_path: Path) -> None:
    work = Workload(pg, seed=7, tablespaces=tmp_path / "spaces").run(150)
    for words in ("create database", "drop database", "tablespace", "vacuum full", "unlogged", "truncate", "file_copy"):
        assert any(words in statement for statement in work.done), words
    before = table_fingerprints(pg)
    assert len(before) > 5
    pg.crash()
    pg.start()
    assert table_fingerprints(pg) == before


@pytest.mark.newest
def test_one_seed_makes_one_content(new_server: NewServer, tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        server = new_server(name)
        Workload(server, seed=11, tablespaces=tmp_path / f"spaces-{name}").run(60)
        contents.append(table_fingerprints(server))
    assert contents[0] == contents[1]


@pytest.mark.newest
def test_the_workload_runs_beside_the_test_and_its_failure_is_raised(pg: ScratchServer) -> None:
    work = Workload(pg, seed=3)
    with work.running():
        while len(work.done) < 30:
            pg.value("select 1")
    with pytest.raises(AssertionError, match="workload with seed 3 failed"), work.running():
        pg.crash()
        while any(thread.name == "workload 3" for thread in threading.enumerate()):
            time.sleep(0.01)
