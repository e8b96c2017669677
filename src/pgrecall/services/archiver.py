"""How PostgreSQL's archiver fares: what it sent last, what it failed at last, what waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pgrecall.postgres.connection import Connection
from pgrecall.postgres.pgwal import read_archive_status
from pgrecall.postgres.session import query


@dataclass(frozen=True, kw_only=True)
class ArchiverState:
    """pg_stat_archiver, and the segments marked `.ready`; `waiting` None where their directory cannot be read."""

    archived_count: int
    last_archived: str | None
    last_archived_at: datetime | None
    failed_count: int
    last_failed: str | None
    last_failed_at: datetime | None
    waiting: int | None

    @property
    def failing(self) -> bool:
        """The last attempt failed."""
        if self.last_failed_at is None:
            return False
        return self.last_archived_at is None or self.last_failed_at > self.last_archived_at


def read_archiver(conn: Connection, pgdata: Path | None) -> ArchiverState:
    ((archived, last, last_at, failed, last_failed, last_failed_at),) = query(
        conn,
        "SELECT archived_count, last_archived_wal, last_archived_time, failed_count, last_failed_wal, last_failed_time"
        " FROM pg_stat_archiver",
    )
    return ArchiverState(
        archived_count=archived,
        last_archived=last,
        last_archived_at=last_at,
        failed_count=failed,
        last_failed=last_failed,
        last_failed_at=last_failed_at,
        waiting=_count_ready(pgdata) if pgdata else None,
    )


def _count_ready(pgdata: Path) -> int | None:
    try:
        return len(read_archive_status(pgdata).ready)
    except OSError:
        return None
