"""Owns what a server must be set to: a review of its settings with reasons and cures, and SQL for settings and role."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pgrecall.postgres.server import ServerFacts

DEFAULT_ARCHIVE_TIMEOUT_SECONDS = 60
Needs = Literal["reload", "restart"]

# Commands that say "archived" and keep nothing.
_DISCARDING = ({"true"}, {"/bin/true"}, {"/usr/bin/true"}, {":"}, {"exit", "0"}, {"cd", "."})


class Mode(StrEnum):
    """Where the WAL of a backup comes from."""

    ARCHIVE = "archive"
    """archive_command hands every segment to us: any moment can be recovered."""
    CARRY = "carry"
    """Each backup brings its own WAL: only the backups' own moments."""


class Level(StrEnum):
    DANGER = "DANGER"
    WARN = "WARN"
    OK = "OK"


@dataclass(frozen=True, slots=True)
class ServerFinding:
    """`what` names the setting or right, `why` the consequence; `cure_sql` is empty where SQL cannot or must not help,
    `cure` says it in words.
    """

    level: Level
    what: str
    why: str
    cure_sql: tuple[str, ...] = ()
    cure: str | None = None


@dataclass(frozen=True, slots=True)
class SettingChange:
    name: str
    value: str
    needs: Needs

    @property
    def sql(self) -> str:
        return f"ALTER SYSTEM SET {self.name} = {quote_literal(self.value)};"


class CommandKind(StrEnum):
    EMPTY = "empty"
    OURS = "ours"
    DISCARDING = "discarding"
    FOREIGN = "foreign"


def classify_command(command: str | None) -> CommandKind:
    """Whose an archive_command is. Ours runs `pgrecall … wal push`, under whatever path."""
    words = _words(command or "")
    if not words:
        return CommandKind.EMPTY
    if set(words) in _DISCARDING:
        return CommandKind.DISCARDING
    program = next((i for i, word in enumerate(words) if PurePath(word).name == "pgrecall"), None)
    if program is not None and ("wal", "push") in zip(words[program:], words[program + 1 :], strict=False):
        return CommandKind.OURS
    return CommandKind.FOREIGN


def command_program(command: str) -> str | None:
    """The program that an archive_command runs: its first word that is no assignment."""
    return next((word for word in _words(command) if "=" not in word.partition("/")[0]), None)


def program_problem(program: Path, *, uid: int, gids: Iterable[int]) -> str | None:
    """Why that user cannot execute this very path, None when it can: every directory above it must let the user in.

    By permission bits; access lists and mount options are not seen.
    """
    groups = frozenset(gids)
    if not program.is_absolute():
        return f"{program} is not an absolute path: the server may have another PATH"
    for place in (*reversed(program.parents), program):
        try:
            status = place.stat()
        except OSError as error:
            return f"{place}: {os.strerror(error.errno or 0)}"
        if place == program and not stat.S_ISREG(status.st_mode):
            return f"{place} is no file"
        if not _may_execute(status, uid, groups):
            verb = "execute" if place == program else "enter"
            return f"user {uid} may not {verb} {place}"
    return None


def review_settings(
    facts: ServerFacts, *, mode: Mode, archive_command: str | None = None, problem: str | None = None
) -> list[ServerFinding]:
    """Every requirement with its verdict, worst first. Pure.

    `archive_command` is the one we would write for this cluster (None: unknown, any of ours will do), `problem` is
    program_problem's answer for the program in it.
    """
    findings = [
        *_review_rights(facts, mode),
        _review_wal_level(facts),
        *(_review_archiving(facts, archive_command, problem) if mode is Mode.ARCHIVE else _review_slot(facts)),
        *_review_damage_control(facts),
        _review_checksums(facts),
        *_review_pending(facts),
    ]
    order = list(Level)
    return sorted(findings, key=lambda each: order.index(each.level))


def settings_changes(
    facts: ServerFacts,
    *,
    archive_command: str | None,
    archive_timeout_seconds: int = DEFAULT_ARCHIVE_TIMEOUT_SECONDS,
) -> tuple[SettingChange, ...]:
    """What to change so that the server archives to us (None: only what any backup needs). Never a foreign command."""
    changes: list[tuple[str, str]] = []
    if facts.setting("wal_level") == "minimal":
        changes.append(("wal_level", "replica"))
    command = facts.setting("archive_command")
    replaceable = classify_command(command) is not CommandKind.FOREIGN
    if archive_command is not None and replaceable and not facts.setting("archive_library"):
        if facts.setting("archive_mode") not in ("on", "always"):
            changes.append(("archive_mode", "on"))
        if command != archive_command:
            changes.append(("archive_command", archive_command))
        if facts.setting("archive_timeout") == "0":
            changes.append(("archive_timeout", f"{archive_timeout_seconds}s"))
    return tuple(_change(facts, name, value) for name, value in changes)


def settings_sql(changes: Sequence[SettingChange]) -> tuple[str, ...]:
    """The statements, then a reload; settings that need a restart take effect with it (see SettingChange.needs)."""
    if not changes:
        return ()
    return (*(change.sql for change in changes), "SELECT pg_reload_conf();")


def roles_sql(name: str, *, carry_wal: bool = True) -> tuple[str, ...]:
    """The least role that backs up, to be run by a superuser in the database that we connect to (postgres).

    `carry_wal`: may make the slot that keeps WAL where nothing is archived (REPLICATION).
    """
    role = quote_identifier(name)
    attributes = "LOGIN REPLICATION" if carry_wal else "LOGIN"
    functions = (
        "pg_backup_start(text, boolean)",
        "pg_backup_stop(boolean)",
        "pg_switch_wal()",
        "pg_create_restore_point(text)",
        # Which files the configuration lies in, Debian's /etc for one
        "pg_show_all_file_settings()",
        "pg_hba_file_rules()",
    )
    exists = f"SELECT FROM pg_catalog.pg_roles WHERE rolname = {quote_literal(name)}"
    return (
        f"DO $$ BEGIN IF NOT EXISTS ({exists}) THEN CREATE ROLE {role} {attributes}; END IF; END $$;",
        f"GRANT pg_read_all_settings, pg_checkpoint TO {role};",
        *(f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role};" for function in functions),
        f"GRANT SELECT ON pg_catalog.pg_file_settings, pg_catalog.pg_hba_file_rules TO {role};",
    )


def quote_literal(value: str) -> str:
    """A string constant that reads the same whatever standard_conforming_strings says."""
    quoted = value.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in quoted else f"'{quoted}'"


def quote_identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# reviews -------------------------------------------------------------------------------------------------------------
def _review_rights(facts: ServerFacts, mode: Mode) -> list[ServerFinding]:
    rights = facts.rights
    missing = rights.missing_for_backup(carry_wal=mode is Mode.CARRY)
    found = []
    if facts.in_recovery:
        why = "backups from a standby are not supported yet"
        found.append(ServerFinding(Level.DANGER, "standby", why, cure="name the primary"))
    if missing:
        sql = roles_sql(rights.role, carry_wal=mode is Mode.CARRY)
        found.append(ServerFinding(Level.DANGER, "rights", f"role '{rights.role}' lacks {', '.join(missing)}", sql))
    elif not rights.read_config_files:
        sql = roles_sql(rights.role, carry_wal=mode is Mode.CARRY)
        found.append(
            ServerFinding(
                Level.WARN, "rights", "included configuration files outside the data directory are not seen", sql
            )
        )
    else:
        found.append(ServerFinding(Level.OK, "rights", f"role '{rights.role}' may back up"))
    return found


def _review_wal_level(facts: ServerFacts) -> ServerFinding:
    level = facts.setting("wal_level")
    if level == "minimal":
        why = "WAL does not hold enough to recover a backup; none can be made"
        return ServerFinding(Level.DANGER, "wal_level", why, _cure(facts, "wal_level", "replica"))
    return ServerFinding(Level.OK, "wal_level", f"is {level}")


def _review_archiving(facts: ServerFacts, ours: str | None, problem: str | None) -> list[ServerFinding]:
    mode = facts.setting("archive_mode")
    found = [
        ServerFinding(Level.OK, "archive_mode", f"is {mode}")
        if mode in ("on", "always")
        else ServerFinding(
            Level.DANGER,
            "archive_mode",
            f"is {mode}: no WAL is archived, only the backups' own moments can be recovered",
            _cure(facts, "archive_mode", "on"),
        )
    ]
    found.append(_review_command(facts, ours, problem))
    if facts.setting("archive_timeout") == "0":
        why = "is 0: what a quiet server did since its last full segment is archived hours later"
        cure = _cure(facts, "archive_timeout", f"{DEFAULT_ARCHIVE_TIMEOUT_SECONDS}s")
        found.append(ServerFinding(Level.WARN, "archive_timeout", why, cure))
    else:
        found.append(ServerFinding(Level.OK, "archive_timeout", f"is {facts.setting('archive_timeout')} s"))
    return found


def _review_command(facts: ServerFacts, ours: str | None, problem: str | None) -> ServerFinding:
    library = facts.setting("archive_library")
    if library:
        why = f"the library '{library}' archives, not we; with it archive_command is not called"
        return ServerFinding(Level.DANGER, "archive_library", why, cure="remove it yourself when its tool is given up")
    command = (facts.setting("archive_command") or "").strip()
    kind = classify_command(command)
    cure = _cure(facts, "archive_command", ours) if ours else ()
    if kind is CommandKind.FOREIGN:
        why = f"is another tool's and stays: {command}"
        return ServerFinding(
            Level.DANGER, "archive_command", why, cure="replace it yourself when that tool is given up"
        )
    if kind is CommandKind.EMPTY:
        return ServerFinding(Level.DANGER, "archive_command", "is empty: no WAL reaches the repository", cure)
    if kind is CommandKind.DISCARDING:
        return ServerFinding(Level.DANGER, "archive_command", f"throws WAL away: {command}", cure)
    if problem is not None:
        why = f"cannot be run by the server: {problem}"
        return ServerFinding(
            Level.DANGER, "archive_command", why, cure="install it where the server's user can execute it"
        )
    if ours is not None and command != ours:
        return ServerFinding(Level.WARN, "archive_command", f"is ours, but not for this configuration: {command}", cure)
    return ServerFinding(Level.OK, "archive_command", "is ours")


def _review_slot(facts: ServerFacts) -> list[ServerFinding]:
    found = [
        ServerFinding(
            Level.WARN, "archive_mode", "WAL is not archived to us: only the backups' own moments can be recovered"
        )
    ]
    if facts.number("max_replication_slots") == 0:
        why = "is 0: nothing keeps the WAL that a backup brings"
        found.append(
            ServerFinding(Level.DANGER, "max_replication_slots", why, _cure(facts, "max_replication_slots", "10"))
        )
    if facts.setting("max_slot_wal_keep_size") not in ("-1", None):
        why = f"is {facts.setting('max_slot_wal_keep_size')} MB: a backup during which more WAL is written fails"
        found.append(ServerFinding(Level.WARN, "max_slot_wal_keep_size", why))
    return found


def _review_damage_control(facts: ServerFacts) -> list[ServerFinding]:
    bad: tuple[tuple[str, str, Level, str], ...] = (
        ("fsync", "off", Level.DANGER, "a crash destroys the cluster, and what it did last is in no backup"),
        ("zero_damaged_pages", "on", Level.DANGER, "damaged pages become empty ones, and the backups follow"),
        (
            "full_page_writes",
            "off",
            Level.WARN,
            "a crash can tear pages (backups are safe: the server forces it)",
        ),
        ("data_sync_retry", "on", Level.WARN, "a failed write may be forgotten by the kernel and called done"),
        ("ignore_checksum_failure", "on", Level.WARN, "reads of damaged pages go on"),
    )
    found = []
    for name, value, level, why in bad:
        if facts.setting(name) == value:
            good = "off" if value == "on" else "on"
            found.append(ServerFinding(level, name, f"is {value}: {why}", _cure(facts, name, good)))
    if facts.number("max_wal_senders") == 0:
        why = "is 0: no streaming of WAL, no standby can be attached after a restore"
        found.append(ServerFinding(Level.WARN, "max_wal_senders", why, _cure(facts, "max_wal_senders", "10")))
    return found or [ServerFinding(Level.OK, "durability", "fsync, full_page_writes and error handling are as shipped")]


def _review_checksums(facts: ServerFacts) -> ServerFinding:
    if facts.data_checksums:
        return ServerFinding(Level.OK, "data_checksums", "are on")
    why = "are off: damage cannot be seen, and increments store 128 KiB where a page changed"
    return ServerFinding(Level.WARN, "data_checksums", why, cure="pg_checksums --enable (server stopped)")


def _review_pending(facts: ServerFacts) -> list[ServerFinding]:
    return [
        ServerFinding(
            Level.WARN, name, "was changed, but the server was not restarted since", cure="restart the server"
        )
        for name, setting in sorted(facts.settings.items())
        if setting.pending_restart
    ]


# tools ---------------------------------------------------------------------------------------------------------------
def _cure(facts: ServerFacts, name: str, value: str) -> tuple[str, ...]:
    return settings_sql([_change(facts, name, value)])


def _change(facts: ServerFacts, name: str, value: str) -> SettingChange:
    known = facts.settings.get(name)
    return SettingChange(name, value, "restart" if known and known.context == "postmaster" else "reload")


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _may_execute(status: os.stat_result, uid: int, gids: frozenset[int]) -> bool:
    if uid == 0:
        return bool(status.st_mode & 0o111) or stat.S_ISDIR(status.st_mode)
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid in gids:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
