"""Recovery settings are complete, win over everything inherited, and make real servers stop where they should."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from pathlib import Path

import pytest

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.target import (
    AtLsn,
    AtRestorePoint,
    AtTime,
    AtXid,
    EndOfArchive,
    Immediate,
    RecoveryTarget,
)
from pgrecall.postgres.binaries import Binaries
from pgrecall.postgres.conffile import AUTO_CONF, ConfFile, ConfTree, Located, read_configuration
from pgrecall.postgres.recovery_settings import (
    RECOVERY_SIGNAL,
    STANDBY_SIGNAL,
    RecoveryAction,
    RecoverySettings,
    archive_command,
    archives_by,
    missing_parameters,
    preloads,
    restore_command,
    write_recovery_block,
)
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from tests.conftest import OpenServer
from tests.support.cluster import QUICK_SETTINGS, Templates


def settings(target: RecoveryTarget, *, inclusive: bool = True, **more: object) -> RecoverySettings:
    values: dict[str, object] = {
        "timeline": 1,
        "action": RecoveryAction.PROMOTE,
        "restore_command": "/bin/false",
        **more,
    }
    return RecoverySettings(target=target, inclusive=inclusive, **values)  # type: ignore[arg-type]


def text_of(wanted: RecoverySettings) -> str:
    return b"\n".join(wanted.lines()).decode()


def test_the_other_four_targets_are_emptied_before_ours_is_set() -> None:
    names = [name for name, _ in settings(AtXid(7341)).settings()]
    assert names.index("recovery_target_xid") == 4
    assert sorted(names[:4]) == [
        "recovery_target",
        "recovery_target_lsn",
        "recovery_target_name",
        "recovery_target_time",
    ]


def test_timeline_inclusive_and_action_are_never_left_to_a_default() -> None:
    text = text_of(settings(EndOfArchive(), inclusive=False, timeline=12, action=RecoveryAction.PAUSE))
    assert "recovery_target_timeline = '12'" in text
    assert "recovery_target_inclusive = 'off'" in text
    assert "recovery_target_action = 'pause'" in text
    assert "hot_standby = 'on'" in text  # a pause without it would shut the server down


def test_a_time_is_written_in_utc_whatever_zone_it_came_in() -> None:
    berlin = datetime(2026, 11, 20, 14, 5, 0, 7, tzinfo=timezone(timedelta(hours=1)))
    assert "recovery_target_time = '2026-11-20 13:05:00.000007+00'" in text_of(settings(AtTime(berlin)))


def test_a_restore_point_with_quotes_cannot_leave_its_value() -> None:
    block = settings(AtRestorePoint("it's\\x'\nport = 1")).lines()
    parsed = ConfFile.parse(b"\n".join(block))
    assert parsed.find("recovery_target_name") == b"it's\\x'\nport = 1"
    assert parsed.find("port") is None


def test_a_clone_archives_nothing_and_a_successor_does() -> None:
    clone = dict(settings(EndOfArchive()).settings())
    assert (clone["archive_mode"], clone["archive_command"], clone["archive_library"]) == ("off", "", "")
    assert clone["max_logical_replication_workers"] == "0"
    successor = dict(settings(EndOfArchive(), archive_command="/usr/bin/pgrecall wal push").settings())
    assert successor["archive_mode"] == "on"
    assert "max_logical_replication_workers" not in successor
    assert "archive_mode" not in dict(settings(EndOfArchive(), archive_command="").settings())


def test_commands_survive_the_shell_and_the_percent_signs_of_postgresql() -> None:
    program = ["/opt/it's 100%/python", "-m", "pgrecall", "--config", "/etc/pg recall.toml"]
    assert restore_command(program, ["-c", "main"]) == (
        """'/opt/it'"'"'s 100%%/python' -m pgrecall --config '/etc/pg recall.toml' wal fetch --absent-status 101 """
        """-c main "%f" "%p"; case $? in 0) exit 0;; 101) exit 1;; *) exit 126;; esac"""
    )
    assert archive_command(["/usr/bin/pgrecall"]) == '/usr/bin/pgrecall wal push "%p"'


def test_inherited_recovery_settings_become_comments_and_an_older_block_goes() -> None:
    inherited = b"work_mem = '8MB'\nrecovery_target_xid = '5'\nprimary_conninfo = 'host=a'\nRestore_Command = 'x'\n"
    once = write_recovery_block(inherited, settings(AtXid(9)))
    twice = write_recovery_block(once, settings(Immediate()))
    conf = ConfFile.parse(twice)
    assert conf.find("work_mem") == b"8MB"
    assert [line.value for line in conf.lines if line.name == "recovery_target"] == [b"immediate"]
    assert [line.value for line in conf.lines if line.name == "recovery_target_xid"] == [b""]
    assert twice.count(b"pgrecall restore: begin") == 1
    assert b"# primary_conninfo = 'host=a'  # inherited" in twice


def test_parameters_that_recovery_needs_are_raised_only_where_the_files_say_less() -> None:
    tree = ConfTree([Located("max_connections", b"50", Path("x"), 1), Located("max_wal_senders", b"20", Path("x"), 2)])
    needed = {
        "max_connections": 200,
        "max_wal_senders": 10,
        "max_worker_processes": 8,
        "max_locks_per_transaction": 128,
    }
    assert missing_parameters(tree, needed) == {"max_connections": 200, "max_locks_per_transaction": 128}


def test_preloaded_libraries_and_archivers_are_found_in_the_inherited_configuration() -> None:
    def tree(**values: bytes) -> ConfTree:
        return ConfTree([Located(name, value, Path("x"), 1) for name, value in values.items()])

    assert preloads(tree(shared_preload_libraries=b'pg_stat_statements, "$libdir/pg_cron"'), "pg_cron")
    assert not preloads(tree(shared_preload_libraries=b"pg_stat_statements"), "pg_cron")
    assert archives_by(tree(archive_mode=b"always", archive_command=b"pgbackrest push")) == "pgbackrest push"
    assert archives_by(tree(archive_mode=b"off", archive_command=b"pgbackrest push")) == ""


# On real servers: {inherited target} × {wanted target} × {where it was inherited}

INHERITED = {
    "time": "recovery_target_time = '2020-01-01 00:00:00+00'\n",
    "lsn": "recovery_target_lsn = '0/1'\n",
    "xid": "recovery_target_xid = '3'\n",
    "name": "recovery_target_name = 'gone'\n",
    "immediate": "recovery_target = 'immediate'\n",
    "none": "",
}
WANTED = ("time", "lsn", "xid", "name", "immediate", "latest")
PLACES = (AUTO_CONF, "postgresql.conf", "include")
EVERYTHING = list(product(INHERITED, WANTED, PLACES))
# Each wanted target with each place, the inherited target running through all of them.
SAMPLE = [
    (list(INHERITED)[(2 * row + column) % 6], wanted, place)
    for row, wanted in enumerate(WANTED)
    for column, place in enumerate(PLACES)
]


@dataclass(frozen=True)
class Recorded:
    """A base backup, its archive, and for each target what must come back."""

    base: Path
    archive: Path
    targets: dict[str, tuple[RecoveryTarget, bool, list[int]]]


@pytest.fixture(scope="module")
def recorded(binaries: Binaries, templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    root = tmp_path_factory.mktemp("recorded")
    archive = root / "archive"
    archive.mkdir()
    templates.copy(binaries, InitOptions(), root / "source")
    archiving = {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
    with ScratchServer(binaries, root / "source", {**QUICK_SETTINGS, **archiving}) as server:
        server.start()
        server.execute("create table t (n int)", "insert into t values (1)")
        base = root / "base"
        server.run("pg_basebackup", "-D", str(base), "-X", "none", "-c", "fast", "--no-sync", "--no-manifest")
        server.execute("insert into t values (2)")
        moment = server.value("select clock_timestamp()")
        server.execute("select pg_sleep(0.01)", "insert into t values (3)")
        lsn = Lsn.parse(server.value("select pg_current_wal_lsn()::text"))
        with server.connect(autocommit=False) as connection:
            connection.execute("insert into t values (4)")
            row = connection.execute("select pg_current_xact_id()::text").fetchone()
            assert row is not None
        server.execute("select pg_create_restore_point('before it''s gone')", "insert into t values (5)")
        server.value("select pg_switch_wal()")
        server.stop()  # waits until everything is archived
    yield Recorded(
        base,
        archive,
        {
            "time": (AtTime(moment.astimezone(UTC)), True, [1, 2]),
            "lsn": (AtLsn(lsn), False, [1, 2, 3]),
            "xid": (AtXid(int(row[0])), False, [1, 2, 3]),
            "name": (AtRestorePoint("before it's gone"), True, [1, 2, 3, 4]),
            "immediate": (Immediate(), True, [1]),
            "latest": (EndOfArchive(), True, [1, 2, 3, 4, 5]),
        },
    )
    shutil.rmtree(root)


def inherit(pgdata: Path, place: str, lines: str) -> None:
    everything = (
        lines + "restore_command = '/bin/false'\nprimary_conninfo = 'host=/nowhere'\nrecovery_min_apply_delay = '1h'\n"
    )
    if place == "include":
        (pgdata / "more.conf").write_text(everything)
        with (pgdata / "postgresql.conf").open("a") as conf:
            conf.write("include 'more.conf'\n")
    else:
        with (pgdata / place).open("a") as conf:
            conf.write(everything)


def recover(recorded: Recorded, pgdata: Path, inherited: str, wanted: str, place: str, open_server: OpenServer) -> None:
    target, inclusive, rows = recorded.targets[wanted]
    shutil.copytree(recorded.base, pgdata)
    inherit(pgdata, place, INHERITED[inherited])
    auto = pgdata / AUTO_CONF
    command = f"cp {recorded.archive}/%f %p"
    auto.write_bytes(
        write_recovery_block(auto.read_bytes(), settings(target, inclusive=inclusive, restore_command=command))
    )
    (pgdata / STANDBY_SIGNAL).unlink(missing_ok=True)
    (pgdata / RECOVERY_SIGNAL).touch()
    server = open_server(pgdata, isolated=False).start()
    server.wait_promoted()
    assert [row[0] for row in server.query("select n from t order by n")] == rows
    assert server.value("select timeline_id from pg_control_checkpoint()") in (1, 2)
    assert server.value("select pg_walfile_name(pg_current_wal_lsn())").startswith("00000002")
    server.close()
    shutil.rmtree(pgdata)


@pytest.mark.parametrize(("inherited", "wanted", "place"), SAMPLE, ids="-".join)
def test_a_restore_stops_where_asked_whatever_was_inherited(
    recorded: Recorded, tmp_path: Path, open_server: OpenServer, inherited: str, wanted: str, place: str
) -> None:
    recover(recorded, tmp_path / "copy", inherited, wanted, place, open_server)


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize(("inherited", "wanted", "place"), EVERYTHING, ids="-".join)
def test_every_pair_of_inherited_and_wanted_target_stops_where_asked(
    recorded: Recorded, tmp_path: Path, open_server: OpenServer, inherited: str, wanted: str, place: str
) -> None:
    recover(recorded, tmp_path / "copy", inherited, wanted, place, open_server)


def test_a_recovery_that_shall_shut_down_does_and_stays_restartable(
    recorded: Recorded, tmp_path: Path, open_server: OpenServer
) -> None:
    pgdata = tmp_path / "copy"
    shutil.copytree(recorded.base, pgdata)
    auto = pgdata / AUTO_CONF
    wanted = settings(
        recorded.targets["time"][0], action=RecoveryAction.SHUTDOWN, restore_command=f"cp {recorded.archive}/%f %p"
    )
    auto.write_bytes(write_recovery_block(auto.read_bytes(), wanted))
    (pgdata / RECOVERY_SIGNAL).touch()
    server = open_server(pgdata, isolated=False).start(wait=False)
    server.wait_exit()
    assert "shutdown at recovery target" in server.log()
    assert read_configuration(pgdata).value("recovery_target_action") == "shutdown"
