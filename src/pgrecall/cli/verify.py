"""`pgrecall verify [LABEL]`: every stored byte read and checked, every backup proven to be readable from them."""

from __future__ import annotations

from collections.abc import Iterator

import click

from pgrecall.cli.invocation import Invocation
from pgrecall.cli.options import argument, option, verb
from pgrecall.cli.output import Line, Span
from pgrecall.cli.table import Cell, table
from pgrecall.domain.humanize import format_bytes, format_duration
from pgrecall.errors import DamageFound, PgrecallError, StorageError, UsageError
from pgrecall.services.context import open_cluster
from pgrecall.services.verify.report import BackupReport, Flaw, Kind, VerifyReport
from pgrecall.services.verify.run import VerifyRequest, verify

SHOWN = 10
STYLES = {Kind.DAMAGED: "red", Kind.MISSING: "red", Kind.UNREADABLE: "red", Kind.WARNING: "yellow", Kind.NOTE: "dim"}


@verb(
    "verify",
    examples=[
        "pgrecall verify",
        "pgrecall verify latest --jobs 4",
        "pgrecall verify --sample 5%",
        "pgrecall verify --identity-file KIT",
    ],
    writes=True,
)
@argument("label", required=False)
@option("--jobs", type=click.IntRange(1, 64), metavar="N", help="How many readers; default: the cluster's `parallel`.")
@option("--sample", metavar="5%", help="Read only this share of packs and WAL, another one each time.")
def command(run: Invocation, label: str | None, jobs: int | None, sample: str | None) -> int:
    """Read and check every stored byte.

    Without LABEL everything that the repository holds of the cluster is read, each object once, however many backups
    need it: checksum, authentication, every chunk opened and compared with its hash, every WAL segment. Then each
    backup is proven to be readable: every range of every file must be made of what was just read, and have the digest
    that was noted when it was backed up. What is damaged is named, with the backups and files that it costs. LABEL (or
    `latest`) looks only at one backup and at what it needs.

    A damaged or lost pack gets a mark, and the next backup stores its contents anew from the running server; --dry-run
    leaves no mark. Verify proves that bytes are what they were, not that a server starts from them.

    Exit status: 0 all is well; 3 only warnings (gaps in the WAL among them); 6 the storage did not hand over something;
    9 damage found.
    """
    if label is not None and "/" in label:
        name, _, label = label.rpartition("/")
        run.apply("clusters", (name,))
    cluster = run.cluster()
    secret = run.identity()
    run.become_owner(cluster)
    store = open_cluster(run.settings(), cluster, identity=secret, environ=run.environ)
    request = VerifyRequest(
        label=label,
        sample=None if sample is None else parse_share(sample),
        jobs=jobs or cluster.parallel,
        secrets=(secret,) if secret else (),
        mark=not run.globals.dry_run,
    )
    report: VerifyReport | None = None
    failure: PgrecallError | None = None
    try:
        with run.unattended("verify", cluster) as unattended, run.progress() as progress:
            report = verify(request, store, clock=run.clock, reporter=progress)
            unattended.message = summary(report)
            failure = failure_of(report)
            if failure is not None:
                raise failure  # [notify] hears of it
    except PgrecallError as error:
        if report is None or error is not failure:
            raise
    assert report is not None, "no error, no report"
    run.emit("verify", 1, data=data(report), text=lambda: render(report))
    if failure is not None:
        return failure.exit_status
    return run.status([each.object for each in report.findings if each.kind is Kind.WARNING])


def parse_share(text: str) -> float:
    """`5%` as 0.05."""
    number = text.removesuffix("%")
    try:
        share = float(number) / 100
    except ValueError:
        share = -1.0
    if not text.endswith("%") or not 0 < share <= 1:
        raise UsageError(f"--sample {text} is no share", hint="--sample 5%")
    return share


def failure_of(report: VerifyReport) -> PgrecallError | None:
    match report.verdict:
        case Kind.DAMAGED | Kind.MISSING:
            return DamageFound(summary(report), hint="pgrecall verify shows objects, backups and files")
        case Kind.UNREADABLE:
            return StorageError(summary(report), hint="pgrecall verify shows what could not be read, and why")
    return None


def summary(report: VerifyReport) -> str:
    lost = [str(each.label) for each in report.backups if not each.readable]
    counts = [
        f"{count} {kind.value}"
        for kind in (Kind.DAMAGED, Kind.MISSING, Kind.UNREADABLE, Kind.WARNING)
        if (count := len(report.of(kind)))
    ]
    found = ", ".join(counts) or "all is well"
    cannot = f"; not readable as a whole: {', '.join(lost)}" if lost else ""
    return f"{report.cluster}: {report.objects:,} objects read, {format_bytes(report.bytes_read)}: {found}{cannot}"


def render(report: VerifyReport) -> Iterator[Line]:
    kind = "sealed" if report.sealed else "unsealed"
    yield (Span(report.cluster, "bold"), f"  {report.repository}, {kind}")
    for finding in report.findings:
        yield from _finding(finding)
    yield from table([_backup(each) for each in report.backups])
    yield from _sums(report)


def _finding(finding: Flaw) -> Iterator[Line]:
    mark = "; marked: the next backup stores its contents anew" if finding.marked else ""
    yield (Span(f"{finding.kind.value:<10}", STYLES[finding.kind]), f"{finding.object}: {finding.problem}{mark}")
    if finding.kind in (Kind.WARNING, Kind.NOTE):
        return
    by_backup: dict[str, list[str]] = {str(label): [] for label in finding.backups}
    for file in finding.files:
        by_backup.setdefault(str(file.backup), []).append(file.path)
    for label, paths in by_backup.items():
        shown = " ".join(paths[:SHOWN]) + (f" and {len(paths) - SHOWN:,} more" if len(paths) > SHOWN else "")
        yield f"          {label}: {shown or 'every file can be read'}"
    if finding.lost_files > len(finding.files):
        yield f"          {finding.lost_files:,} files in all"


def _backup(report: BackupReport) -> list[Cell]:
    if report.readable:
        state: Cell = Span("read", "green")
    else:
        parts = [f"{report.lost_files:,} files cannot be read"] if report.lost_files else []
        state = Span("; ".join([*parts, *report.problems]), "red")
    facts = [f"{format_bytes(report.bytes)} in {report.files:,} files"]
    if report.unknown_bytes:
        facts.append(f"{format_bytes(report.unknown_bytes)} without digest")
    if report.unread_bytes:
        facts.append(f"{format_bytes(report.unread_bytes)} left out by the sample")
    return [Span(str(report.label), "bold"), ", ".join(facts), state]


def _sums(report: VerifyReport) -> Iterator[Line]:
    again = f", {format_bytes(report.bytes_read_again)} of it twice" if report.bytes_read_again else ""
    rate = format_bytes(round((report.bytes_read + report.bytes_read_again) / max(report.took, 0.001)))
    proof = "authentic" if report.authentic else "intact (no key to tell who wrote it)"
    wrong = report.verdict is not None and report.verdict is not Kind.WARNING
    verdict = "The rest is" if wrong else "Everything is"
    yield (
        f"Read {report.objects:,} objects, {format_bytes(report.bytes_read)}{again}, "
        f"in {format_duration(report.took)} ({rate}/s). {verdict} {proof}."
    )
    if report.left_out:
        yield f"The sample left out {report.left_out:,} packs and WAL segments."
    for name in report.unopened:
        yield Span(f"not opened, the key for it was not given: {name}", "dim")


def data(report: VerifyReport) -> dict[str, object]:
    """Schema pgrecall.verify/1 (docs/json.md)."""
    names = ("cluster", "repository", "sealed", "authentic", "backup", "sample", "objects", "bytes_read", "left_out")
    more = ("bytes_read_again", "took", "unopened", "findings", "backups", "marked")
    verdict = report.verdict
    return {"verdict": verdict.value if verdict else "well"} | {name: getattr(report, name) for name in (*names, *more)}
