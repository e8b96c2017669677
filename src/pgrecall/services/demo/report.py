"""What the demo found out, as plain values for people and `--json` (docs/json.md, pgrecall.demo/1)."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pgrecall.domain.label import BackupLabel
from pgrecall.services.demo.content import TableResult


@dataclass(frozen=True, kw_only=True)
class BackupFigures:
    """Sizes in bytes: `total` is what a restore writes, `stored` what the run added. `took` in seconds."""

    label: BackupLabel
    total: int
    stored: int
    took: float


@dataclass(frozen=True, kw_only=True)
class RecoveryFigures:
    """From the command to a server that takes writes; durations in seconds."""

    took: float
    files_took: float
    replay_took: float
    backup: BackupLabel
    bytes: int
    files: int
    wal_segments: int


@dataclass(frozen=True, kw_only=True)
class LossFigures:
    """Had the host died at `at`: the newest commit in the repository, and the seconds that would be gone."""

    at: datetime
    last_stored_commit: datetime
    seconds: float
    archive_timeout: str


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What --keep left: data directories, repository, and scripts. `outermost` holds all of it.

    `run_by`: the user to whom it belongs, where that is not who called.
    """

    directory: Path
    outermost: Path
    run_by: str | None
    program: Path
    psql_original: Path
    psql_recovered: Path
    start: Path
    stop: Path
    repository: Path
    original: Path
    recovered: Path
    identity_file: Path


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """`accident`: the statements; `moment`: what was recovered to, just before them. Sizes in bytes, times in s."""

    postgres: str
    database_bytes: int
    tables: tuple[TableResult, ...]
    commits: int
    moment: datetime
    accident: tuple[str, ...]
    full: BackupFigures
    incremental: BackupFigures
    wal_segments: int
    wal_bytes: int
    repository_bytes: int
    sealed: bool
    recovery: RecoveryFigures
    loss: LossFigures
    took: float
    kept: Kept | None

    @property
    def matched(self) -> bool:
        return bool(self.tables) and all(table.matches for table in self.tables)
