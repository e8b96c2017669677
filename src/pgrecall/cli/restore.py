"""`pgrecall restore`: bring a cluster back, to any moment, into a directory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import click

from pgrecall.cli.invocation import Invocation
from pgrecall.cli.options import argument, option, verb
from pgrecall.cli.output import Line, Span
from pgrecall.cli.zone import Zone
from pgrecall.config import ClusterSettings
from pgrecall.domain.humanize import format_bytes, format_duration, format_time
from pgrecall.domain.target import RecoveryRequest, RecoveryTarget, parse_target, parse_timeline
from pgrecall.errors import TimeAmbiguous, UsageError, ValueInvalid
from pgrecall.postgres.recovery_settings import RecoveryAction
from pgrecall.services.context import open_cluster
from pgrecall.services.init.local import program_words
from pgrecall.services.restore.execute import execute_restore
from pgrecall.services.restore.plan import RestoreOptions, RestorePlan, plan_restore
from pgrecall.services.restore.recovery import Program
from pgrecall.services.restore.report import PlanReport, RestoreReport, report_done, report_plan
from pgrecall.services.restore.tablespaces import TablespaceMapping

ALIASES = ("time", "lsn", "xid", "name")


@verb(
    "restore",
    examples=[
        'pgrecall restore --at "2026-11-20 14:05:00+01:00" --to /srv/pg/rescue --dry-run',
        "pgrecall restore --at 20m-ago --to /srv/pg/rescue",
        "pgrecall restore --at lsn:3/5A000028 --exclusive --to /srv/pg/rescue",
        "pgrecall restore --to /srv/pg/main --become main",
    ],
    writes=True,
)
@argument("what", required=False, type=click.Choice(["cluster"]), default="cluster")
@option("--to", "destination", required=True, metavar="DIR", help="Where to: an absent or empty directory.")
@option("--at", "at", default=None, metavar="MOMENT", help='latest (default), "2026-11-20 14:05:00+01:00", 20m-ago, '
        "lsn:…, xid:…, name:…, immediate.")  # fmt: skip
@option("--exclusive", "--target-exclusive", "exclusive", is_flag=True, help="Stop just before the target, not after.")
@option("--timeline", "timeline", default="latest", metavar="N|latest|current", help="Which branch of history.")
@option("--from", "from_label", metavar="LABEL", help="Begin with this backup, not with the best one.")
@option("--action", type=click.Choice([str(each) for each in RecoveryAction]), default="promote",
        help="What the server does when it is there.")  # fmt: skip
@option("--become", metavar="CLUSTER", help="It continues CLUSTER and archives. Without it: a clone, which never does.")
@option("--tablespace", "tablespaces", multiple=True, metavar="OLD=NEW",
        help="Directory of a tablespace, named by its oid or its old path; repeatable.")  # fmt: skip
@option("--jobs", type=click.IntRange(1, 64), default=None, metavar="N", help="How many workers.")
@option("--target-time", "alias_time", hidden=True)
@option("--target-lsn", "alias_lsn", hidden=True)
@option("--target-xid", "alias_xid", hidden=True)
@option("--target-name", "alias_name", hidden=True)
def command(
    run: Invocation, what: str, destination: str, at: str | None, exclusive: bool, timeline: str,
    from_label: str | None, action: str, become: str | None, tablespaces: tuple[str, ...], jobs: int | None,
    **aliases: str | None,
) -> int:  # fmt: skip
    """Recover a cluster into a directory, to the newest moment or to any other that the WAL reaches.

    Nothing is overwritten: the directory must be absent or empty, and the original, if it still runs, is not disturbed.
    What cannot be reached is refused before a byte is written, with the moments that can be. --dry-run shows the plan.

    The result starts with plain pg_ctl, recovers, and ends on a new timeline. It is a clone: it does not archive, has
    no slots and runs no subscriptions, unless --become says whose successor it is.
    """
    cluster = run.cluster()
    zone = Zone.of(run.environ, run.clock.now())
    target = parse_at(at, aliases, zone)
    options = RestoreOptions(
        destination=parse_destination(destination, zone),
        request=RecoveryRequest(target, inclusive=not exclusive, timeline=parse_timeline(timeline)),
        from_label=from_label,
        action=RecoveryAction(action),
        become=run.settings().cluster([become]).name if become else None,
        tablespaces=tuple(TablespaceMapping.parse(each) for each in tablespaces),
        jobs=jobs or cluster.parallel,
        fetch_reads=_fetch_reads(run, cluster),
    )
    store = open_cluster(run.settings(), cluster, identity=run.identity(), environ=run.environ)
    plan = plan_restore(store, options, now=run.clock.now())
    if run.globals.dry_run:
        return _dry_run(run, plan, zone)
    with run.progress() as progress:
        done = execute_restore(plan, program(run, become or cluster.name), reporter=progress, clock=run.clock)
    report = report_done(done)
    run.emit("restore", 1, data=report, text=lambda: render(report, zone))
    return run.status(report.warnings)


def _dry_run(run: Invocation, plan: RestorePlan, zone: Zone) -> int:
    report = report_plan(plan)
    run.emit("restore-plan", 1, data=report, text=lambda: render_plan(report, zone))
    return plan.blockers[0].exit_status if plan.blockers else 0


def parse_at(at: str | None, aliases: dict[str, str | None], zone: Zone) -> RecoveryTarget:
    """The target that --at or one of PostgreSQL's own names gives."""
    given = [(kind, value) for kind in ALIASES if (value := aliases[f"alias_{kind}"]) is not None]
    if len(given) + (at is not None) > 1:
        raise UsageError("several recovery targets were given", hint="One --at is enough.")
    text = at or "latest"
    if given:
        kind, value = given[0]
        text = value if kind == "time" else f"{kind}:{value}"
    return parse_target(text, now=zone.now, zone=zone.zone)


def parse_destination(text: str, zone: Zone) -> Path:
    """A directory; a text that is a moment was meant for --at."""
    if text in ("latest", "immediate"):
        return Path(text).absolute()
    try:
        parse_target(text, now=zone.now, zone=zone.zone)
    except TimeAmbiguous:
        pass
    except ValueInvalid:
        return Path(text).expanduser().absolute()
    raise ValueInvalid(f"'{text}' is a moment, not a directory", hint=f'--at "{text}"', value=text)


def program(run: Invocation, cluster: str) -> Program:
    """How PostgreSQL will call us: this very program, with the configuration and key that this call used."""
    words = program_words()
    settings = run.settings()
    if settings.path is not None:
        words += ["--config", str(settings.path)]
    if settings.repository_given is not None:
        words += ["--repo", settings.repository().url]
    named = ("-c", cluster)
    identity = run.globals.identity_file
    fetch = named if identity is None else (*named, "--identity-file", str(identity.absolute()))
    return Program(tuple(words), fetch_options=fetch, push_options=named)


def _fetch_reads(run: Invocation, cluster: ClusterSettings) -> tuple[Path, ...]:
    """What `wal fetch`, called as `program` says, opens before it can fetch anything."""
    settings, identity = run.settings(), run.globals.identity_file
    secret = settings.key_file(cluster) if identity is None else identity.absolute()
    return tuple(path for path in (settings.path, secret) if path is not None and path.exists())


def render_plan(plan: PlanReport, zone: Zone) -> Iterator[Line]:
    yield _row("Target", _target(plan, zone))
    other = f" (also possible: --from {plan.alternatives[0]})" if plan.alternatives else ""
    yield _row("Backup", f"{plan.backup}, {plan.state}, not drilled{other}")
    for reason in plan.reasons:
        yield _row("", reason)
    yield _row(
        "Read",
        f"{plan.place}: {format_bytes(plan.stored_bytes)} in about {plan.requests:,} requests, "
        f"{plan.wal_segments} WAL segments → {format_bytes(plan.bytes)} in {plan.files:,} files; "
        f"{format_bytes(plan.needed)} needed, {format_bytes(plan.free)} free",
    )
    yield _row("To", f"{plan.destination}, then {plan.action}; owner {plan.owner}; {plan.server}")
    for each in plan.tablespaces:
        yield _row("Tablespace", f"{each.oid}: {each.original} → {each.place}")
    for place in plan.replay_places:
        yield _row("Tablespace", f"{place} will be made, empty: replay creates a tablespace there")
    for note in plan.notes:
        yield _row("Note", note)
    if plan.successor_of:
        yield _row("Archiving", f"as {plan.successor_of}: it continues that cluster's archive on a new timeline")
    else:
        yield _row("Archiving", f"OFF in what is restored; a new primary says so: --become {plan.cluster}")
    if not plan.blockers:
        yield _row("Blockers", "none. Nothing was written.")
        return
    for blocker in plan.blockers:
        hint = f"  → {blocker.hint}" if blocker.hint else ""
        yield (f"{'Blocker':<11}", Span(blocker.message, "red"), hint, Span(f"  [{blocker.code}]", "dim"))
    yield "Nothing was written."


def _row(name: str, text: str) -> Line:
    return (Span(f"{name:<11}", "bold"), text)


def _target(plan: PlanReport, zone: Zone) -> str:
    what = plan.target
    if plan.moment is not None:
        utc = f"{plan.moment.astimezone(UTC):%H:%M:%S} UTC"
        what = f"{format_time(plan.moment, zone.zone)} = {utc}, {zone.ago(plan.moment)}"
    inclusive = "" if plan.target in ("latest", "immediate") else ", inclusive" if plan.inclusive else ", exclusive"
    way = " → ".join(map(str, plan.path))
    return f"{what}{inclusive}; reachable: timeline {way}, WAL {plan.start_lsn}–{plan.end_lsn} without a gap"


def render(report: RestoreReport, zone: Zone) -> Iterator[Line]:
    plan = report.plan
    yield (
        Span(f"Restored {plan.backup}", "bold"), f" to {plan.destination} in {format_duration(report.took)}: "
        f"{format_bytes(report.bytes)} in {report.files:,} files",
    )  # fmt: skip
    yield _row("Recovers to", " " + _target(plan, zone))
    if report.clone:
        yield Span(f"This is a CLONE: archiving is OFF. Were it the new primary: --become {plan.cluster}", "yellow")
    else:
        yield Span(f"This is the successor of {plan.successor_of}: never start the original again.", "yellow")
    for note in report.notes:
        yield _row("Note", note)
    for warning in report.warnings:
        yield (Span(f"{'Warning':<11}", "yellow"), warning)
    yield _row("Start it", report.start)
    if report.wait is not None:
        yield _row("Then wait", report.wait)
        yield _row("", "(it takes no queries before its recovery has ended, so that nobody sees old rows)")
    yield _row("Progress", f'in {report.log}: "restored log file", then "recovery stopping" or "redo done"')
