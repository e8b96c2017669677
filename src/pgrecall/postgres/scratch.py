"""A scratch server: PostgreSQL on a directory of our own; started, asked, stopped or crashed, never left behind."""

import atexit
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psycopg
from psycopg.conninfo import make_conninfo

from pgrecall.clock import Clock, SystemClock
from pgrecall.errors import Refused, ScratchFailed
from pgrecall.postgres.binaries import Binaries
from pgrecall.postgres.conffile import quote
from pgrecall.postgres.processes import descendants, is_alive

StopMode = Literal["smart", "fast", "immediate"]

STOP_SIGNALS: Mapping[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
SUPERUSER = "postgres"
SOCKET_PORT = 5432  # only the socket file's name: nothing listens on TCP
SOCKET_PATH_BYTES = 100  # sockaddr_un holds 107; a replication client may add a suffix
POLL_SECONDS = 0.02
LOG_TAIL_LINES = 15


@dataclass(frozen=True)
class InitOptions:
    """What initdb decides for the cluster's whole life."""

    checksums: bool = True
    wal_segment_bytes: int = 16 << 20
    locale: str = "C"
    group_access: bool = False
    extra: tuple[str, ...] = ()


def initdb(binaries: Binaries, pgdata: Path, options: InitOptions | None = None) -> None:
    """Make a new cluster with its own system identifier; the superuser is `postgres`, trusted on the private socket."""
    wanted = options or InitOptions()
    argv = [str(binaries.program("initdb")), "-D", str(pgdata), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8"]
    argv += [
        f"--locale={wanted.locale}",
        f"--wal-segsize={wanted.wal_segment_bytes >> 20}",
        "--no-sync",
        "--no-instructions",
    ]
    if wanted.checksums:
        argv.append("--data-checksums")
    elif binaries.major >= 18:  # before 18 off is the default and the option is unknown
        argv.append("--no-data-checksums")
    if wanted.group_access:
        argv.append("--allow-group-access")
    done = subprocess.run([*argv, *wanted.extra], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ScratchFailed(f"initdb of {pgdata} failed:\n{done.stdout}{done.stderr}".rstrip())


def isolation(pgdata: Path, run_dir: Path) -> dict[str, str]:
    """Overrides that cut a restored copy off from the world: command line options beat every configuration file.

    Archiving, subscriptions, schedulers, TCP, files of the original and waiting for standbys are off; preloaded
    libraries stay, since the WAL may need their resource managers. `run_dir` gets a pg_hba.conf of our own.
    """
    hba = run_dir / "pg_hba.conf"
    hba.write_text("local all all trust\nlocal replication all trust\n", encoding="utf-8")
    ident = run_dir / "pg_ident.conf"
    ident.write_text("", encoding="utf-8")
    overrides = {
        "data_directory": str(pgdata),
        "hba_file": str(hba),
        "ident_file": str(ident),
        "external_pid_file": "",
        "ssl": "off",
        "archive_mode": "off",
        "archive_command": "",
        "archive_library": "",
        "recovery_end_command": "",
        "archive_cleanup_command": "",
        "primary_conninfo": "",
        "primary_slot_name": "",
        "synchronous_standby_names": "",
        "max_logical_replication_workers": "0",
        "cron.launch_active_jobs": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
    }
    if not (pgdata / "postgresql.conf").exists():
        config = run_dir / "postgresql.conf"
        config.write_text("# the original's configuration lay outside its data directory\n", encoding="utf-8")
        overrides["config_file"] = str(config)
    return overrides


def private_socket_dir() -> Path:
    """A fresh 0700 directory whose path is short enough for a Unix socket; the caller removes it."""
    for base in (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp"):
        if not base or not os.access(base, os.W_OK | os.X_OK):
            continue
        if len(os.fsencode(base)) + len("/pgr-12345678/.s.PGSQL.12345") < SOCKET_PATH_BYTES:
            return Path(tempfile.mkdtemp(prefix="pgr-", dir=base))
    raise Refused(
        f"no temporary directory has a path short enough for a Unix socket (tried {tempfile.gettempdir()})",
        hint="Set TMPDIR to a short path.",
    )


@dataclass(eq=False)
class ScratchServer:
    """One server on one data directory. Use as a context manager: leaving it stops the server at once and removes the
    socket directory; the data directory stays. What still runs when Python ends is stopped, too.

    `settings` are given on the command line at each start; `configure` writes into postgresql.conf. With `isolated` the
    overrides of `isolation` are added: for a restored copy of somebody's cluster.
    """

    binaries: Binaries
    pgdata: Path
    settings: dict[str, str] = field(default_factory=dict)
    isolated: bool = False
    clock: Clock = field(default_factory=SystemClock)
    environment: dict[str, str] = field(default_factory=dict)
    socket_dir: Path = field(init=False, default_factory=private_socket_dir)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    # life -----------------------------------------------------------------------------------------------------------
    def initdb(self, options: InitOptions | None = None) -> Self:
        initdb(self.binaries, self.pgdata, options)
        return self

    def start(self, *, wait: bool = True, timeout_s: float = 60) -> Self:
        """Start it; with `wait`, return when it takes connections (a standby: when it is consistent)."""
        assert not self.running, f"{self.pgdata} is running already"
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command_line(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._server_environment(),
                start_new_session=True,  # Ctrl-C on the terminal is ours to handle
            )
        _RUNNING.add(self)
        if wait:
            self.wait_ready(timeout_s=timeout_s)
        return self

    def stop(self, mode: StopMode = "fast", *, timeout_s: float = 120) -> None:
        """Stop it; no error if it does not run."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(STOP_SIGNALS[mode])
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.crash()
            raise ScratchFailed(
                f"{self.pgdata} did not stop ({mode}) within {timeout_s:.0f} s{self._log_tail()}"
            ) from None
        finally:
            if process.poll() is not None:
                self._forget()

    def crash(self) -> None:
        """Kill the server and every process below it at the same instant, as a power cut would."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)  # nothing is started behind our back while we look
            below = descendants(process.pid)
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()
            while any(is_alive(pid) for pid in below):  # one may be inside a write that ends before it dies
                self.clock.sleep(POLL_SECONDS)
        process.wait()
        self._forget()

    def restart(self, mode: StopMode = "fast", *, timeout_s: float = 60) -> Self:
        self.stop(mode)
        return self.start(timeout_s=timeout_s)

    def close(self) -> None:
        """Stop at once and remove the socket directory and our log."""
        self.stop("immediate")
        shutil.rmtree(self.socket_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        assert self._process is not None, f"{self.pgdata} was not started"
        return self._process.pid

    @property
    def log_path(self) -> Path:
        return self.socket_dir / "server.log"

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    # waiting --------------------------------------------------------------------------------------------------------
    def wait_ready(self, *, timeout_s: float = 60) -> None:
        """Return when connections are taken; ScratchFailed with the log's end when it died or took too long."""
        self._wait_until(self._takes_connections, "did not take connections", timeout_s)

    def wait_promoted(self, *, timeout_s: float = 60) -> None:
        """Return when recovery has ended and writes are possible."""

        def promoted() -> bool:
            if not self._takes_connections():
                return False
            try:
                return self.value("select not pg_is_in_recovery()") is True
            except psycopg.OperationalError:  # a moment between consistency and promotion
                return False

        self._wait_until(promoted, "did not end recovery", timeout_s)

    def wait_exit(self, *, timeout_s: float = 60) -> int:
        """Wait for a server that ends by itself (recovery_target_action=shutdown, FATAL); its exit status."""
        assert self._process is not None, f"{self.pgdata} was not started"
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ScratchFailed(f"{self.pgdata} still ran after {timeout_s:.0f} s{self._log_tail()}") from None
        self._forget()
        return status

    # talking --------------------------------------------------------------------------------------------------------
    def conninfo(self, dbname: str = SUPERUSER, **more: str | int) -> str:
        """A connection string for psycopg, libpq or a DSN option of ours."""
        parts: dict[str, Any] = {"host": str(self.socket_dir), "port": SOCKET_PORT, "user": SUPERUSER, "dbname": dbname}
        return make_conninfo(**{**parts, **more})

    def client_environment(self) -> dict[str, str]:
        """PG* variables under which PostgreSQL's client programs, and pgrecall, find this server."""
        ours = {
            "PGHOST": str(self.socket_dir),
            "PGPORT": str(SOCKET_PORT),
            "PGUSER": SUPERUSER,
            "PGDATABASE": SUPERUSER,
        }
        return {**_environment_without_postgres(), **ours}

    def connect(self, dbname: str = SUPERUSER, *, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.conninfo(dbname), autocommit=autocommit)

    def query(
        self, sql: str, params: tuple[object, ...] | None = None, *, dbname: str = SUPERUSER
    ) -> list[tuple[Any, ...]]:
        """All rows of one statement; an empty list for a statement without rows."""
        with self.connect(dbname) as connection:
            cursor = connection.execute(sql, params)
            return cursor.fetchall() if cursor.description is not None else []

    def value(self, sql: str, params: tuple[object, ...] | None = None, *, dbname: str = SUPERUSER) -> Any:
        """The first column of the first row."""
        return self.query(sql, params, dbname=dbname)[0][0]

    def execute(self, *statements: str, dbname: str = SUPERUSER) -> None:
        """Statements one by one, each its own transaction, over one connection."""
        with self.connect(dbname) as connection:
            for statement in statements:
                connection.execute(statement)

    def run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One of PostgreSQL's client programs against this server; ScratchFailed with its output when it fails."""
        argv = [str(self.binaries.program(program)), *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=self.client_environment())
        if check and done.returncode != 0:
            output = f"{done.stdout}{done.stderr}".rstrip()
            raise ScratchFailed(f"{program} {' '.join(arguments)} ended with {done.returncode}:\n{output}")
        return done

    def configure(self, settings: Mapping[str, str | int | bool], *, file: str = "postgresql.conf") -> Self:
        """Append settings to a configuration file; they count from the next start or reload."""
        with (self.pgdata / file).open("a", encoding="utf-8") as config:
            config.writelines(f"{name} = {quote_setting(value)}\n" for name, value in settings.items())
        return self

    # inside ---------------------------------------------------------------------------------------------------------
    def _command_line(self) -> list[str]:
        overrides = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
            "port": str(SOCKET_PORT),
        }
        if self.isolated:
            overrides.update(isolation(self.pgdata, self.socket_dir))
        argv = [str(self.binaries.program("postgres")), "-D", str(self.pgdata)]
        for name, value in {**self.settings, **overrides}.items():
            argv += ["-c", f"{name}={value}"]
        return argv

    def _server_environment(self) -> dict[str, str]:
        return {**_environment_without_postgres(), "LC_MESSAGES": "C", **self.environment}

    def _takes_connections(self) -> bool:
        """As pg_ctl asks: line 8 of postmaster.pid, written by this very process."""
        try:
            lines = (self.pgdata / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(self.pid) and lines[7].strip() in ("ready", "standby")

    def _wait_until(self, reached: Callable[[], bool], failure: str, timeout_s: float) -> None:
        deadline = self.clock.monotonic() + timeout_s
        while not reached():
            if not self.running:
                tail = self._log_tail()
                status = self._process.returncode if self._process else None
                self._forget()
                raise ScratchFailed(f"{self.pgdata} {failure}: it ended with status {status}{tail}")
            if self.clock.monotonic() > deadline:
                raise ScratchFailed(f"{self.pgdata} {failure} within {timeout_s:.0f} s{self._log_tail()}")
            self.clock.sleep(POLL_SECONDS)

    def _log_tail(self) -> str:
        tail = self.log().splitlines()[-LOG_TAIL_LINES:]
        return "; its log ends:\n" + "\n".join(tail) if tail else "; its log is empty"

    def _forget(self) -> None:
        _RUNNING.discard(self)
        self._process = None


def quote_setting(value: str | int | bool) -> str:
    """A value as postgresql.conf wants it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return str(value)
    return quote(value).decode("utf-8", "surrogateescape")


def _environment_without_postgres() -> dict[str, str]:
    """PGDATA, PGPORT… of the caller's own server must not reach ours; PGRECALL_… is not PostgreSQL's."""
    return {name: value for name, value in os.environ.items() if not re.match(r"PG(?!RECALL)", name)}


_RUNNING: set[ScratchServer] = set()


@atexit.register
def _stop_all() -> None:
    for server in list(_RUNNING):
        with contextlib.suppress(OSError, ScratchFailed):
            server.close()
