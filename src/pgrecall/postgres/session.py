"""Owns how statements are run in a session and how their failures get a name."""

from typing import Any, LiteralString

import psycopg

from pgrecall.errors import PostgresError, RightsMissing, SessionLost
from pgrecall.postgres.connection import Connection


def query(conn: Connection, sql: LiteralString, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
    """All rows; SessionLost and RightsMissing instead of psycopg's errors."""
    try:
        return conn.execute(sql, parameters).fetchall()
    except psycopg.errors.InsufficientPrivilege as error:
        raise rights_missing(conn, error) from error
    except psycopg.Error as error:
        if conn.closed:
            raise session_lost(error) from error
        raise PostgresError(
            f"the server refused: {error.diag.message_primary or error}", hint=error.diag.message_hint
        ) from error


def session_lost(error: BaseException) -> SessionLost:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return SessionLost(
        f"the server ended our session: {lines[0]}", hint="See the server's log; run the command again when it is up."
    )


def rights_missing(conn: Connection, error: psycopg.Error) -> RightsMissing:
    message = error.diag.message_primary or str(error)
    return RightsMissing(
        f"role '{conn.info.user}' lacks a right: {message}", hint="pgrecall init --print sql", role=conn.info.user
    )
