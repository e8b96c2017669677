"""What a person is told of a restore: the plan before, the result after, as plain values for text and JSON."""

import os
import pwd
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pgrecall.domain.label import BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.target import AtTime, EndOfArchive
from pgrecall.errors import BinariesNotFound, PgrecallError
from pgrecall.postgres.binaries import find_binaries
from pgrecall.postgres.conffile import ConfTree, parse_bool, parse_int
from pgrecall.postgres.recovery_settings import RecoveryAction
from pgrecall.services.restore.execute import RestoreDone
from pgrecall.services.restore.plan import RestorePlan
from pgrecall.services.restore.tree import directory_mode

DEFAULT_PORT = 5432
START_SECONDS = 86400
"""pg_ctl waits that long; it needs no more than recovery's beginning, but a large directory is synced before that."""
START_LOG = "startup.log"
"""What the start command names: the one place that the server's user can surely write."""
SOCKET_DIRECTORIES = ("/tmp", "/var/run/postgresql", "/run/postgresql")
SUBSCRIBERS = (
    "Replication slots were not restored. Subscribers of its publications may be ahead of it: rebuild them or compare"
)
SUBSCRIPTIONS = "Its subscriptions are off (max_logical_replication_workers = 0): on would take the original's changes"


@dataclass(frozen=True, slots=True)
class TablespacePlace:
    oid: int
    original: Path
    place: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """The plan, for `--dry-run` and JSON. Sizes are bytes; `blockers`: what a real run would raise."""

    cluster: str
    target: str
    moment: datetime | None
    """Of a time target."""
    inclusive: bool
    timeline: int
    path: tuple[int, ...]
    backup: BackupLabel
    state: str
    reasons: tuple[str, ...]
    alternatives: tuple[BackupLabel, ...]
    start_lsn: Lsn
    end_lsn: Lsn
    wal_segments: int
    wal_bytes: int
    first_segment: str
    last_segment: str
    place: str
    stored_bytes: int
    requests: int
    bytes: int
    files: int
    destination: Path
    needed: int
    free: int
    tablespaces: tuple[TablespacePlace, ...]
    replay_places: tuple[Path, ...]
    action: str
    successor_of: str | None
    owner: str
    server: str
    notes: tuple[str, ...]
    blockers: tuple[PgrecallError, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """The result. `start`: the command that starts it, ready to be typed; `wait`: the shell line that returns when
    recovery has ended (only where the server then opens), `log`: the file that shows its progress.
    """

    plan: PlanReport
    files: int
    bytes: int
    took: float
    start: str
    wait: str | None
    log: Path
    port: int
    clone: bool
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def report_plan(plan: RestorePlan) -> PlanReport:
    target = plan.options.request.target
    names = plan.wal.names
    first = plan.space[0]
    return PlanReport(
        cluster=plan.cluster,
        target=str(target),
        moment=target.moment if isinstance(target, AtTime) else None,
        inclusive=plan.options.request.inclusive,
        timeline=plan.wal.history.timeline,
        path=tuple(plan.wal.history.path()),
        backup=plan.label,
        state=str(plan.state),
        reasons=plan.reasons,
        alternatives=plan.alternatives,
        start_lsn=plan.commit.start_lsn,
        end_lsn=plan.wal.end,
        wal_segments=len(names),
        wal_bytes=plan.wal_bytes,
        first_segment=names[0],
        last_segment=names[-1],
        place=plan.place,
        stored_bytes=plan.reading.stored_bytes,
        requests=plan.reading.requests + len(names),
        bytes=plan.manifest.size,
        files=plan.manifest.files,
        destination=plan.destination.path,
        needed=sum(each.needed for each in plan.space),
        free=first.free,
        tablespaces=tuple(TablespacePlace(each.oid, each.original, each.place) for each in plan.tablespaces),
        replay_places=plan.replay_places,
        action="promote" if isinstance(target, EndOfArchive) else str(plan.options.action),
        successor_of=plan.options.become,
        owner=_owner(plan),
        server=_server(plan),
        notes=plan.notes,
        blockers=plan.blockers,
    )


def report_done(done: RestoreDone) -> RestoreReport:
    plan, configured = done.plan, done.configured
    wanted = configured_port(configured.tree)
    port = free_port(wanted, _socket_directories(configured.tree))
    notes = [*plan.notes, *configured.notes, SUBSCRIBERS]
    if plan.is_clone:
        notes.append(SUBSCRIPTIONS)
    notes += [f"{place} was made, empty, for a tablespace that replay creates" for place in plan.replay_places]
    if any(link.path == b"pg_wal" for link in plan.manifest.links):
        notes.append("pg_wal was a link in the original; it is a plain directory here")
    if plan.ownership.default is not None:
        user = _user(plan.ownership.default[0])
        notes.append(f"restore_command runs as {user}, until recovery has ended: leave it configuration and key")
    if port != wanted:
        notes.append(f"port {wanted} is in use here, so the start command names {port}")
    return RestoreReport(
        plan=report_plan(plan),
        files=done.files,
        bytes=done.bytes,
        took=done.took_seconds,
        start=start_command(plan, port if port != wanted else None),
        wait=wait_command(plan, configured.tree, port) if _opens(plan) else None,
        log=_log(plan, configured.tree),
        port=port,
        clone=plan.is_clone,
        notes=tuple(notes),
        warnings=tuple(configured.warnings),
    )


def start_command(plan: RestorePlan, port: int | None) -> str:
    """`pg_ctl … start`, by the user that owns the files, on another port where one is given.

    A server that will open takes no queries before: read-only connections in mid-recovery would show old rows.
    """
    destination = plan.destination.path
    words = [_program(plan, "pg_ctl"), "-D", str(destination), "-l", str(destination / START_LOG)]
    words += ["-t", str(START_SECONDS)]
    options = ([f"-p {port}"] if port is not None else []) + (["-c hot_standby=off"] if _opens(plan) else [])
    if options:
        words += ["-o", " ".join(options)]
    command = shlex.join([*words, "start"])
    owner = plan.ownership.default
    return command if owner is None else f"runuser -u {shlex.quote(_user(owner[0]))} -- {command}"


def wait_command(plan: RestorePlan, configured: ConfTree, port: int) -> str:
    """pg_isready says 1 while the server recovers; pg_ctl itself does not wait for recovery's end (tried: 15, 18)."""
    words = [_program(plan, "pg_isready")]
    if configured.value("unix_socket_directories"):
        words += [word for place in _socket_directories(configured)[:1] for word in ("-h", str(place))]
    command = shlex.join([*words, "-p", str(port)])
    return f"while {command} -q; [ $? = 1 ]; do sleep 1; done; {command}"


def _log(plan: RestorePlan, configured: ConfTree) -> Path:
    """Where the server tells what it recovers: the file of the start command, or the directory of its collector."""
    if parse_bool(configured.value("logging_collector", "off").encode()):
        return plan.destination.path / configured.value("log_directory", "log")
    return plan.destination.path / START_LOG


def _opens(plan: RestorePlan) -> bool:
    """Whether it promotes at the end of its recovery, so that nobody needs to look at it before."""
    return plan.options.action is RecoveryAction.PROMOTE or isinstance(plan.options.request.target, EndOfArchive)


def configured_port(configured: ConfTree) -> int:
    return parse_int(configured.value("port", str(DEFAULT_PORT)).encode()) or DEFAULT_PORT


def free_port(wanted: int, socket_directories: Sequence[Path]) -> int:
    """The wanted port, or the next one on which nobody listens here."""
    for port in range(wanted, min(wanted + 100, 65536)):
        taken = any((place / f".s.PGSQL.{port}").exists() for place in socket_directories)
        if not taken and not _listens(port):
            return port
    return wanted


def _listens(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _socket_directories(configured: ConfTree) -> list[Path]:
    given = configured.value("unix_socket_directories")
    places = [each.strip().strip('"') for each in given.split(",")] if given else list(SOCKET_DIRECTORIES)
    return [Path(place) for place in places if place.startswith("/")]


def _program(plan: RestorePlan, name: str) -> str:
    try:
        return str(find_binaries(plan.manifest.cluster.version_num // 10000).program(name))
    except BinariesNotFound:
        return name


def _server(plan: RestorePlan) -> str:
    major = plan.manifest.cluster.version_num // 10000
    try:
        found = find_binaries(major)
    except BinariesNotFound:
        return (
            f"no PostgreSQL {major} was found on this host; the backup is of {plan.manifest.cluster.postgres_version}"
        )
    return f"server {found.version} in {found.bindir}"


def _owner(plan: RestorePlan) -> str:
    owner = plan.ownership.default
    mode = directory_mode(plan.manifest.directories[0].mode)
    return f"{_user(os.geteuid() if owner is None else owner[0])} ({mode:04o})"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
