"""Recovery settings: one recovery request becomes the lines that PostgreSQL reads last, from `postgresql.auto.conf`.

Pure. PostgreSQL allows one recovery target; setting another one to '' *after* it counts as a second one and is fatal,
but before it clears what was inherited. So the other four are emptied first, ours comes last, and nothing is left to a
default.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from enum import StrEnum

from pgrecall.domain.target import (
    AtLsn,
    AtRestorePoint,
    AtTime,
    AtXid,
    EndOfArchive,
    Immediate,
    RecoveryTarget,
)
from pgrecall.postgres.conffile import AUTO_CONF, ConfFile, ConfTree, parse_bool, parse_int, quote

ABSENT_STATUS = 101
RECOVERY_SIGNAL = "recovery.signal"
STANDBY_SIGNAL = "standby.signal"
TARGET_SETTINGS = (
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
)
BEGIN = "# pgrecall restore: begin. The settings below were written by the restore and win over all others."
END = "# pgrecall restore: end"
NOTE = "inherited, disabled by pgrecall restore"

_INHERITED_PREFIXES = ("recovery_target", "primary_")
_INHERITED = frozenset(
    {
        "restore_command",
        "recovery_end_command",
        "archive_cleanup_command",
        "recovery_min_apply_delay",
        "promote_trigger_file",
        "trigger_file",
        "standby_mode",
    }
)
# What a clone must not do: archive, subscribe, run its original's jobs, wait for its original's standbys.
_CLONE_OFF = (
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("archive_library", ""),
    ("max_logical_replication_workers", "0"),
    ("synchronous_standby_names", ""),
)
# CheckRequiredParameterValues: with hot standby these must not be below what the WAL says, or recovery ends at once.
_REQUIRED_DEFAULTS = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_wal_senders": 10,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}


class RecoveryAction(StrEnum):
    """What the server does when the target is reached."""

    PROMOTE = "promote"
    PAUSE = "pause"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySettings:
    """Everything that decides how a restored directory recovers and what it becomes.

    `timeline` is resolved already: always a number. `archive_command` None makes a clone, which archives nothing; ""
    keeps the archive settings that were inherited (a successor); anything else is set.
    """

    target: RecoveryTarget
    inclusive: bool
    timeline: int
    action: RecoveryAction
    restore_command: str
    archive_command: str | None = None
    required: Mapping[str, int] | None = None
    """Parameters that recovery needs at least (`missing_parameters`)."""
    in_place_tablespaces: bool = False
    """There are some: recovery takes their directories for strays unless it is allowed (CheckTablespaceDirectory)."""
    reads_ahead: bool = True
    """Prefetching asks for segments behind the target; where there is a hole, the answer would end the server."""
    schedulers_off: bool = False
    """pg_cron is preloaded: a clone must not run its original's jobs."""

    @property
    def is_clone(self) -> bool:
        return self.archive_command is None

    def settings(self) -> list[tuple[str, str]]:
        """Names and values in the order in which they must stand."""
        name, value = target_setting(self.target)
        pairs = [(each, "") for each in TARGET_SETTINGS if each != name]
        if name is not None:
            pairs.append((name, value))
        pairs += [
            ("recovery_target_inclusive", "on" if self.inclusive else "off"),
            ("recovery_target_timeline", str(self.timeline)),
            ("recovery_target_action", self.action.value),
            ("restore_command", self.restore_command),
            ("recovery_end_command", ""),
            ("archive_cleanup_command", ""),
            ("recovery_min_apply_delay", "0"),
            ("primary_conninfo", ""),
            ("primary_slot_name", ""),
        ]
        if self.action is RecoveryAction.PAUSE:
            pairs.append(("hot_standby", "on"))  # without it a server that should pause shuts down
        if not self.reads_ahead:
            pairs.append(("recovery_prefetch", "off"))
        if self.in_place_tablespaces:
            pairs.append(("allow_in_place_tablespaces", "on"))
        pairs += [(each, str(least)) for each, least in (self.required or {}).items()]
        if self.is_clone:
            pairs += _CLONE_OFF
            if self.schedulers_off:
                pairs.append(("cron.launch_active_jobs", "off"))
        elif self.archive_command:
            pairs += [("archive_mode", "on"), ("archive_library", ""), ("archive_command", self.archive_command)]
        return pairs

    def lines(self) -> list[bytes]:
        """The block for the end of `postgresql.auto.conf`, without line ends."""
        body = [name.encode() + b" = " + quote(value) for name, value in self.settings()]
        return [BEGIN.encode(), *body, END.encode()]


def target_setting(target: RecoveryTarget) -> tuple[str | None, str]:
    """The one parameter that says where to stop, and its value; no parameter for the end of the archive."""
    match target:
        case AtTime(moment):
            utc = moment.astimezone(UTC).replace(tzinfo=None)
            return "recovery_target_time", utc.isoformat(sep=" ", timespec="microseconds") + "+00"
        case AtLsn(lsn):
            return "recovery_target_lsn", str(lsn)
        case AtXid(xid):
            return "recovery_target_xid", str(xid)
        case AtRestorePoint(name):
            return "recovery_target_name", name
        case Immediate():
            return "recovery_target", "immediate"
        case EndOfArchive():
            return None, ""


def is_inherited_recovery(name: str) -> bool:
    """Whether a setting steers a recovery, so that an inherited one would disturb ours."""
    return name in _INHERITED or name.startswith(_INHERITED_PREFIXES)


def write_recovery_block(auto_conf: bytes, settings: RecoverySettings) -> bytes:
    """`postgresql.auto.conf` with inherited recovery settings as comments and our block at the end, where it wins.

    What `postgresql.conf` and its includes inherited is overridden by that, too. The block of an earlier restore goes.
    """
    ours = {name for name, _ in settings.settings()}
    clean = _without_block(ConfFile.parse(auto_conf, source=AUTO_CONF))
    clean = clean.comment_out(lambda name: name in ours or is_inherited_recovery(name), note=NOTE)
    return clean.append(settings.lines()).to_bytes()


def _without_block(conf: ConfFile) -> ConfFile:
    """A block of an earlier restore is dropped only whole: what ALTER SYSTEM rewrote since is treated line by line."""
    kept = []
    begin, end = BEGIN.encode(), END.encode()
    raws = [line.raw.strip() for line in conf.lines]
    at = 0
    while at < len(raws):
        if raws[at] == begin and end in raws[at:]:
            at = raws.index(end, at) + 1
            continue
        kept.append(conf.lines[at])
        at += 1
    return ConfFile(tuple(kept))


def missing_parameters(configured: ConfTree, needed: Mapping[str, int]) -> dict[str, int]:
    """Of the parameters in `needed` (from pg_control) those that the restored files set lower, or not at all.

    A server that had them on its command line (Patroni does) leaves files with which recovery would be refused.
    """
    short: dict[str, int] = {}
    for name, default in _REQUIRED_DEFAULTS.items():
        found = configured.effective(name)
        value = default if found is None else parse_int(found.value)
        if name in needed and (value is None or value < needed[name]):
            short[name] = needed[name]
    return short


def preloads(configured: ConfTree, library: str) -> bool:
    names = configured.value("shared_preload_libraries").replace('"', "").split(",")
    return any(name.strip().rpartition("/")[2] == library for name in names)


def archives_by(configured: ConfTree) -> str:
    """What archives in the inherited configuration: its command or library; "" where archiving is off."""
    mode = configured.value("archive_mode", "off")
    if mode.lower() != "always" and not parse_bool(mode.encode()):
        return ""
    return configured.value("archive_library") or configured.value("archive_command")


def shell_command(program: Sequence[str], *placeholders: str) -> str:
    """A command for `restore_command` or `archive_command`: words quoted for the shell, `%` doubled, then placeholders.

    The placeholders (`%f`, `%p`) are put in quotes as they are: PostgreSQL replaces them before the shell reads them.
    """
    words = [shlex.quote(word).replace("%", "%%") for word in program]
    return " ".join([*words, *(f'"{placeholder}"' for placeholder in placeholders)])


def restore_command(program: Sequence[str], arguments: Iterable[str] = ()) -> str:
    """`program … wal fetch %f %p`; `program` is an absolute path and what must follow it to be pgrecall.

    A program that is gone or broken ends with 1, as Python does, and PostgreSQL takes that for the end of the archive.
    So "absent" has a status that nothing else gives, and the shell turns it into 1 and all others into 126.
    """
    call = shell_command([*program, "wal", "fetch", "--absent-status", str(ABSENT_STATUS), *arguments], "%f", "%p")
    return f"{call}; case $? in 0) exit 0;; {ABSENT_STATUS}) exit 1;; *) exit 126;; esac"


def archive_command(program: Sequence[str], arguments: Iterable[str] = ()) -> str:
    """`program … wal push %p`."""
    return shell_command([*program, "wal", "push", *arguments], "%p")
