"""Where a restore may go: nothing that is there is ever written over, and what was left unfinished is cleaned up."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgrecall.errors import (
    Busy,
    DestinationFull,
    DestinationNotEmpty,
    DestinationRunning,
    DestinationTooSmall,
    ObjectDamaged,
    Refused,
)
from pgrecall.observe.reporter import Silent
from pgrecall.services.restore.destination import MARKER_NAME, Destination, Made, claim, inspect_destination
from tests.conftest import NewServer, OpenServer
from tests.support.archive import SOURCE
from tests.support.cluster import table_fingerprints
from tests.support.recovery import Protected

pytestmark = pytest.mark.newest


def test_an_absent_and_an_empty_directory_are_welcome(tmp_path: Path) -> None:
    assert inspect_destination(tmp_path / "new") == Destination(tmp_path / "new", exists=False)
    assert inspect_destination(tmp_path) == Destination(tmp_path, exists=True)


def test_a_directory_with_anything_in_it_is_refused_with_another_place_named(tmp_path: Path) -> None:
    (tmp_path / "letter").touch()
    with pytest.raises(DestinationNotEmpty, match="not empty") as refusal:
        inspect_destination(tmp_path)
    assert refusal.value.hint == f"--to {tmp_path}/rescue"
    (tmp_path / "PG_VERSION").touch()
    with pytest.raises(DestinationNotEmpty, match="a PostgreSQL data directory"):
        inspect_destination(tmp_path)


def test_a_directory_with_postmaster_pid_is_refused_also_when_that_process_cannot_be_seen(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text("4194999\n/elsewhere\n")
    with pytest.raises(DestinationRunning, match="pid 4194999"):
        inspect_destination(tmp_path)


def test_a_directory_inside_a_cluster_is_refused(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").touch()
    with pytest.raises(Refused, match="inside the data directory"):
        inspect_destination(tmp_path / "base" / "rescue")


def test_a_file_and_a_broken_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(Refused):
            inspect_destination(tmp_path / name)


def unfinished(path: Path, *entries: str) -> Made:
    made = Made("20261120T010003Z-full", True, entries)
    path.mkdir()
    (path / MARKER_NAME).write_bytes(made.to_json())
    return made


def test_what_an_unfinished_restore_left_is_wiped_and_nothing_else(tmp_path: Path) -> None:
    path, space = tmp_path / "copy", tmp_path / "space"
    made = Made("20261120T010003Z-full", True, ("base", "PG_VERSION"), {str(space): ("PG_17_2024", False)})
    path.mkdir()
    (path / MARKER_NAME).write_bytes(made.to_json())
    (path / "base" / "1").mkdir(parents=True)
    (path / "base" / "1" / "link").symlink_to(tmp_path)
    (space / "PG_17_2024").mkdir(parents=True)
    (space / "PG_16_2023").mkdir()
    found = inspect_destination(path)
    assert found.unfinished == made
    with claim(found, made):
        assert [each.name for each in path.iterdir()] == [MARKER_NAME]
    assert [each.name for each in space.iterdir()] == ["PG_16_2023"]


def test_an_unfinished_restore_with_foreign_files_is_not_wiped(tmp_path: Path) -> None:
    unfinished(tmp_path / "copy", "base")
    (tmp_path / "copy" / "thesis.tex").touch()
    with pytest.raises(DestinationNotEmpty, match=r"thesis\.tex"):
        inspect_destination(tmp_path / "copy")


def test_a_restore_that_was_whole_but_for_its_marker_is_not_wiped(tmp_path: Path) -> None:
    unfinished(tmp_path / "copy", "global")
    (tmp_path / "copy" / "global").mkdir()
    (tmp_path / "copy" / "global" / "pg_control").touch()
    with pytest.raises(DestinationNotEmpty, match="its data is complete"):
        inspect_destination(tmp_path / "copy")


def test_two_restores_into_one_directory_do_not_meet(tmp_path: Path) -> None:
    made = unfinished(tmp_path / "copy", "base")
    with (tmp_path / "copy" / MARKER_NAME).open() as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        with pytest.raises(Busy), claim(inspect_destination(tmp_path / "copy"), made):
            pass


def test_a_directory_filled_after_the_plan_is_refused(tmp_path: Path) -> None:
    found = inspect_destination(tmp_path / "copy")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "letter").touch()
    with pytest.raises((DestinationNotEmpty, FileExistsError)), claim(found, Made("x", True, ())):
        pass
    assert (tmp_path / "copy" / "letter").exists()


# With a backup


@pytest.fixture
def protected(new_server: NewServer, tmp_path: Path) -> Protected:
    made = Protected.start(new_server, tmp_path / "home")
    made.server.execute("create table t as select n, repeat(md5(n::text), 20) from generate_series(1, 20000) n")
    made.backup()
    made.switch()
    return made


def restore_process(protected: Protected, destination: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "pgrecall", "--config", str(protected.archive.config), "restore", "-c", "main"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [*argv, "--to", str(destination)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 30))])
def test_a_killed_restore_cannot_start_and_the_next_one_cleans_up(
    protected: Protected, tmp_path: Path, open_server: OpenServer, seed: int
) -> None:
    copy = tmp_path / "copy"
    process = restore_process(protected, copy)
    wanted = (1, 8, 40, 300)[seed] if seed < 4 else random.Random(seed).randrange(1000)
    while process.poll() is None and (not copy.exists() or sum(1 for _ in copy.rglob("*")) < wanted):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (copy / MARKER_NAME).exists():
        assert not (copy / "global" / "pg_control").exists()
        protected.restore(protected.plan(copy))
    else:
        assert (copy / "global" / "pg_control").exists(), "neither unfinished nor whole"
    server = open_server(copy, isolated=True).start()
    server.wait_promoted()
    assert table_fingerprints(server) == table_fingerprints(protected.server)
    assert not (copy / MARKER_NAME).exists()


def test_a_destination_that_is_too_small_is_refused_before_anything_is_written(
    protected: Protected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgrecall.services.restore.space.free_bytes", lambda _: 1_000_000)
    plan = protected.plan(tmp_path / "copy")
    assert [each.code for each in plan.blockers] == ["dest-too-small"]
    with pytest.raises(DestinationTooSmall, match="are needed"):
        protected.restore(plan)
    assert not (tmp_path / "copy").exists()


def test_a_disk_that_fills_up_is_one_clear_error_and_nothing_there_can_start(
    protected: Protected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    whole = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        nonlocal written
        written += len(data)
        if written > 5_000_000:
            raise OSError(28, os.strerror(28))
        return whole(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(DestinationFull, match="is full") as error:
            protected.restore(protected.plan(tmp_path / "copy"))
    assert "run the same restore again" in (error.value.hint or "")
    assert not (tmp_path / "copy" / "global" / "pg_control").exists()
    protected.restore(protected.plan(tmp_path / "copy"))


def test_damage_in_the_repository_stops_the_restore_by_name_and_leaves_nothing_that_starts(
    protected: Protected, tmp_path: Path
) -> None:
    packs = sorted((protected.archive.home / "repository/clusters/main/packs").rglob("0*"))
    victim = max(packs, key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.chmod(0o600)
    victim.write_bytes(data)
    with pytest.raises(ObjectDamaged) as error:
        protected.restore(protected.plan(tmp_path / "copy"), reporter=Silent())
    assert victim.parent.name in str(error.value.facts.get("object", error.value.message))
    assert not (tmp_path / "copy" / "global" / "pg_control").exists()
