"""What makes restored files a cluster that recovers: configuration, recovery settings, backup_label, pg_control."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pgrecall.errors import BinariesNotFound, ObjectDamaged
from pgrecall.postgres.binaries import find_binaries
from pgrecall.postgres.conffile import AUTO_CONF, ConfTree, read_configuration
from pgrecall.postgres.control import ControlFile
from pgrecall.postgres.recovery_settings import (
    RECOVERY_SIGNAL,
    RecoverySettings,
    archive_command,
    archives_by,
    missing_parameters,
    preloads,
    restore_command,
    write_recovery_block,
)
from pgrecall.postgres.requirements import CommandKind, classify_command
from pgrecall.repository.fileblock import StoredFile
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.paths import OUTSIDE, split
from pgrecall.services.archive.recovery_file import RecoveryPath
from pgrecall.services.restore.configuration import HOMES, Inside, OutsideContent, adapt_configuration
from pgrecall.services.restore.files import CONTROL_FILE, SETTINGS_FILE, read_small
from pgrecall.services.restore.plan import RestorePlan
from pgrecall.services.restore.tree import RestoredTree

BACKUP_LABEL = b"backup_label"
_MOST_CONFIGURATION = 1024 * 1024
_MUST_EXIST = ("ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file", "krb_server_keyfile")


@dataclass(frozen=True, slots=True)
class Program:
    """How PostgreSQL calls us: an absolute path and what makes it pgrecall; options that open the repository."""

    words: tuple[str, ...]
    fetch_options: tuple[str, ...] = ()
    push_options: tuple[str, ...] = ()


@dataclass(slots=True)
class Configured:
    """The configuration of what was restored, and what a person should know of it."""

    tree: ConfTree = field(default_factory=ConfTree)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def write_configuration(plan: RestorePlan, tree: RestoredTree, program: Program) -> Configured:
    """Configuration inside, recovery settings last in postgresql.auto.conf, the signal, the way for `wal fetch`."""
    adapted = adapt_configuration(
        PurePosixPath(plan.manifest.server.data_directory), _inside(tree), _outside(plan.reader), _told(plan)
    )
    owner, mode = tree.ownership.default, 0o640 if _group_reads(tree) else 0o600
    for path, content in adapted.files.items():
        tree.write(os.fsencode(path), content, mode=mode, owner=owner)
    inherited = read_configuration(tree.root)
    settings, notes = _recovery_settings(plan, inherited, program)
    auto = tree.read(os.fsencode(AUTO_CONF)) or b""
    tree.write(os.fsencode(AUTO_CONF), write_recovery_block(auto, settings), mode=mode, owner=owner)
    tree.write(os.fsencode(RECOVERY_SIGNAL), b"", mode=mode, owner=owner)
    path_file = RecoveryPath(plan.commit.system_identifier, plan.wal.history, _planned_to(plan))
    tree.write(SETTINGS_FILE, path_file.encode(), mode=mode, owner=owner)
    configured = Configured(read_configuration(tree.root), [*adapted.notes, *notes])
    configured.warnings += _missing_files(configured.tree, tree.root)
    configured.warnings += _missing_libraries(configured.tree, plan.manifest.cluster.version_num // 10000)
    return configured


def _recovery_settings(plan: RestorePlan, inherited: ConfTree, program: Program) -> tuple[RecoverySettings, list[str]]:
    cluster = plan.manifest.cluster
    needed = {
        "max_connections": cluster.max_connections,
        "max_worker_processes": cluster.max_worker_processes,
        "max_wal_senders": cluster.max_wal_senders,
        "max_prepared_transactions": cluster.max_prepared_transactions,
        "max_locks_per_transaction": cluster.max_locks_per_transaction,
    }
    required = missing_parameters(inherited, needed)
    archive, notes = _archiving(plan, inherited, program)
    schedulers = preloads(inherited, "pg_cron")
    settings = RecoverySettings(
        target=plan.wal.target,
        inclusive=plan.options.request.inclusive,
        timeline=plan.wal.history.timeline,
        action=plan.options.action,
        restore_command=restore_command(program.words, program.fetch_options),
        archive_command=archive,
        required=required,
        in_place_tablespaces=plan.in_place_tablespaces,
        reads_ahead=not plan.wal.hole_behind,
        schedulers_off=schedulers,
    )
    if required:
        notes.append(
            f"raised to what recovery needs: {', '.join(f'{name} = {least}' for name, least in required.items())}"
        )
    if settings.is_clone and schedulers:
        notes.append("pg_cron's jobs are off in the clone (cron.launch_active_jobs)")
    return settings, notes


def _planned_to(plan: RestorePlan) -> str:
    """For `wal fetch`: what arrives after the plan was made may create tablespaces that nobody has judged."""
    return plan.wal.segments[-1].next().name(plan.wal.segment_size)[8:]


def _archiving(plan: RestorePlan, inherited: ConfTree, program: Program) -> tuple[str | None, list[str]]:
    """None for a clone; for a successor our command, unless it archived by another's, or not at all."""
    if plan.is_clone:
        return None, []
    before = archives_by(inherited)
    if not before:
        return "", ["archiving was off in the original and stays off: pgrecall init sets it up"]
    if classify_command(before) is CommandKind.FOREIGN:
        return "", [f"archives as the original did, not by pgrecall: {before}"]
    return archive_command(program.words, program.push_options), []


def write_label(plan: RestorePlan, tree: RestoredTree) -> None:
    """backup_label, byte for byte as pg_backup_stop returned it: without it recovery would begin at a wrong place."""
    label = plan.manifest.backup_label
    if not label.startswith(b"START WAL LOCATION: "):
        raise ObjectDamaged(f"the manifest of {plan.label} holds no backup_label", label=str(plan.label))
    tree.write(BACKUP_LABEL, label, mode=_data_mode(tree), owner=tree.ownership.default)


def write_control(plan: RestorePlan, tree: RestoredTree) -> None:
    """pg_control, last of all: before it is there nothing can start."""
    stored = plan.reader.find(CONTROL_FILE)
    if stored is None or stored.node_list is not None:
        raise ObjectDamaged(f"the backup {plan.label} holds no pg_control", label=str(plan.label))
    content = read_small(plan.reader, stored)
    found = ControlFile.parse(content).system_identifier
    if found != plan.commit.system_identifier:
        raise ObjectDamaged(
            f"pg_control in {plan.label} is of system {found}, the backup of {plan.commit.system_identifier}"
        )
    owner = tree.ownership.of(stored.entry.owner, stored.entry.group)
    tree.write(CONTROL_FILE, content, mode=stored.entry.mode, owner=owner)


def _inside(tree: RestoredTree) -> Inside:
    return Inside(lambda path: tree.read(_bytes(path)), lambda path: tree.names(_bytes(path)))


def _bytes(path: PurePosixPath) -> bytes:
    return b"" if path == PurePosixPath(".") else os.fsencode(path)


def _outside(reader: ManifestReader) -> Sequence[OutsideContent]:
    """The bytes of the files that lay outside; a large one is no configuration and stays away."""
    if not reader.manifest.outside:
        return []
    stored: dict[bytes, StoredFile] = {file.entry.name: file for file in reader.files(OUTSIDE)}
    found = []
    for each in reader.manifest.outside:
        file = stored.get(split(each.path)[1])
        if file is None or file.entry.size > _MOST_CONFIGURATION:
            raise ObjectDamaged(f"the backup lacks its copy of {os.fsdecode(each.source)}")
        source = PurePosixPath(os.fsdecode(each.source))
        found.append(OutsideContent(each.setting, source, read_small(reader, file)))
    return found


def _told(plan: RestorePlan) -> dict[str, str]:
    other = plan.manifest.cluster.other
    return {name: value for name in HOMES if isinstance(value := other.get(name), str)}


def _missing_files(configured: ConfTree, root: Path) -> list[str]:
    """Absolute paths that the server will want and that are not on this host."""
    found = []
    ssl = configured.value("ssl", "off").lower() in ("on", "true", "yes", "1")
    for name in _MUST_EXIST if ssl else ():
        value = configured.value(name)
        if value and not (root / value).exists():
            found.append(
                f"{name} = {value} does not exist here, and ssl is on: start it with -o '-c ssl=off', or bring the file"
            )
    log = configured.value("log_directory", "log")
    if log.startswith("/"):
        if not Path(log).is_dir():
            found.append(f"log_directory = {log} does not exist here")
        else:
            found.append(f"log_directory = {log}: the restored server writes its log beside the original's")
    return found


def _missing_libraries(configured: ConfTree, major: int) -> list[str]:
    """Libraries that the server preloads and that this host's server lacks: without them it does not start."""
    names = [name.strip().strip('"') for name in configured.value("shared_preload_libraries").split(",")]
    try:
        place = find_binaries(major).config("pkglibdir")
    except BinariesNotFound:
        return []
    missing = []
    for name in names if not configured.value("dynamic_library_path") else ():
        path = Path(place, name.replace("$libdir", place))
        if name and not (path.exists() or Path(f"{path}.so").exists()):
            missing.append(
                f"shared_preload_libraries names {name}, which is not in {place}: install it, or take it out of the "
                "list if nothing in the WAL needs it"
            )
    return missing


def _group_reads(tree: RestoredTree) -> bool:
    try:
        return bool(tree.mode_of(b"PG_VERSION") & 0o040)
    except FileNotFoundError:
        raise ObjectDamaged("the backup holds no PG_VERSION: it is no data directory") from None


def _data_mode(tree: RestoredTree) -> int:
    return 0o640 if _group_reads(tree) else 0o600
