"""Owns what a caller asks of a backup and what it is told about the outcome."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.observe.reporter import Reporter
from pgrecall.postgres.connection import Connection
from pgrecall.repository.manifest import DamagedPage


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRequest:
    """What the caller wants. `connect` opens a session with the server.

    full: every byte is compared, only what is new is stored. independent: nothing stored earlier is used.
    """

    pgdata: Path
    connect: Callable[[], Connection]
    state_dir: Path
    full: bool = False
    independent: bool = False
    jobs: int = 2
    level: int = 3
    fast_checkpoint: bool = True
    archive_wait: timedelta = timedelta(minutes=5)

    def kind(self, parent: object | None) -> BackupKind:
        """What the backup is called, given what it compares with."""
        return BackupKind.FULL if parent is None or self.full else BackupKind.INCR


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupResult:
    """What became of a run. Sizes in bytes; `took` in seconds."""

    label: BackupLabel
    parent: BackupLabel | None
    why: tuple[str, ...]
    start_lsn: Lsn
    stop_lsn: Lsn
    timeline: int
    started: datetime
    stopped: datetime
    took: float
    size: int
    read: int
    unchanged: int
    stored: int
    files: int
    packs: int
    self_contained: bool
    damage: tuple[DamagedPage, ...] = ()
    warnings: tuple[str, ...] = ()
    wal: tuple[str, str] = field(default=("", ""))
    """First and last segment that a restore needs."""

    @property
    def state(self) -> str:
        return "stored" if self.damage else "complete"


@dataclass(slots=True)
class Warnings:
    """What is told while it happens and stays in the commit."""

    reporter: Reporter
    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.texts.append(text)
        self.reporter.warn(text)
