"""kill -9 at any write of a backup: the next run needs no repair, the catalog is honest, the next backup is whole."""

import random
from pathlib import Path

import pytest

from pgrecall.repository.catalog import BackupState, Catalog
from tests.conftest import NewServer, OpenServer
from tests.support.killing import run_killed
from tests.support.whole_cycle import Cycle


def kill_backups(cycle: Cycle, seeds: range, scratch: Path) -> None:
    server = cycle.server
    environment = server.client_environment()
    server.run("pgbench", "-i", "-q", "-s", "1")
    arguments = ("--config", str(cycle.config), "backup", "--full")
    whole = run_killed(arguments, at_write=0, scratch=scratch, environment=environment)
    assert whole.status == 0 and whole.writes, whole.stderr
    killed: list[BackupState] = []
    for seed in seeds:
        server.run("pgbench", "-n", "-t", "20", "-c", "2")
        server.execute("vacuum pgbench_branches", "checkpoint")
        before = cycle.states()
        choice = random.Random(seed).randint(1, whole.writes)
        ended = run_killed(arguments[:-1], at_write=choice, scratch=scratch, environment=environment)
        assert ended.killed or ended.status == 0, f"seed {seed}: {ended}"
        new = {label: state for label, state in cycle.states().items() if label not in before}
        assert len(new) <= 1
        if ended.killed:
            killed += new.values()
        result = cycle.backup()
        assert (result.state, result.warnings) == ("complete", ()), f"seed {seed}"
        assert cycle.differing_files(result.label) == [], f"seed {seed}, killed at write {choice}"
        for record in Catalog(cycle.store).backups():
            # Killed behind the manifest: its files are all there, its last segment may still be on the way.
            waits = record.state is BackupState.STORED and record.commit is None
            honest = waits or record.state in (BackupState.UNFINISHED, BackupState.COMPLETE)
            assert honest or record.label not in new, f"seed {seed}, killed at write {choice}: {record} {ended}"
    assert BackupState.UNFINISHED in killed, "no seed hit the copy"
    cycle.switch()
    cycle.backup()
    waiting = [each for each in Catalog(cycle.store).backups() if each.state is BackupState.STORED]
    assert waiting == [], "a later backup finishes what only waited for its WAL"
    cycle.assert_restores()


@pytest.mark.newest
def test_ten_killed_backups_need_no_repair(new_server: NewServer, open_server: OpenServer, tmp_path: Path) -> None:
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        kill_backups(cycle, range(10), tmp_path)


@pytest.mark.slow
@pytest.mark.newest
def test_fifty_killed_backups_need_no_repair(new_server: NewServer, open_server: OpenServer, tmp_path: Path) -> None:
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        kill_backups(cycle, range(100, 150), tmp_path)
