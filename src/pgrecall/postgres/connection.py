"""Owns how a session with a server begins: where it is found, what is set, and that nothing sits in between."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from pgrecall.errors import PoolerRefused, ServerUnreachable, UsageError

Connection = psycopg.Connection[TupleRow]

APPLICATION_NAME = "pgrecall"
DEFAULT_DATABASE = "postgres"
CONNECT_TIMEOUT_SECONDS = 10
KEEPALIVE: Mapping[str, str] = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
# A backup session is idle for hours while files are read: nothing may end it.
UNLIMITED: tuple[LiteralString, ...] = (
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET idle_session_timeout = 0",
    "SET lock_timeout = 0",
    "SET default_transaction_read_only = off",
    "SET search_path = pg_catalog",
)
SHOWN = ("host", "hostaddr", "port", "user", "dbname", "service")


@dataclass(frozen=True, slots=True)
class PostmasterFile:
    """postmaster.pid (miscadmin.h: LOCK_FILE_LINE_*). `started` is in seconds since 1970."""

    pid: int
    data_directory: str
    started: int
    port: int | None
    socket_directory: str
    listen_address: str


def read_postmaster_file(pgdata: Path) -> PostmasterFile:
    """ServerUnreachable when no server runs on this directory (or its file cannot be read)."""
    path = pgdata / "postmaster.pid"
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        raise ServerUnreachable(
            f"no server runs on {pgdata}: it has no postmaster.pid",
            hint="Start the server, or name the right data directory or DSN.",
            pgdata=str(pgdata),
        ) from None
    except OSError as error:
        raise ServerUnreachable(
            f"{path} cannot be read: {error.strerror}",
            hint="Run as the operating-system user that owns the data directory.",
            pgdata=str(pgdata),
        ) from error
    lines = [*text.splitlines(), *[""] * 8]
    try:
        port = int(lines[3]) if lines[3].strip() else None
        # Single-user and bootstrap servers write a negative pid.
        return PostmasterFile(int(lines[0]), lines[1], int(lines[2]), port, lines[4].strip(), lines[5].strip())
    except ValueError:
        raise ServerUnreachable(
            f"{path} is incomplete: the server is starting or stopping",
            hint="Try again when the server is up.",
            pgdata=str(pgdata),
        ) from None


def connect(
    dsn: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    pgdata: Path | None = None,
    dbname: str = DEFAULT_DATABASE,
) -> Connection:
    """An autocommit session without time limits, proven to be a server's own session and not a pooler's.

    `dsn` (key=value, URI, `service=…`) beats `pgdata` (its postmaster.pid names socket and port), which beats the PG*
    variables; these fill in what the others leave open, as libpq does it. `dbname` is used where nobody names one.
    Raise ServerUnreachable naming what was tried, PoolerRefused.
    """
    parameters = connection_parameters(dsn, env=env, pgdata=pgdata, dbname=dbname)
    try:
        conn = _open(parameters)
    except psycopg.errors.InvalidCatalogName as error:
        # A service file names no database and libpq took the user's name.
        if parameters.get("dbname"):
            raise _unreachable(parameters, error) from error
        conn = _open_or_raise({**parameters, "dbname": dbname})
    except psycopg.OperationalError as error:
        raise _unreachable(parameters, error) from error
    try:
        refuse_pooler(conn)
        for statement in UNLIMITED:
            conn.execute(statement)
    except psycopg.OperationalError as error:
        conn.close()
        raise _unreachable(parameters, error) from error
    except BaseException:
        conn.close()
        raise
    return conn


def connection_parameters(
    dsn: str | None, *, env: Mapping[str, str] | None, pgdata: Path | None, dbname: str = DEFAULT_DATABASE
) -> dict[str, str]:
    """libpq's parameters, complete but for what libpq itself takes from the process environment."""
    process = os.environ if env is None else env
    given = _parse_dsn(dsn) if dsn else {}
    found = _from_pgdata(pgdata) if pgdata is not None and not dsn else {}
    parameters = {**KEEPALIVE, **_from_environment(process), **found, **given}
    parameters["application_name"] = APPLICATION_NAME
    # A character set of its own would recode backup_label.
    parameters["client_encoding"] = "utf8"
    if "connect_timeout" not in parameters and "PGCONNECT_TIMEOUT" not in process:
        parameters["connect_timeout"] = str(CONNECT_TIMEOUT_SECONDS)
    uses_service = "service" in parameters or "PGSERVICE" in process
    if not uses_service and "dbname" not in parameters and "PGDATABASE" not in process:
        parameters["dbname"] = dbname
    return parameters


def refuse_pooler(conn: Connection) -> None:
    """Raise PoolerRefused unless the session is one backend's from beginning to end.

    A server announces the backend's pid in BackendKeyData; PgBouncer, Odyssey, PgCat and their like announce numbers of
    their own there, since one cancel key must follow a client over many backends.
    """
    try:
        row = conn.execute(
            "SELECT pg_backend_pid(), (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid())"
        ).fetchone()
    except psycopg.errors.Error as error:
        # PgBouncer's console speaks the protocol, but no SQL.
        if isinstance(error, psycopg.OperationalError) and conn.closed:
            raise
        raise PoolerRefused(f"what answers is no PostgreSQL server: {_first_line(error)}", hint=_POOLER_HINT) from error
    assert row is not None
    pid, backend_type = row
    announced = conn.info.backend_pid
    if pid != announced:
        raise PoolerRefused(
            f"a connection pooler sits between us and the server (announced session {announced}, got {pid})",
            hint=_POOLER_HINT,
            announced=announced,
            backend=pid,
        )
    if backend_type not in ("client backend", None):
        raise PoolerRefused(f"this is no client session but a '{backend_type}'", hint=_POOLER_HINT)


_POOLER_HINT = "Name the server's own host and port, or its Unix socket."


def _open(parameters: Mapping[str, str]) -> Connection:
    return psycopg.connect(make_conninfo("", **parameters), autocommit=True, prepare_threshold=None)


def _open_or_raise(parameters: Mapping[str, str]) -> Connection:
    try:
        return _open(parameters)
    except psycopg.OperationalError as error:
        raise _unreachable(parameters, error) from error


def _parse_dsn(dsn: str) -> dict[str, str]:
    try:
        parsed = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # libpq's message may quote the whole string, password and all.
        raise UsageError(
            "the DSN cannot be read",
            hint="Write 'host=db1 port=5432 user=backup', 'postgresql://backup@db1:5432' or 'service=NAME'.",
        ) from None
    return {key: str(value) for key, value in parsed.items() if value is not None}


def _from_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The PG* variables in which `env` differs from the process's own; libpq reads the others, by its own rules."""
    found = {}
    for option in psycopg.pq.Conninfo.get_defaults():
        variable = option.envvar.decode() if option.envvar else ""
        if variable and variable in env and env[variable] != os.environ.get(variable):
            found[option.keyword.decode()] = env[variable]
    return found


def _from_pgdata(pgdata: Path) -> dict[str, str]:
    """Socket directory (or, without one, address) and port of the server that runs on a data directory."""
    postmaster = read_postmaster_file(pgdata)
    host = postmaster.socket_directory or postmaster.listen_address
    if postmaster.socket_directory and not host.startswith(("/", "@")):
        host = str((pgdata / host).resolve())  # a socket directory may be relative to the data directory
    if host in ("*", "0.0.0.0", "::"):
        host = "localhost"
    if not host or postmaster.port is None:
        raise ServerUnreachable(
            f"the server on {pgdata} has no socket and no address yet",
            hint="Try again when the server is up.",
            pgdata=str(pgdata),
        )
    return {"host": host, "port": str(postmaster.port)}


def _unreachable(parameters: Mapping[str, str], error: psycopg.Error) -> ServerUnreachable:
    tried = describe(parameters)
    why = _first_line(error)
    hint = "Is the server up, and does it listen there?"
    told = str(error).lower()
    if "role" in told and "does not exist" in told:
        hint = "Name the role: user=… in the DSN, or PGUSER."
    elif "authentication failed" in told or "no password supplied" in told:
        hint = "Check user and password (PGPASSFILE, passfile=…), and the server's pg_hba.conf."
    return ServerUnreachable(f"cannot connect to PostgreSQL ({tried}): {why}", hint=hint, tried=tried)


def describe(parameters: Mapping[str, str]) -> str:
    """Where a connection goes, for people: never a password."""
    shown = {key: parameters[key] for key in SHOWN if parameters.get(key)}
    for key, variable in (("host", "PGHOST"), ("port", "PGPORT"), ("user", "PGUSER"), ("service", "PGSERVICE")):
        if key not in shown and os.environ.get(variable) and "service" not in shown:
            shown[key] = os.environ[variable]
    return make_conninfo("", **shown) or "libpq's defaults"


def _first_line(error: BaseException) -> str:
    """libpq's message without the lines about where we looked, which the message names anyway."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
