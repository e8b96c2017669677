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
    """What --keep left; `socket_directory` is that of both servers."""

    directory: Path
    program: Path
    repository: Path
    identity_file: Path
    original: Path
    original_port: int
    recovered: Path
    recovered_port: int
    socket_directory: Path
    bindir: Path
    remove: Path
    """The directory that holds all of it."""
    run_by: str | None
    """User whose server programs these are, where that is not who called."""

    def as_user(self, line: str) -> str:
        return line if self.run_by is None else f"runuser -u {self.run_by} -- {line}"


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
