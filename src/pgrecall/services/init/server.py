"""The server's side of init: what it must be set to, as SQL, and doing it when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pgrecall.clock import Clock
from pgrecall.errors import PostgresError
from pgrecall.postgres import recovery_settings
from pgrecall.postgres.connection import Connection, connect
from pgrecall.postgres.requirements import Level, Mode, ServerFinding, SettingChange, review_settings, settings_changes
from pgrecall.postgres.server import prove_same_server, read_facts


@dataclass(frozen=True, kw_only=True)
class ServerReview:
    """`changes` are still to be made, unless `applied`; `findings` are what stays wrong beyond them."""

    version: str
    changes: tuple[SettingChange, ...]
    findings: tuple[ServerFinding, ...]
    applied: bool

    @property
    def restart_needed(self) -> tuple[str, ...]:
        return tuple(change.name for change in self.changes if change.needs == "restart")


def archive_command(program: Sequence[str], config: Path, cluster: str) -> str:
    """`/abs/pgrecall --config /abs/pgrecall.toml wal push -c main "%p"`: what a successor made by restore has, too."""
    return recovery_settings.archive_command([*program, "--config", str(config)], ["-c", cluster])


def review_server(
    pgdata: Path, dsn: str | None, command: str, *, apply: bool, clock: Clock, environ: Mapping[str, str]
) -> ServerReview:
    """Ask the server what it lacks and, with `apply`, set it. ServerUnreachable, WrongCluster, RightsMissing."""
    with connect(dsn, env=environ, pgdata=pgdata) as conn:
        prove_same_server(conn, pgdata, clock)
        facts = read_facts(conn)
        changes = settings_changes(facts, archive_command=command)
        if apply:
            _apply(conn, changes)
        changed = {change.name for change in changes}
        findings = review_settings(facts, mode=Mode.ARCHIVE, archive_command=command)
        rest = tuple(each for each in findings if each.level is not Level.OK and each.what not in changed)
        return ServerReview(version=facts.version, changes=changes, findings=rest, applied=apply)


def _apply(conn: Connection, changes: Sequence[SettingChange]) -> None:
    try:
        for change in changes:
            conn.execute(change.sql.encode())
        if changes:
            conn.execute("SELECT pg_reload_conf()")
    except psycopg.Error as error:
        what = error.diag.message_primary or str(error).splitlines()[0]
        raise PostgresError(
            f"a setting was refused: {what}", hint="run it as a superuser: pgrecall init --print sql"
        ) from error
