"""What `wal push` stores, refuses, keeps apart; with the WAL of real servers."""

import random
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from pgrecall.clock import SystemClock
from pgrecall.domain.wal import WalSegment
from pgrecall.errors import StorageError, WalConflict, WalForked, WalInvalid, WalNameInvalid, WrongCluster
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from pgrecall.repository.envelope import ObjectType
from pgrecall.repository.layout import wal_name
from pgrecall.services.archive.events import find_restore_point, tablespaces_created
from pgrecall.services.archive.push import Outcome, push_wal
from pgrecall.services.archive.segment import read_raw
from tests.conftest import NewServer
from tests.support.archive import Archive, archiving, fill, wait_archived

SMALL = InitOptions(wal_segment_bytes=1 << 20)
KEEP = {"archive_mode": "on", "archive_command": "false", "max_wal_size": "10GB", "wal_level": "replica"}

pytestmark = pytest.mark.newest


@pytest.fixture
def server(new_server: NewServer) -> ScratchServer:
    """Small segments that stay in pg_wal."""
    return new_server(options=SMALL, settings=KEEP)


@pytest.fixture
def archive(server: ScratchServer, tmp_path: Path) -> Archive:
    return Archive.of(server, tmp_path / "home")


def test_a_pushed_segment_reads_back_byte_for_byte_with_its_commit_times(
    server: ScratchServer, archive: Archive
) -> None:
    (name,) = fill(server)
    result = archive.push(server, name)
    assert (result.outcome, result.raw_bytes) == (Outcome.STORED, 1 << 20)
    reader = archive.store.read(ObjectType.WAL, wal_name(archive.system_identifier, name))
    assert read_raw(reader) == (server.pgdata / "pg_wal" / name).read_bytes()
    inventory = archive.inventory()
    (facts,) = inventory.facts([WalSegment.parse(name, 1 << 20)])
    assert facts.last_commit is not None
    assert abs((facts.last_commit - SystemClock().now()).total_seconds()) < 60
    owner = inventory.owner(1)
    assert owner is not None
    assert facts.writer == owner.writer


@pytest.mark.parametrize("sealed", [True, False])
def test_the_same_segment_again_is_a_success_although_its_sealed_bytes_differ(
    server: ScratchServer, tmp_path: Path, sealed: bool
) -> None:
    archive = Archive.of(server, tmp_path / "other", sealed=sealed)
    (name,) = fill(server)
    archive.push(server, name)
    before = archive.object_path(name).read_bytes()
    assert archive.push(server, name).outcome is Outcome.ALREADY
    assert archive.push(server, name, host="another").outcome is Outcome.ALREADY
    assert archive.object_path(name).read_bytes() == before


def test_neighbours_are_linked_and_restore_points_and_tablespaces_noticed(
    server: ScratchServer, archive: Archive, tmp_path: Path
) -> None:
    place = tmp_path / "space"
    place.mkdir()
    fill(server)
    server.execute(f"create tablespace extra location '{place}'", "select pg_create_restore_point('before deploy')")
    names = fill(server, 3)
    results = [archive.push(server, name) for name in names]
    assert any(str(place) in note for result in results for note in result.notes)
    inventory = archive.inventory()
    segments = [WalSegment.parse(name, 1 << 20) for name in names]
    first, second, third = inventory.facts(segments)
    assert second.continues(first)
    assert third.continues(second)
    assert [each.path for each in tablespaces_created(inventory, segments)] == [str(place)]
    assert [point.name for point in find_restore_point(inventory, "before deploy", 1)] == ["before deploy"]
    assert find_restore_point(inventory, "other", 1) == []


def test_other_bytes_from_the_owner_are_kept_as_evidence_and_fail(server: ScratchServer, archive: Archive) -> None:
    (name,) = fill(server)
    archive.push(server, name)
    file = server.pgdata / "pg_wal" / name
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    for _ in range(2):  # PostgreSQL tries again and again
        with pytest.raises(WalConflict, match="stored with other bytes"):
            archive.push(server, name)
    (fork,) = archive.inventory().forks()
    assert fork.files == (name,)
    assert archive.inventory().has(WalSegment.parse(name, 1 << 20))


def copied(server: ScratchServer, new_server: NewServer, tmp_path: Path, name: str) -> ScratchServer:
    """A second server with the same past: its data directory copied while the first is down."""
    server.stop()
    shutil.copytree(server.pgdata, tmp_path / "copy-source", symlinks=True)
    server.start()
    twin = new_server(name, options=SMALL, settings=KEEP, start=False)
    shutil.rmtree(twin.pgdata)
    shutil.move(tmp_path / "copy-source", twin.pgdata)
    return twin.start()


def test_a_copied_server_that_goes_its_own_way_does_not_stop_the_owner(
    server: ScratchServer, archive: Archive, new_server: NewServer, tmp_path: Path
) -> None:
    archive.push(server, *fill(server))
    twin = copied(server, new_server, tmp_path, "twin")
    ours, theirs = fill(server, 2), fill(twin, 3, table="diverged")
    for name in ours:
        archive.push(server, name)
    for name in theirs:  # the last is a name that the owner never sent: it does not continue the owner's WAL
        with pytest.raises(WalForked, match="two servers archive as 'main'"):
            archive.push(twin, name, host="twin")
    inventory = archive.inventory()
    (fork,) = inventory.forks()
    assert set(fork.files) == set(theirs)
    assert not inventory.has(WalSegment.parse(theirs[-1], 1 << 20))
    reader = archive.store.read(ObjectType.WAL, wal_name(archive.system_identifier, ours[0]))
    assert read_raw(reader) == (server.pgdata / "pg_wal" / ours[0]).read_bytes()
    # The same data directory path and state directory do not make it the owner: the inode is another one.
    assert server.pgdata.stat().st_ino != twin.pgdata.stat().st_ino


def test_a_server_that_lost_its_token_goes_on_because_its_wal_continues(
    server: ScratchServer, archive: Archive
) -> None:
    names = fill(server, 3)
    archive.push(server, names[0])
    shutil.rmtree(archive.home / "state-host")
    assert [archive.push(server, name).outcome for name in names] == [Outcome.ALREADY, Outcome.STORED, Outcome.STORED]
    assert archive.inventory().forks() == []


def test_a_server_in_recovery_archives_but_claims_nothing(server: ScratchServer, archive: Archive) -> None:
    """archive_mode=always on a standby: whoever is first, the timeline is the primary's."""
    first, second = fill(server, 2)
    signal_file = server.pgdata / "standby.signal"
    signal_file.touch()
    assert archive.push(server, first, host="standby").outcome is Outcome.STORED
    assert archive.inventory().owner(1) is None
    signal_file.unlink()
    assert archive.push(server, first).outcome is Outcome.ALREADY
    assert archive.push(server, second).outcome is Outcome.STORED
    assert archive.inventory().owner(1) is not None


def test_a_gap_before_it_proves_nothing_so_a_stranger_s_segment_is_kept_apart(
    server: ScratchServer, archive: Archive
) -> None:
    names = fill(server, 3)
    archive.push(server, names[0])
    with pytest.raises(WalForked):
        archive.push(server, names[2], host="stranger")
    assert archive.push(server, names[2]).outcome is Outcome.STORED


def test_a_segment_of_another_cluster_is_refused(
    server: ScratchServer, archive: Archive, new_server: NewServer
) -> None:
    other = new_server("other", options=SMALL, settings=KEEP, own_identity=True)
    (name,) = fill(other)
    with pytest.raises(WrongCluster, match="'main' is"):
        archive.push(other, name)
    shutil.copy(other.pgdata / "pg_wal" / name, server.pgdata / "pg_wal" / name)
    with pytest.raises(WrongCluster, match="belongs to system"):
        archive.push(server, name)
    assert archive.inventory().segments == 0


def test_a_file_that_is_not_what_its_name_says_is_refused(server: ScratchServer, archive: Archive) -> None:
    name, _ = fill(server, 2)
    pg_wal = server.pgdata / "pg_wal"
    (pg_wal / "0000000100000000000000EE").write_bytes((pg_wal / name).read_bytes())
    (pg_wal / "0000000100000000000000EF").write_bytes(bytes(1 << 20))
    cut = f"{name[:-1]}0" if name[-1] != "0" else name
    for wrong in ("0000000100000000000000EE", "0000000100000000000000EF"):
        with pytest.raises(WalInvalid):
            archive.push(server, wrong)
    (pg_wal / name).write_bytes((pg_wal / name).read_bytes()[: 512 << 10])
    with pytest.raises(WalInvalid, match="bytes"):
        archive.push(server, name)
    (pg_wal / "notes.txt").write_bytes(b"hello")
    with pytest.raises(WalNameInvalid):
        archive.push(server, "notes.txt")
    assert archive.inventory().segments == 0, cut


def test_nothing_is_stored_where_the_repository_is_not_mounted(server: ScratchServer, archive: Archive) -> None:
    (name,) = fill(server)
    shutil.move(archive.home / "repository", archive.home / "away")
    with pytest.raises(StorageError):
        archive.push(server, name)
    status = archive.run(f"wal push pg_wal/{name}", cwd=server.pgdata).returncode
    assert 0 < status <= 125
    assert not (archive.home / "repository").exists()


def test_partial_and_backup_files_are_stored_under_their_own_names(server: ScratchServer, archive: Archive) -> None:
    (name,) = fill(server)
    pg_wal = server.pgdata / "pg_wal"
    (pg_wal / f"{name}.partial").write_bytes((pg_wal / name).read_bytes())
    (pg_wal / f"{name}.00000028.backup").write_text("START WAL LOCATION: …\n")
    for file in (f"{name}.partial", f"{name}.00000028.backup"):
        assert archive.push(server, file).outcome is Outcome.STORED
        assert archive.push(server, file).outcome is Outcome.ALREADY
    inventory = archive.inventory()
    assert inventory.segments == 0
    assert inventory.partials() == [f"{name}.partial"]


def test_a_timeline_number_that_two_histories_claim_goes_to_the_first(server: ScratchServer, archive: Archive) -> None:
    pg_wal = server.pgdata / "pg_wal"
    history = pg_wal / "00000002.history"
    history.write_text("1\t0/3000158\tno recovery target specified\n")
    assert archive.push(server, history.name).outcome is Outcome.STORED
    assert archive.push(server, history.name, host="standby").outcome is Outcome.ALREADY
    history.write_text("1\t0/4000158\tno recovery target specified\n")
    with pytest.raises(WalConflict, match="timeline 2 is taken"):
        archive.push(server, history.name, host="other")
    found = archive.inventory().history(2)
    assert found is not None
    assert str(found.switch_point(1)) == "0/3000158"


def test_the_server_archives_by_itself_and_a_push_says_what_it_cost(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server(options=SMALL, start=False)
    archive = Archive.of(server, tmp_path / "home")
    server.settings.update(archiving(archive.command("wal push %p")))
    server.start()
    names = fill(server, 3)
    wait_archived(server, names[-1])
    assert all(archive.inventory().has(WalSegment.parse(name, 1 << 20)) for name in names)
    said = archive.run(f"wal push -v pg_wal/{names[-1]}", cwd=server.pgdata)
    assert said.returncode == 0, said.stderr
    assert " ms, " in said.stderr
    assert "already stored" in said.stderr


def push_through_kills(server: ScratchServer, archive: Archive, seeds: range) -> None:
    """Each seed: its own segment and its own token, killed at a random moment; then tried again."""
    rng = random.Random(seeds.start)
    names = fill(server, len(seeds))
    for seed, name in zip(seeds, names, strict=True):
        if seed % 3 == 0:
            shutil.rmtree(archive.home / "state-host", ignore_errors=True)
        command = archive.command(f"wal push pg_wal/{name}")
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec env {command}"], cwd=server.pgdata, stderr=subprocess.DEVNULL
        )
        SystemClock().sleep(rng.uniform(0.05, 0.5))
        process.kill()
        process.wait()
        assert archive.run(f"wal push pg_wal/{name}", cwd=server.pgdata).returncode == 0, seed
        reader = archive.store.read(ObjectType.WAL, wal_name(archive.system_identifier, name))
        assert read_raw(reader) == (server.pgdata / "pg_wal" / name).read_bytes(), seed
    inventory = archive.inventory()
    assert inventory.forks() == []
    facts = inventory.facts([WalSegment.parse(name, 1 << 20) for name in names])
    assert all(after.continues(before) for before, after in pairwise(facts))


def test_a_push_killed_at_any_moment_succeeds_when_it_is_tried_again(server: ScratchServer, archive: Archive) -> None:
    push_through_kills(server, archive, range(10))


@pytest.mark.slow
def test_fifty_kills_of_a_push_leave_a_whole_archive(server: ScratchServer, archive: Archive) -> None:
    push_through_kills(server, archive, range(100, 150))


def test_an_upgraded_server_is_not_blocked_before_somebody_accepts_it(server: ScratchServer, archive: Archive) -> None:
    (name,) = fill(server)
    older = {1: archive.major - 1}
    result = push_wal(
        archive.store, server.pgdata / "pg_wal" / name, pgdata=server.pgdata, state_dir=archive.home / "state",
        systems=lambda: older, clock=archive.clock,
    )  # fmt: skip
    assert result.outcome is Outcome.STORED
    assert any("--new-identity" in warning for warning in result.warnings)
