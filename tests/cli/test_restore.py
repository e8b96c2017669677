"""`pgrecall restore` as it is typed: the plan it shows, what it refuses, and a result that starts as it says."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pgrecall.postgres.conffile import read_configuration
from pgrecall.services.init.local import program_words
from pgrecall.services.init.server import archive_command
from tests.conftest import NewServer
from tests.support.archive import SOURCE
from tests.support.recovery import Protected

pytestmark = pytest.mark.newest


class Pgrecall:
    """The program as a user calls it."""

    def __init__(self, config: Path) -> None:
        self.config = config

    def __call__(self, *argv: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "pgrecall", "--config", str(self.config), *argv]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {**inherited, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1", "TZ": "Europe/Berlin"}


@pytest.fixture
def protected(new_server: NewServer, tmp_path: Path) -> Protected:
    made = Protected.start(new_server, tmp_path / "home")
    made.server.execute("create table t (n int)", "insert into t values (1)")
    made.backup()
    made.server.execute("insert into t values (2)")
    made.switch()
    return made


@pytest.fixture
def pgrecall(protected: Protected) -> Pgrecall:
    return Pgrecall(protected.archive.config)


def test_a_dry_run_shows_the_plan_and_writes_nothing(protected: Protected, pgrecall: Pgrecall, tmp_path: Path) -> None:
    before = protected.objects()
    shown = pgrecall("restore", "--to", str(tmp_path / "copy"), "--dry-run")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == [
        "Target", "Backup", "Read", "To", "Archiving", "Blockers",
    ]  # fmt: skip
    assert "reachable: timeline 1, WAL" in lines[0]
    assert lines[-2].endswith("OFF in what is restored; a new primary says so: --become main")
    assert lines[-1] == "Blockers   none. Nothing was written."
    assert not (tmp_path / "copy").exists()
    assert protected.objects() == before
    data = json.loads(pgrecall("restore", "--to", str(tmp_path / "copy"), "--dry-run", "--json").stdout)
    assert data["schema"] == "pgrecall.restore-plan/1"
    assert data["data"]["blockers"] == []
    assert data["data"]["files"] > 500


def test_the_dry_run_names_what_stands_against_it_and_ends_with_its_status(
    protected: Protected, pgrecall: Pgrecall
) -> None:
    shown = pgrecall("restore", "--to", str(protected.server.pgdata), "--dry-run")
    assert shown.returncode == 4
    assert "[dest-running]" in shown.stdout
    told = json.loads(pgrecall("restore", "--to", str(protected.server.pgdata), "--dry-run", "--json").stdout)
    (blocker,) = [each for each in told["data"]["blockers"] if each["code"] == "dest-running"]
    assert blocker.keys() == {"code", "message", "hint", "facts"}
    refused = pgrecall("restore", "--to", str(protected.server.pgdata))
    assert refused.returncode == 4
    assert f"(pid {protected.server.pid})" in refused.stderr


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["--to", "2026-11-20 14:05:00+01:00"], 2, '--at "2026-11-20 14:05:00+01:00"'),
        (["--to", "20m-ago"], 2, '--at "20m-ago"'),
        (["--to", "x", "--at", "/srv/pg/rescue"], 2, "--to /srv/pg/rescue"),
        (["--to", "x", "--at", "2026-11-20 14:05:00"], 2, "+01:00"),
        (["--to", "x", "--at", "latest", "--target-xid", "9"], 2, "several recovery targets"),
        (["--to", "x", "--at", "2001-01-01 00:00:00Z"], 5, "consistent only from"),
        (["--to", "x", "--from", "19990101"], 5, "there is no backup '19990101'"),
        (["--to", "x", "--tablespace", "5=/new"], 2, "no tablespace '5'"),
        (["--to", "x", "--become", "other"], 2, "other"),
        (["--to", "x", "--timeline", "9"], 5, "9"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_meant_is_refused_with_what_could_be(
    pgrecall: Pgrecall, argv: list[str], status: int, said: str
) -> None:
    refused = pgrecall("restore", *argv)
    assert refused.returncode == status, refused.stderr
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_was_restored_starts_with_the_command_that_is_printed(
    protected: Protected, pgrecall: Pgrecall, tmp_path: Path
) -> None:
    (protected.server.pgdata / "postgresql.conf").open("a").write(f"unix_socket_directories = '{tmp_path}'\n")
    protected.backup()
    protected.server.execute("insert into t values (3)")
    protected.switch()
    done = pgrecall("restore", "cluster", "--to", str(tmp_path / "copy"), "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert "This is a CLONE: archiving is OFF. Were it the new primary: --become main" in done.stdout
    told = {line[:11].strip(): line[11:].strip() for line in done.stdout.splitlines()}
    words = shlex.split(told["Start it"])
    assert words[1:3] == ["-D", str(tmp_path / "copy")]
    assert "-c hot_standby=off" in words[words.index("-o") + 1]
    assert str(tmp_path / "copy/startup.log") in told["Progress"]
    waiting = shlex.split(told["Then wait"])
    port = waiting[waiting.index("-p") + 1]
    try:
        started = subprocess.run(words, capture_output=True, text=True, check=False, env=pgrecall.environment)
        assert started.returncode == 0, started.stdout + (tmp_path / "copy/startup.log").read_text()
        psql = [
            str(protected.server.binaries.program("psql")),
            "-XAtq",
            "-h",
            str(tmp_path),
            "-p",
            port,
            "-U",
            "postgres",
        ]
        waited = subprocess.run(
            ["/bin/sh", "-c", told["Then wait"]], capture_output=True, text=True, check=False, env=pgrecall.environment
        )
        assert "accepting connections" in waited.stdout, waited.stderr
        answer = subprocess.run(
            [*psql, "-c", "select array_agg(n order by n) from t", "-c", "show archive_mode"],
            capture_output=True, text=True, check=False, env=pgrecall.environment,
        )  # fmt: skip
        assert answer.stdout.split() == ["{1,2,3}", "off"], answer.stderr
    finally:
        stop = [words[0], "-D", str(tmp_path / "copy"), "-m", "immediate", "stop"]
        subprocess.run(stop, capture_output=True, check=False, env=pgrecall.environment)


def test_a_successor_archives_by_the_very_command_that_init_writes(
    protected: Protected, pgrecall: Pgrecall, tmp_path: Path
) -> None:
    with (protected.server.pgdata / "postgresql.conf").open("a") as settings:
        settings.write("archive_mode = on\narchive_command = 'pgrecall wal push %p'\n")
    protected.backup()
    done = pgrecall("restore", "--to", str(tmp_path / "next"), "--become", "main")
    assert done.returncode == 0, done.stderr
    found = read_configuration(tmp_path / "next").value("archive_command")
    assert found == archive_command(program_words(), protected.archive.config, "main")
