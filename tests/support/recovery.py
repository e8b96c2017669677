"""A server protected by pgrecall in every way: backups, archive, restores of it; for tests of recovery."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pgrecall.clock import SystemClock
from pgrecall.domain.target import EndOfArchive, RecoveryRequest, RecoveryTarget
from pgrecall.observe.reporter import Reporter, Silent
from pgrecall.postgres.connection import connect
from pgrecall.postgres.recovery_settings import RecoveryAction
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from pgrecall.services.backup.request import BackupRequest, BackupResult
from pgrecall.services.backup.run import run_backup
from pgrecall.services.restore.execute import RestoreDone, execute_restore
from pgrecall.services.restore.plan import RestoreOptions, RestorePlan, plan_restore
from pgrecall.services.restore.recovery import Program
from pgrecall.services.restore.tablespaces import TablespaceMapping
from tests.conftest import NewServer
from tests.support.archive import SOURCE, Archive, archiving, wait_archived

SMALL_WAL = InitOptions(wal_segment_bytes=1 << 20)


@dataclass
class Protected:
    """A running server with its archive."""

    server: ScratchServer
    archive: Archive
    clock: SystemClock = field(default_factory=SystemClock)

    @classmethod
    def start(
        cls,
        new_server: NewServer,
        home: Path,
        *,
        options: InitOptions = SMALL_WAL,
        archives: bool = True,
        settings: dict[str, str] | None = None,
        before: Callable[[ScratchServer], None] = lambda _: None,
    ) -> "Protected":
        """`before` may change the data directory before the server's first start."""
        server = new_server(options=options, settings=settings, start=False)
        archive = Archive.of(server, home)
        if archives:
            server.settings.update(archiving(archive.command("wal push %p")))
        before(server)
        server.start()
        return cls(server, archive)

    def backup(self, *, full: bool = False) -> BackupResult:
        request = BackupRequest(
            pgdata=self.server.pgdata,
            connect=lambda: connect(self.server.conninfo(), env={}, pgdata=self.server.pgdata),
            state_dir=self.archive.home / "state-host",
            full=full,
            level=1,
        )
        return run_backup(request, self.archive.store, clock=self.clock, reporter=Silent())

    def switch(self) -> str:
        """End the segment now being written and wait until it is archived."""
        self.server.execute("select pg_current_xact_id()")  # a switch without WAL before it does nothing
        name = str(self.server.value("select pg_walfile_name(pg_switch_wal())"))
        wait_archived(self.server, name)
        return name

    def moment(self) -> datetime:
        found = self.server.value("select clock_timestamp()")
        assert isinstance(found, datetime)
        return found

    def plan(
        self,
        destination: Path,
        target: RecoveryTarget | None = None,
        *,
        inclusive: bool = True,
        timeline: int | None = None,
        from_label: str | None = None,
        become: str | None = None,
        action: RecoveryAction = RecoveryAction.PROMOTE,
        tablespaces: tuple[str, ...] = (),
        jobs: int = 2,
    ) -> RestorePlan:
        options = RestoreOptions(
            destination=destination,
            request=RecoveryRequest(target or EndOfArchive(), inclusive=inclusive, timeline=timeline or "latest"),
            from_label=from_label,
            become=become,
            action=action,
            tablespaces=tuple(TablespaceMapping.parse(each) for each in tablespaces),
            jobs=jobs,
        )
        return plan_restore(self.archive.store, options, now=self.clock.now())

    def restore(self, plan: RestorePlan, *, reporter: Reporter | None = None) -> RestoreDone:
        return execute_restore(plan, self.program, reporter=reporter or Silent(), clock=self.clock)

    @property
    def program(self) -> Program:
        """What restore_command and archive_command call: this source tree, this configuration."""
        words = ("/usr/bin/env", f"PYTHONPATH={SOURCE}", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-m", "pgrecall")
        return Program((*words, "--config", str(self.archive.config), "-c", "main"))

    def objects(self) -> set[str]:
        """Every object in the repository."""
        root = self.archive.home / "repository"
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
