"""Settings and rights: what is found wanting and why, what the SQL changes, and that the least role really backs up."""

import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import psycopg
import pytest

from pgrecall.clock import SystemClock
from pgrecall.domain.lsn import Lsn
from pgrecall.postgres.backup_session import BackupSession, create_restore_point, hold_wal, switch_wal
from pgrecall.postgres.capabilities import Capabilities
from pgrecall.postgres.connection import connect
from pgrecall.postgres.requirements import (
    CommandKind,
    Level,
    Mode,
    ServerFinding,
    classify_command,
    command_program,
    program_problem,
    quote_literal,
    review_settings,
    roles_sql,
    settings_changes,
    settings_sql,
)
from pgrecall.postgres.scratch import ScratchServer
from pgrecall.postgres.server import Rights, ServerFacts, Setting, prove_same_server, read_config_files, read_facts
from tests.conftest import NewServer

OURS = "/opt/pgrecall/bin/pgrecall -c main wal push %p"
GOOD = {
    "wal_level": "replica",
    "archive_mode": "on",
    "archive_command": OURS,
    "archive_library": "",
    "archive_timeout": "60",
    "fsync": "on",
    "full_page_writes": "on",
    "zero_damaged_pages": "off",
    "data_sync_retry": "off",
    "ignore_checksum_failure": "off",
    "wal_log_hints": "off",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_slot_wal_keep_size": "-1",
}
AT_RESTART = ("wal_level", "archive_mode", "max_wal_senders", "max_replication_slots", "wal_log_hints")


def facts_with(changed: dict[str, str] | None = None, *, checksums: bool = True) -> ServerFacts:
    settings = {
        name: Setting(value, None, "configuration file", "postmaster" if name in AT_RESTART else "sighup", False)
        for name, value in {**GOOD, **(changed or {})}.items()
    }
    return ServerFacts(
        version_num=180004,
        version="18.4",
        system_identifier=7298000000000000041,
        in_recovery=False,
        timeline=1,
        checkpoint_redo=Lsn.parse("0/2000028"),
        checksum_version=int(checksums),
        control_version=1800,
        catalog_version=202506291,
        postmaster_started=datetime(2026, 11, 20, tzinfo=UTC),
        settings=MappingProxyType(settings),
        rights=Rights("backup", False, True, True, True, True, True, True, True),
        capabilities=Capabilities.of(180004),
    )


def worst(findings: list[ServerFinding]) -> list[tuple[Level, str]]:
    return [(each.level, each.what) for each in findings if each.level is not Level.OK]


def test_a_well_set_server_has_nothing_to_change() -> None:
    facts = facts_with()
    assert worst(review_settings(facts, mode=Mode.ARCHIVE, archive_command=OURS)) == []
    assert settings_changes(facts, archive_command=OURS) == ()
    assert settings_sql(()) == ()


@pytest.mark.parametrize(
    ("name", "value", "level", "cure"),
    [
        ("wal_level", "minimal", Level.DANGER, "ALTER SYSTEM SET wal_level = 'replica';"),
        ("archive_mode", "off", Level.DANGER, "ALTER SYSTEM SET archive_mode = 'on';"),
        ("archive_command", "", Level.DANGER, f"ALTER SYSTEM SET archive_command = '{OURS}';"),
        ("archive_command", "/bin/true", Level.DANGER, f"ALTER SYSTEM SET archive_command = '{OURS}';"),
        ("archive_command", "pgbackrest --stanza=main archive-push %p", Level.DANGER, None),
        ("archive_command", "/old/pgrecall wal push %p", Level.WARN, f"ALTER SYSTEM SET archive_command = '{OURS}';"),
        ("archive_library", "basic_archive", Level.DANGER, None),
        ("archive_timeout", "0", Level.WARN, "ALTER SYSTEM SET archive_timeout = '60s';"),
        ("fsync", "off", Level.DANGER, "ALTER SYSTEM SET fsync = 'on';"),
        ("full_page_writes", "off", Level.WARN, "ALTER SYSTEM SET full_page_writes = 'on';"),
        ("zero_damaged_pages", "on", Level.DANGER, "ALTER SYSTEM SET zero_damaged_pages = 'off';"),
        ("data_sync_retry", "on", Level.WARN, "ALTER SYSTEM SET data_sync_retry = 'off';"),
        ("ignore_checksum_failure", "on", Level.WARN, "ALTER SYSTEM SET ignore_checksum_failure = 'off';"),
        ("max_wal_senders", "0", Level.WARN, "ALTER SYSTEM SET max_wal_senders = '10';"),
    ],
)
def test_each_setting_is_judged_and_cured_by_itself(name: str, value: str, level: Level, cure: str | None) -> None:
    findings = review_settings(facts_with({name: value}), mode=Mode.ARCHIVE, archive_command=OURS)
    assert worst(findings) == [(level, name)]
    assert findings[0].cure_sql == ((cure, "SELECT pg_reload_conf();") if cure else ())
    assert findings[0].why


def test_a_foreign_archive_command_or_library_is_never_replaced() -> None:
    for changed in ({"archive_command": "wal-g wal-push %p", "archive_mode": "off"}, {"archive_library": "other"}):
        changes = settings_changes(facts_with({**changed, "wal_level": "minimal"}), archive_command=OURS)
        assert [change.name for change in changes] == ["wal_level"]


def test_checksums_off_is_a_warning_that_names_both_consequences() -> None:
    findings = review_settings(facts_with(checksums=False), mode=Mode.ARCHIVE)
    assert worst(findings) == [(Level.WARN, "data_checksums")]
    assert "damage cannot be seen" in findings[0].why and "128 KiB" in findings[0].why
    assert findings[0].cure is not None and "pg_checksums --enable" in findings[0].cure


def test_backups_that_bring_their_wal_need_a_slot_and_are_said_to_be_moments_only() -> None:
    off = {"archive_mode": "off", "archive_command": ""}
    findings = review_settings(facts_with(off), mode=Mode.CARRY)
    assert worst(findings) == [(Level.WARN, "archive_mode")]
    findings = review_settings(
        facts_with({**off, "max_replication_slots": "0", "max_slot_wal_keep_size": "64"}), mode=Mode.CARRY
    )
    assert worst(findings) == [
        (Level.DANGER, "max_replication_slots"),
        (Level.WARN, "archive_mode"),
        (Level.WARN, "max_slot_wal_keep_size"),
    ]


def test_missing_rights_a_standby_and_a_pending_restart_are_found() -> None:
    facts = facts_with()
    poor = replace(facts, rights=replace(facts.rights, backup=False, replication=False))
    finding = review_settings(poor, mode=Mode.CARRY)[0]
    assert (finding.level, finding.what) == (Level.DANGER, "rights")
    assert "pg_backup_start" in finding.why
    assert "REPLICATION" in finding.why
    assert finding.cure_sql == roles_sql("backup")
    assert worst(review_settings(replace(facts, in_recovery=True), mode=Mode.ARCHIVE)) == [(Level.DANGER, "standby")]
    pending = {**facts.settings, "wal_level": replace(facts.settings["wal_level"], pending_restart=True)}
    changed = replace(facts, settings=MappingProxyType(pending))
    assert worst(review_settings(changed, mode=Mode.ARCHIVE)) == [(Level.WARN, "wal_level")]


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("", CommandKind.EMPTY),
        (None, CommandKind.EMPTY),
        (OURS, CommandKind.OURS),
        ("'/opt/my tools/pgrecall' wal push \"%p\"", CommandKind.OURS),
        ("test -f /run/mark/%f || /usr/bin/pgrecall wal push %p", CommandKind.OURS),
        ("PGRECALL_CONFIG=/etc/x.toml pgrecall wal push %p", CommandKind.OURS),
        ("pgrecall wal fetch %f %p", CommandKind.FOREIGN),
        ("cp %p /archive/pgrecall/%f", CommandKind.FOREIGN),
        ("true", CommandKind.DISCARDING),
        ("exit 0", CommandKind.DISCARDING),
        ("cp '%p", CommandKind.FOREIGN),
    ],
)
def test_whose_an_archive_command_is(command: str | None, kind: CommandKind) -> None:
    assert classify_command(command) is kind


def test_the_program_of_a_command_is_its_first_word_that_is_no_assignment() -> None:
    assert command_program(OURS) == "/opt/pgrecall/bin/pgrecall"
    assert command_program("A=/x/y '/opt/my tools/pgrecall' wal push") == "/opt/my tools/pgrecall"
    assert command_program("/opt/a=b/pgrecall wal push") == "/opt/a=b/pgrecall"
    assert command_program("") is None


def test_a_program_must_be_reachable_for_the_servers_user_and_not_only_for_us(tmp_path: Path) -> None:
    private = tmp_path / "home"
    private.mkdir(mode=0o700)
    program = private / "pgrecall"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    stranger, gid = os.getuid() + 1, os.getgid() + 1
    assert program_problem(Path(sys.executable), uid=os.getuid(), gids=os.getgroups()) is None
    problem = program_problem(program, uid=stranger, gids=[gid])
    assert problem is not None
    assert "may not enter" in problem
    program.chmod(0o644)
    problem = program_problem(program, uid=os.getuid(), gids=[])
    assert problem is not None
    assert "may not execute" in problem
    for wrong, why in ((Path("pgrecall"), "absolute"), (private, "no file"), (private / "x", "No such file")):
        found = program_problem(wrong, uid=os.getuid(), gids=[])
        assert found is not None
        assert why in found


def test_the_sql_turns_archiving_on(new_server: NewServer) -> None:
    server = new_server(settings={})
    tricky = r"/opt/o'neil\bin/pgrecall wal push %p"
    with connect(server.conninfo()) as conn:
        changes = settings_changes(read_facts(conn), archive_command=tricky, archive_timeout_seconds=30)
        assert {(each.name, each.needs) for each in changes} == {
            ("archive_mode", "restart"),
            ("archive_command", "reload"),
            ("archive_timeout", "reload"),
        }
        for statement in settings_sql(changes):
            conn.execute(statement.encode())
    server.restart()
    with connect(server.conninfo()) as conn:
        facts = read_facts(conn)
    assert facts.archiving
    assert facts.setting("archive_command") == tricky
    assert facts.setting("archive_timeout") == "30"
    assert settings_changes(facts, archive_command=tricky) == ()


@pytest.mark.parametrize("value", ["plain", "o'neil", r"back\slash", r"both'\'", ""])
def test_a_quoted_literal_is_read_back_under_either_setting(value: str, pg: ScratchServer) -> None:
    with psycopg.connect(pg.conninfo(), autocommit=True) as conn:
        for setting in (b"on", b"off"):
            conn.execute(b"SET standard_conforming_strings = " + setting)
            assert conn.execute(f"SELECT {quote_literal(value)}".encode()).fetchone() == (value,)


def test_the_least_role_does_everything_that_a_backup_needs(pg: ScratchServer) -> None:
    for _ in range(2):  # again: nothing breaks
        for statement in roles_sql('backup "x"'):
            pg.execute(statement)
    conninfo = pg.conninfo(user='backup "x"')
    with connect(conninfo) as conn:
        prove_same_server(conn, pg.pgdata, SystemClock())
        facts = read_facts(conn)
        assert not facts.rights.superuser
        assert facts.rights.missing_for_backup(carry_wal=True) == ()
        assert facts.rights.switch_wal
        assert facts.rights.restore_point
        assert facts.rights.checkpoint
        assert facts.data_directory == pg.pgdata
        assert len(read_config_files(conn, facts)) == 3
        assert not [each for each in review_settings(facts, mode=Mode.CARRY) if each.what == "rights" and each.cure_sql]
        conn.execute("CHECKPOINT")
        create_restore_point(conn, "here")
        switch_wal(conn)
    with hold_wal(connect(conninfo)) as hold, BackupSession(connect(conninfo)) as session:
        start = session.start("t", fast=True)
        session.stop()
        hold.check(needed_from=start.lsn)


@pytest.mark.newest
def test_a_role_without_the_grants_is_told_what_it_lacks(pg: ScratchServer) -> None:
    pg.execute("CREATE ROLE app LOGIN")
    with connect(pg.conninfo(user="app")) as conn:
        facts = read_facts(conn)
    assert len(facts.rights.missing_for_backup(carry_wal=True)) == 3
    assert len(facts.rights.missing_for_backup(carry_wal=False)) == 2
    assert facts.data_directory is None
