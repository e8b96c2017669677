"""On a real server: verify finds damage after a backup, and the next backup heals what the server still has."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgrecall.domain.label import BackupLabel
from pgrecall.observe.reporter import Silent
from pgrecall.repository.catalog import Catalog
from pgrecall.repository.layout import pack_name
from pgrecall.services.verify.report import Kind, VerifyReport
from pgrecall.services.verify.run import VerifyRequest, verify
from tests.conftest import NewServer, OpenServer
from tests.support.archive import SOURCE
from tests.support.cluster import table_fingerprints
from tests.support.recovery import Protected

pytestmark = pytest.mark.newest


@pytest.fixture
def protected(new_server: NewServer, tmp_path: Path) -> Protected:
    made = Protected.start(new_server, tmp_path / "home")
    made.server.execute(
        "create table t as select n, md5(n::text) note from generate_series(1, 60000) n",
        "create index on t (n)",
    )
    made.backup()
    made.server.execute("update t set note = 'changed' where n % 5000 = 0", "vacuum t")
    made.backup()
    made.switch()
    return made


def look(protected: Protected, **request: Any) -> VerifyReport:
    return verify(VerifyRequest(**request), protected.archive.store, clock=protected.clock, reporter=Silent())


def pgrecall(protected: Protected, *argv: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pgrecall", "--config", str(protected.archive.config), *argv]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment = {**inherited, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def flip(protected: Protected, name: str, at: int) -> None:
    path = protected.archive.home / "repository/clusters/main" / name
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0x10
    path.chmod(0o600)
    path.write_bytes(data)


def packs_of_newest(protected: Protected) -> list[str]:
    """Names of the packs of the first run that the newest backup needs."""
    records = Catalog(protected.archive.store).restorable()
    commit = records[-1].commit
    assert commit is not None
    first = records[0].label
    return [pack_name(BackupLabel.from_number(run), seq) for run, seq in commit.live if run == first.number]


def test_a_server_s_repository_is_read_and_proven_as_the_user_types_it(protected: Protected) -> None:
    shown = pgrecall(protected, "verify")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "authentic" in shown.stdout
    answer = json.loads(pgrecall(protected, "verify", "latest", "--json", "-q").stdout)
    assert answer["schema"] == "pgrecall.verify/1"
    data = answer["data"]
    assert data["verdict"] == "well" and data["backups"][0]["proven_bytes"] == data["backups"][0]["bytes"]
    assert pgrecall(protected, "verify", "--sample", "half").returncode == 2
    assert pgrecall(protected, "verify", "2001").returncode == 5


def test_a_flipped_bit_is_named_and_the_next_backup_heals_it(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    for name in packs_of_newest(protected):
        flip(protected, name, 5000)
    shown = pgrecall(protected, "verify", "--dry-run")
    assert shown.returncode == 9, shown.stdout + shown.stderr
    assert not list(protected.archive.store.list("bad/"))
    shown = pgrecall(protected, "verify", "--json")
    assert shown.returncode == 9
    data = json.loads(shown.stdout)["data"]
    assert {each["object"] for each in data["findings"]} == set(packs_of_newest(protected)) == set(data["marked"])
    assert all(each["lost_files"] for each in data["backups"])

    healed = protected.backup()
    assert healed.parent is not None
    protected.switch()
    report = look(protected, label=str(healed.label))
    assert report.verdict is None and report.backups[0].readable, report.findings
    whole = look(protected)
    assert whole.verdict is Kind.DAMAGED
    assert [each.label for each in whole.backups if each.readable] == [healed.label]

    before = table_fingerprints(protected.server)
    copy = tmp_path / "copy"
    protected.restore(protected.plan(copy))
    server = open_server(copy, isolated=False).start()
    server.wait_promoted()
    assert table_fingerprints(server) == before


def test_every_pack_but_the_newest_run_s_may_be_lost_and_the_next_backup_is_whole(protected: Protected) -> None:
    names = packs_of_newest(protected)
    for name in names:
        (protected.archive.home / "repository/clusters/main" / name).unlink()
    report = look(protected)
    assert {each.object for each in report.of(Kind.MISSING)} == set(names) == set(report.marked)
    healed = protected.backup()
    assert look(protected, label=str(healed.label)).verdict is None
