"""Clusters for tests: templates to copy, fingerprints of every table, amcheck, and load in the background."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import sql

from pgrecall.postgres.binaries import Binaries
from pgrecall.postgres.scratch import InitOptions, ScratchServer, initdb

# Fast and honest: everything that shapes files and WAL is as in production. fsync is off because no test cuts the
# power; a killed server loses nothing without it.
QUICK_SETTINGS = {
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "20",
    "log_checkpoints": "off",
    "wal_level": "replica",
    "timezone": "UTC",
}


class Templates:
    """Directories made by initdb once, handed out as copies."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: dict[tuple[Path, InitOptions], Path] = {}

    def copy(self, binaries: Binaries, options: InitOptions, pgdata: Path) -> None:
        key = (binaries.bindir, options)
        if key not in self._made:
            template = self._root / f"pg{binaries.major}-{len(self._made)}"
            initdb(binaries, template, options)
            self._made[key] = template
        shutil.copytree(self._made[key], pgdata, symlinks=True)


class Fingerprint(NamedTuple):
    """A table's content: two tables with equal fingerprints hold the same rows, in whatever order."""

    rows: int
    digest: str


# The sum over rows of 2×52 bits of each row's md5: independent of the order, sensitive to duplicates.
_FINGERPRINT = """
select count(*),
       coalesce(sum(('x' || substr(md5(t::text), 1, 13))::bit(52)::bigint), 0)::text || ':' ||
       coalesce(sum(('x' || substr(md5(t::text), 14, 13))::bit(52)::bigint), 0)::text
from only {table} as t
"""
_TABLES = """
select n.nspname, c.relname, c.relkind from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm', 'S') and c.relpersistence = 'p'
  and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_t'
order by 1, 2
"""


def table_fingerprints(server: ScratchServer) -> dict[tuple[str, str], Fingerprint]:
    """(database, schema.table) → content, for every logged table, sequence and materialized view of every database.

    Read with sequential scans only, in one repeatable-read snapshot per database. Unlogged tables are left out:
    recovery empties them.
    """
    found: dict[tuple[str, str], Fingerprint] = {}
    for (database,) in server.query("select datname from pg_database where datallowconn order by 1"):
        with server.connect(database, autocommit=False) as connection:
            found.update(_fingerprints(connection, database))
    return found


def _fingerprints(
    connection: psycopg.Connection[tuple[object, ...]], database: str
) -> Iterator[tuple[tuple[str, str], Fingerprint]]:
    connection.execute("set transaction isolation level repeatable read")
    connection.execute("set local enable_indexscan = off")
    connection.execute("set local enable_indexonlyscan = off")
    connection.execute("set local enable_bitmapscan = off")
    for schema, name, kind in connection.execute(_TABLES).fetchall():
        table = sql.Identifier(str(schema), str(name))
        # WAL logs a sequence 32 values ahead: what it holds after recovery may be ahead of what was seen
        query = sql.SQL("select 1, 'sequence'") if kind == "S" else sql.SQL(_FINGERPRINT).format(table=table)
        row = connection.execute(query).fetchone()
        assert row is not None
        yield (database, f"{schema}.{name}"), Fingerprint(int(str(row[0])), str(row[1]))


def amcheck(server: ScratchServer) -> None:
    """Check every heap and index of every database; ScratchFailed with pg_amcheck's words if one is broken.

    Needs contrib: mark the test `contrib`.
    """
    server.run("pg_amcheck", "--all", "--install-missing", "--heapallindexed", "--no-dependent-toast")


def checksums_are_good(server: ScratchServer) -> bool:
    """pg_checksums over the files of a stopped server."""
    assert not server.running, "pg_checksums wants a stopped server"
    argv = [str(server.binaries.program("pg_checksums")), "--check", "-D", str(server.pgdata)]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def pgbench_running(
    server: ScratchServer, *, scale: int = 1, clients: int = 2, rate: int = 200, dbname: str = "postgres"
) -> Iterator[None]:
    """pgbench's own load on `dbname` while the block runs; its tables are made if they are missing."""
    if server.value("select to_regclass('pgbench_accounts') is null", dbname=dbname):
        server.run("pgbench", "-i", "-q", "-s", str(scale), dbname)
    argv = [
        str(server.binaries.program("pgbench")),
        "-n",
        "-c",
        str(clients),
        "-j",
        "1",
        "-R",
        str(rate),
        "-T",
        "3600",
        dbname,
    ]
    load = subprocess.Popen(argv, env=server.client_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        load.terminate()
        load.wait()
