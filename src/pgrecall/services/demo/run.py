"""The runbook of the demo: fill, protect, back up, go on, lose, recover, compare."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pgrecall.clock import Clock
from pgrecall.config import ClusterSettings, Settings, load_settings
from pgrecall.domain.humanize import format_bytes
from pgrecall.domain.target import AtTime, RecoveryRequest
from pgrecall.errors import PgrecallError, ScratchFailed
from pgrecall.observe.reporter import Reporter
from pgrecall.postgres.binaries import Binaries
from pgrecall.postgres.scratch import LOG_TAIL_LINES, ScratchServer
from pgrecall.repository.cluster import ClusterStore
from pgrecall.services.backup.request import BackupRequest, BackupResult
from pgrecall.services.backup.run import run_backup
from pgrecall.services.context import connect_cluster, data_directory, open_cluster
from pgrecall.services.demo.content import Fingerprint, compare, fingerprints
from pgrecall.services.demo.dataset import ACCIDENT, Dataset, accident, background_load, fill, work
from pgrecall.services.demo.interrupts import first_unwinds
from pgrecall.services.demo.place import CLUSTER, ORIGINAL_PORT, RECOVERED_PORT, Place, needed_bytes
from pgrecall.services.demo.report import BackupFigures, DemoReport, Kept, LossFigures, RecoveryFigures
from pgrecall.services.init.run import InitRequest, execute_init, plan_init
from pgrecall.services.init.server import archive_command
from pgrecall.services.restore.execute import execute_restore
from pgrecall.services.restore.plan import RestoreOptions, plan_restore
from pgrecall.services.restore.recovery import Program
from pgrecall.services.status import cluster_status

ARCHIVE_WAIT_SECONDS = 120
POLL_SECONDS = 0.05
SETTINGS: dict[str, str | int | bool] = {
    "listen_addresses": "",
    "max_connections": 20,
    "shared_buffers": "64MB",
    "min_wal_size": "80MB",
    "max_wal_size": "512MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": False,
    "dynamic_shared_memory_type": "mmap",  # files of the data directory: gone with it, even after a kill -9
}


@dataclass(frozen=True, kw_only=True)
class DemoRequest:
    """`home`: a directory to be made, removed afterwards unless `keep`. `outermost`: the one around it that is removed
    when what was kept is given up. `size` in bytes."""

    home: Path
    binaries: Binaries
    size: int
    jobs: int = 2
    keep: bool = False
    outermost: Path | None = None


class Step(Reporter, Protocol):
    """One step of the demo: a `Reporter`, and the one line that says how it went."""

    def says(self, text: str) -> None: ...


Steps = Callable[[str], AbstractContextManager[Step]]
"""Opens a step by its name; the context's end is the step's end."""


def run_demo(request: DemoRequest, steps: Steps, *, clock: Clock) -> DemoReport:
    """Do it all; what does not work is raised, tables that differ are in the report.

    Nothing is left behind, no process and no file, however this ends; with `keep` and a report, the stopped clusters
    and the repository stay.
    """
    with first_unwinds():
        demo = Demo(request, Place(request.home), steps, clock)
        try:
            try:
                demo.place.make(needed_bytes(request.size))
                return demo.run()
            except PgrecallError as error:
                raise demo.explained(error) from error
            finally:
                demo.clean_up()
        finally:
            demo.clean_up()  # once more: a signal may have cut the first short, and no second one comes


class Demo:
    """The steps, and what they leave for later ones."""

    def __init__(self, request: DemoRequest, place: Place, steps: Steps, clock: Clock) -> None:
        self.request, self.place, self.steps, self.clock = request, place, steps, clock
        self.dataset = Dataset.of_size(request.size)
        self.environment = place.environment()
        self.servers: list[ScratchServer] = []
        self.commits = 0
        self.left = False

    def run(self) -> DemoReport:
        began = self.clock.monotonic()
        original = self.fill()
        self.protect(original)
        with background_load(original, self.clock):
            full = self.backup("Full backup while it is written to", full=True)
            self.work(original)
            incremental = self.backup("Incremental backup while it is written to", full=False)
            self.work(original)
        loss = self.loss(original)
        with self.steps("Note the content of every table") as step:
            before = fingerprints(original)
            moment: datetime = original.value("select clock_timestamp()")
            rows = sum(each.rows for each in before.values())
            step.says(f"{len(before)} tables, {rows:,} rows, at {moment.astimezone(UTC):%H:%M:%S.%f} UTC")
        after_accident = self.accident(original)
        figures, recovered = self.recover(moment)
        with self.steps("Compare every table") as step:
            tables = compare(before, after_accident, fingerprints(recovered))
            step.says(f"{sum(each.matches for each in tables)} of {len(tables)} are identical")
        if self.request.keep:
            self.leave()
        status = cluster_status(self.open(), None)
        return DemoReport(
            postgres=self.request.binaries.version,
            database_bytes=sum(each.size for each in before.values()),
            tables=tables,
            commits=self.commits,
            moment=moment,
            accident=ACCIDENT,
            full=_figures(full),
            incremental=_figures(incremental),
            wal_segments=status.segments,
            wal_bytes=status.wal_bytes,
            repository_bytes=self.place.repository_bytes(),
            sealed=self.open().keys.sealed,
            recovery=figures,
            loss=loss,
            took=self.clock.monotonic() - began,
            kept=self.kept() if self.request.keep else None,
        )

    def fill(self) -> ScratchServer:
        binaries, place = self.request.binaries, self.place
        with self.steps(f"Start PostgreSQL {binaries.version}") as step:
            original = self.server(place.original).initdb()
            original.configure({**SETTINGS, **place.socket_settings(ORIGINAL_PORT)})
            original.start()
            step.says("an empty cluster, no TCP port, private to this demo")
        with self.steps("Fill it") as step:
            fill(original, self.dataset)
            size = int(original.value("select pg_database_size(current_database())"))
            step.says(
                f"{format_bytes(size)}: pgbench's bank, and a shop with {self.dataset.orders:,} orders (text and JSON)"
            )
        return original

    def protect(self, original: ScratchServer) -> None:
        """What `pgrecall init --apply` does, and the restart that archiving needs."""
        place = self.place
        with self.steps("Protect it: pgrecall init --apply") as step:
            request = InitRequest(
                config=place.config,
                repository=str(place.repository),
                pgdata=place.original,
                cluster=CLUSTER,
                apply=True,
            )
            plan = plan_init(request, environ=self.environment, clock=self.clock)
            program = (str(place.program),)
            plan = replace(plan, program=program, archive_command=archive_command(program, place.config, plan.cluster))
            result = execute_init(plan, environ=self.environment, clock=self.clock)
            if result.problem is not None:
                raise result.problem
            original.restart()
            self.settings: Settings = load_settings(place.config, environ=self.environment)
            self.cluster: ClusterSettings = self.settings.cluster([CLUSTER])
            step.says(
                f"{'sealed (AES-256-GCM)' if result.sealed else 'unsealed'} repository, WAL is archived from now on"
            )

    def backup(self, name: str, *, full: bool) -> BackupResult:
        with self.steps(name) as step:
            cluster = self.cluster
            request = BackupRequest(
                pgdata=data_directory(cluster),
                connect=lambda: connect_cluster(cluster, self.environment),
                state_dir=self.settings.state_directory(cluster.name),
                full=full,
                jobs=self.request.jobs,
                level=cluster.compression_level,
                archive_wait=cluster.archive_wait,
            )
            result = run_backup(request, self.open(), clock=self.clock, reporter=step)
            step.says(f"{format_bytes(result.size)} read, {format_bytes(result.stored)} stored ({result.label})")
        return result

    def work(self, original: ScratchServer) -> None:
        with self.steps("Business goes on") as step:
            commits = work(original, self.dataset)
            self.commits += commits
            step.says(f"{commits:,} more commits: orders placed, shipped, deleted; money moved")

    def loss(self, original: ScratchServer) -> LossFigures:
        """What would be gone if this whole machine were lost now: all after the last commit that is stored."""
        now: datetime = original.value("select clock_timestamp()")
        branch = cluster_status(self.open(), None).current
        assert branch is not None and branch.windows, "two complete backups open a window"
        last = branch.windows[-1].closes
        return LossFigures(
            at=now,
            last_stored_commit=last,
            seconds=max((now - last).total_seconds(), 0.0),
            archive_timeout=original.value("show archive_timeout"),
        )

    def accident(self, original: ScratchServer) -> dict[str, Fingerprint]:
        """Data is lost, and the WAL that knows of it reaches the repository."""
        with self.steps("ACCIDENT") as step:
            accident(original)
            step.says("; ".join(ACCIDENT))
        with self.steps("Wait for the WAL to be stored") as step:
            segment = original.value("select pg_walfile_name(pg_switch_wal())")
            self.wait_archived(original, segment)
            after = fingerprints(original)
            step.says(f"{segment} has arrived")
        return after

    def wait_archived(self, original: ScratchServer, segment: str) -> None:
        deadline = self.clock.monotonic() + ARCHIVE_WAIT_SECONDS
        while not original.value("select last_archived_wal >= %s from pg_stat_archiver", (segment,)):
            if self.clock.monotonic() > deadline:
                raise ScratchFailed(f"WAL segment {segment} was not archived within {ARCHIVE_WAIT_SECONDS} s")
            self.clock.sleep(POLL_SECONDS)

    def recover(self, moment: datetime) -> tuple[RecoveryFigures, ScratchServer]:
        """Beside the original, which goes on running."""
        began = self.clock.monotonic()
        with self.steps("Restore the files to the moment before") as step:
            options = RestoreOptions(
                destination=self.place.recovered,
                request=RecoveryRequest(AtTime(moment), inclusive=True, timeline="latest"),
                jobs=self.request.jobs,
            )
            plan = plan_restore(self.open(), options, now=self.clock.now())
            program = Program((str(self.place.program), "--config", str(self.place.config), "-c", CLUSTER))
            done = execute_restore(plan, program, reporter=step, clock=self.clock)
            step.says(f"{format_bytes(done.bytes)} in {done.files:,} files, from {plan.label}")
        restored = self.clock.monotonic()
        with self.steps("Replay the WAL up to that moment") as step:
            recovered = self.server(self.place.recovered)
            recovered.configure(self.place.socket_settings(RECOVERED_PORT))
            recovered.start()
            recovered.wait_promoted(timeout_s=ARCHIVE_WAIT_SECONDS)
            step.says(f"{len(plan.wal.names)} WAL segments at hand; the recovered server takes connections")
        ended = self.clock.monotonic()
        return RecoveryFigures(
            took=ended - began,
            files_took=restored - began,
            replay_took=ended - restored,
            backup=plan.label,
            bytes=done.bytes,
            files=done.files,
            wal_segments=len(plan.wal.names),
        ), recovered

    def open(self) -> ClusterStore:
        return open_cluster(self.settings, self.cluster, environ=self.environment)

    def server(self, pgdata: Path) -> ScratchServer:
        environment = {"LC_ALL": "C", **{name: value for name, value in self.environment.items() if name == "HOME"}}
        server = ScratchServer(self.request.binaries, pgdata, clock=self.clock, environment=environment)
        self.servers.append(server)
        return server

    def kept(self) -> Kept:
        return self.place.keep(self.request.binaries, self.request.outermost or self.place.home)

    def leave(self) -> None:
        """A clean end, so that pg_ctl starts both at once; from here on they stay."""
        for server in self.servers:
            server.stop("fast")
        self.left = True

    def clean_up(self) -> None:
        """Safe to repeat."""
        for server in self.servers:
            server.close()
        if not self.left:
            self.place.remove()

    def explained(self, error: PgrecallError) -> PgrecallError:
        """The error, with the end of each server's log unless it tells one already."""
        if "log ends" in error.message:
            return error
        for server in self.servers:
            if tail := server.log().splitlines()[-LOG_TAIL_LINES:]:
                error.message += f"\nThe log of {server.pgdata.name} ends:\n" + "\n".join(tail)
        return error


def _figures(result: BackupResult) -> BackupFigures:
    return BackupFigures(label=result.label, total=result.size, stored=result.stored, took=result.took)
