"""Owns what we know of a server: its facts by SQL, its identity, and proof that session and files are one."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from pgrecall.clock import Clock
from pgrecall.domain.lsn import Lsn
from pgrecall.errors import WrongCluster
from pgrecall.postgres.capabilities import Capabilities, version_text
from pgrecall.postgres.connection import Connection, read_postmaster_file
from pgrecall.postgres.control import read_control
from pgrecall.postgres.session import query

SETTINGS = (
    "archive_command", "archive_library", "archive_mode", "archive_timeout", "block_size", "cluster_name",
    "config_file",
    "data_checksums", "data_directory", "data_directory_mode", "data_sync_retry", "external_pid_file", "fsync",
    "full_page_writes", "hba_file", "hot_standby", "ident_file", "listen_addresses", "max_connections",
    "max_locks_per_transaction", "max_prepared_transactions", "max_replication_slots", "max_slot_wal_keep_size",
    "max_wal_senders", "max_wal_size", "max_worker_processes", "port", "segment_size", "server_encoding",
    "shared_preload_libraries", "summarize_wal", "synchronous_commit", "track_commit_timestamp",
    "unix_socket_directories", "wal_block_size", "wal_keep_size", "wal_level", "wal_log_hints", "wal_segment_size",
    "zero_damaged_pages", "ignore_checksum_failure",
)  # fmt: skip
# The postmaster notes the second in which it began; pg_postmaster_start_time() follows after shared memory is there.
START_SLACK_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of pg_settings. `value` is in `unit`; `context`: what a change needs (postmaster: a restart)."""

    value: str
    unit: str | None
    source: str
    context: str
    pending_restart: bool


@dataclass(frozen=True, slots=True)
class Rights:
    """What the session's role may do."""

    role: str
    superuser: bool
    replication: bool
    backup: bool
    switch_wal: bool
    restore_point: bool
    checkpoint: bool
    read_settings: bool
    read_config_files: bool

    def missing_for_backup(self, *, carry_wal: bool) -> tuple[str, ...]:
        """What a backup session still needs, in words."""
        wanted = {
            "EXECUTE on pg_backup_start and pg_backup_stop": self.backup,
            "pg_read_all_settings": self.read_settings,
            "REPLICATION (for the slot that keeps WAL)": self.replication or not carry_wal,
        }
        return tuple(name for name, granted in wanted.items() if not granted)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A snapshot of the server, by SQL. `timeline` is the last checkpoint's."""

    version_num: int
    version: str
    system_identifier: int
    in_recovery: bool
    timeline: int
    checkpoint_redo: Lsn
    checksum_version: int
    control_version: int
    catalog_version: int
    postmaster_started: datetime
    settings: Mapping[str, Setting]
    rights: Rights
    capabilities: Capabilities

    def setting(self, name: str) -> str | None:
        """The value; None when the server has no such setting or the role may not read it."""
        found = self.settings.get(name)
        return found.value if found else None

    def number(self, name: str) -> int:
        """A numeric setting that every role can read, in its own unit."""
        return int(self.settings[name].value)

    def enabled(self, name: str) -> bool:
        return self.setting(name) == "on"

    @property
    def data_directory(self) -> Path | None:
        value = self.setting("data_directory")
        return Path(value) if value else None

    @property
    def wal_segment_size(self) -> int:
        return self.number("wal_segment_size")

    @property
    def page_size(self) -> int:
        return self.number("block_size")

    @property
    def relation_segment_pages(self) -> int:
        return self.number("segment_size")

    @property
    def data_checksums(self) -> bool:
        return self.checksum_version != 0

    @property
    def archiving(self) -> bool:
        """Whether the server hands complete segments to a command or library."""
        if self.setting("archive_mode") not in ("on", "always"):
            return False
        return bool(self.setting("archive_library") or (self.setting("archive_command") or "").strip())


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What must be equal for page LSNs of two backups to be comparable: every unseen change needs the server down.

    pg_checksums, pg_rewind, pg_resetwal, a file system snapshot rolled back: after each the postmaster start differs.
    """

    system_identifier: int
    host: str
    data_directory: str
    device: int
    inode: int
    postmaster_started: datetime
    checksum_version: int
    wal_log_hints: bool
    page_size: int
    relation_segment_pages: int
    wal_segment_size: int

    def differences(self, other: "ServerIdentity") -> tuple[str, ...]:
        """Names of what differs, for the reason that a run gives when it compares everything."""
        names = (each.name for each in fields(self))
        # The path is a name for device and inode.
        return tuple(name for name in names if name != "data_directory" and getattr(self, name) != getattr(other, name))

    @property
    def lsn_proves_unchanged(self) -> bool:
        """Page checksums are on: hint bits are WAL-logged, and rot under an old LSN is noticed (decision 0007)."""
        return self.checksum_version != 0


def read_facts(conn: Connection) -> ServerFacts:
    """Everything we ask a server about itself. Refused before PostgreSQL 15; SessionLost."""
    capabilities = Capabilities.of(conn.info.server_version)
    settings = {
        name: Setting(value or "", unit, source, context, pending)
        for name, value, unit, source, context, pending in query(
            conn,
            # While archive_mode is off, archive_command shows as "(disabled)" whatever it is (show_archive_command).
            "SELECT name, CASE name WHEN 'archive_command' THEN reset_val ELSE setting END, unit, source, context,"
            " pending_restart FROM pg_settings WHERE name = ANY(%s)",
            [list(SETTINGS)],
        )
    }
    ((identifier, control, catalog, in_recovery, timeline, redo, checksums, started),) = query(
        conn,
        "SELECT s.system_identifier, s.pg_control_version, s.catalog_version_no, pg_is_in_recovery(), c.timeline_id,"
        " c.redo_lsn::text, i.data_page_checksum_version, pg_postmaster_start_time()"
        " FROM pg_control_system() s, pg_control_checkpoint() c, pg_control_init() i",
    )
    return ServerFacts(
        version_num=conn.info.server_version,
        version=version_text(conn.info.server_version),
        system_identifier=identifier % 2**64,
        in_recovery=in_recovery,
        timeline=timeline,
        checkpoint_redo=Lsn.parse(redo),
        checksum_version=checksums,
        control_version=control,
        catalog_version=catalog,
        postmaster_started=started.astimezone(UTC),
        settings=MappingProxyType(settings),
        rights=read_rights(conn),
        capabilities=capabilities,
    )


def read_rights(conn: Connection) -> Rights:
    ((role, superuser, replication, backup, switch, point, checkpoint, settings, files),) = query(
        conn,
        "SELECT current_user::text, r.rolsuper, r.rolreplication OR r.rolsuper,"
        " has_function_privilege('pg_backup_start(text, boolean)', 'EXECUTE')"
        "  AND has_function_privilege('pg_backup_stop(boolean)', 'EXECUTE'),"
        " has_function_privilege('pg_switch_wal()', 'EXECUTE'),"
        " has_function_privilege('pg_create_restore_point(text)', 'EXECUTE'),"
        " pg_has_role('pg_checkpoint', 'USAGE'), pg_has_role('pg_read_all_settings', 'USAGE'),"
        " has_function_privilege('pg_show_all_file_settings()', 'EXECUTE')"
        "  AND has_function_privilege('pg_hba_file_rules()', 'EXECUTE')"
        "  AND has_table_privilege('pg_file_settings', 'SELECT') AND has_table_privilege('pg_hba_file_rules', 'SELECT')"
        " FROM pg_roles r WHERE r.rolname = current_user",
    )
    return Rights(role, superuser, replication, backup, switch, point, checkpoint, settings, files)


def read_config_files(conn: Connection, facts: ServerFacts) -> tuple[tuple[str, str], ...]:
    """(setting, absolute path) of every configuration file the server read, included ones too, each path once.

    A role without the right to see the file views gets the three main files only.
    """
    found = [(name, value) for name in ("config_file", "hba_file", "ident_file") if (value := facts.setting(name))]
    if facts.rights.read_config_files:
        found += [("config_file", path) for (path,) in query(conn, "SELECT DISTINCT sourcefile FROM pg_file_settings")]
        if facts.capabilities.included_hba:
            found += [("hba_file", path) for (path,) in query(conn, "SELECT DISTINCT file_name FROM pg_hba_file_rules")]
    first: dict[str, str] = {}
    for name, path in found:
        if path:
            first.setdefault(path, name)
    return tuple((name, path) for path, name in first.items())


def identify(conn: Connection, pgdata: Path, *, facts: ServerFacts | None = None) -> ServerIdentity:
    """The identity of a server whose files lie at `pgdata`; prove_same_server comes first."""
    known = facts or read_facts(conn)
    status = pgdata.stat()
    return ServerIdentity(
        system_identifier=known.system_identifier,
        host=socket.gethostname(),
        data_directory=str(pgdata.resolve()),
        device=status.st_dev,
        inode=status.st_ino,
        postmaster_started=known.postmaster_started,
        checksum_version=known.checksum_version,
        wal_log_hints=known.enabled("wal_log_hints"),
        page_size=known.page_size,
        relation_segment_pages=known.relation_segment_pages,
        wal_segment_size=known.wal_segment_size,
    )


def prove_same_server(conn: Connection, pgdata: Path, clock: Clock) -> None:
    """Raise WrongCluster, with both values, unless the session's server is the one whose files lie at `pgdata`.

    System identifier, data_directory and start time exclude another cluster; a standby or copy of the same one could
    still pass, so the session leaves a mark that only its own data directory shows: an exported snapshot's file.
    """
    facts = read_facts(conn)
    on_disk = read_control(pgdata, clock=clock).system_identifier
    if on_disk != facts.system_identifier:
        raise _wrong("system identifier", facts.system_identifier, on_disk, pgdata)
    theirs = facts.data_directory
    if theirs is not None and theirs.exists() and not theirs.samefile(pgdata):
        raise _wrong("data directory", str(theirs.resolve()), str(pgdata.resolve()), pgdata)
    postmaster = read_postmaster_file(pgdata)
    late = facts.postmaster_started.timestamp() - postmaster.started
    if not -2 <= late <= START_SLACK_SECONDS:
        started = datetime.fromtimestamp(postmaster.started, UTC)
        raise _wrong("server start", str(facts.postmaster_started), str(started), pgdata)
    parent = _parent_pid(conn.info.backend_pid, pgdata)
    if parent is not None and parent != postmaster.pid:
        raise _wrong("server process", parent, postmaster.pid, pgdata)
    _prove_by_mark(conn, pgdata)


def prove_checkpoint(pgdata: Path, start: Lsn, clock: Clock) -> None:
    """After pg_backup_start: the pg_control that we read must know a checkpoint at or after the backup's start."""
    redo = read_control(pgdata, clock=clock).redo
    if redo < start:
        raise _wrong("checkpoint", str(start), str(redo), pgdata)


def _prove_by_mark(conn: Connection, pgdata: Path) -> None:
    """An exported snapshot is a file pg_snapshots/<id> that names the backend; any role may export one (snapmgr.c)."""
    with conn.transaction():
        ((mark, pid),) = query(conn, "SELECT pg_export_snapshot(), pg_backend_pid()")
        path = pgdata / "pg_snapshots" / mark
        found = path.read_text(encoding="ascii", errors="replace") if path.exists() else ""
    if f"pid:{pid}\n" not in found:
        raise _wrong("mark left by the session", f"pg_snapshots/{mark}", "no such file", pgdata)


def _parent_pid(backend_pid: int, pgdata: Path) -> int | None:
    """The parent of a backend, when /proc shows that very process working in `pgdata`; None where it cannot be seen."""
    process = Path("/proc") / str(backend_pid)
    try:
        if not (process / "cwd").samefile(pgdata):
            return None
        fields = (process / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return int(fields[1])
    except (OSError, IndexError, ValueError):
        return None


def _wrong(what: str, session: str | int, files: str | int, pgdata: Path) -> WrongCluster:
    return WrongCluster(
        f"the session and {pgdata} are not one server: {what} is {session} by SQL, {files} in the directory",
        hint="Name the data directory of this very server, or connect to the server that runs on it.",
        session=session,
        files=files,
        pgdata=str(pgdata),
    )
