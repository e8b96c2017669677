"""`pgrecall init`: from a data directory and a place for backups to a protected cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from pgrecall.cli.invocation import DEGRADED, Invocation
from pgrecall.cli.options import FILE, option, verb
from pgrecall.cli.output import Line, Span, error_data
from pgrecall.config import ConfigPlace, config_place
from pgrecall.errors import PgrecallError, UsageError
from pgrecall.postgres.requirements import Level, roles_sql, settings_sql
from pgrecall.services.findings import sentence
from pgrecall.services.init.run import InitPlan, InitRequest, InitResult, execute_init, plan_init, review_only
from pgrecall.services.init.server import ServerReview

ROLE = "pgrecall"


@verb(
    "init",
    examples=[
        "pgrecall init --repo /srv/backup --pgdata /var/lib/postgresql/17/main",
        "pgrecall init --repo /srv/backup --apply",
        "pgrecall init --repo /srv/backup --unsealed          (no encryption, no keys to lose)",
        "pgrecall init -c erp --pgdata /srv/pg/erp            (one more cluster in the same repository)",
        "pgrecall init --print sql                            (only show the SQL: settings and the least role)",
        "pgrecall init -c main --new-identity                 (after pg_upgrade)",
    ],
    writes=True,
)
@option("--pgdata", type=FILE, metavar="DIR", help="Data directory; default: the server running here.")
@option("--dsn", metavar="DSN", help="How to connect, when the socket named in postmaster.pid will not do.")
@option("--unsealed", is_flag=True, help="Do not encrypt a new repository.")
@option("--apply", is_flag=True, help="Run the SQL for PostgreSQL's settings (reloads, never restarts).")
@option("--new-identity", is_flag=True, help="After pg_upgrade: the cluster goes on under a new system identifier.")
@option("--print", "printed", type=click.Choice(["sql"]), help="Print the SQL and write nothing.")
def command(
    run: Invocation, pgdata: Path | None, dsn: str | None, unsealed: bool, apply: bool, new_identity: bool,
    printed: str | None,
) -> int:  # fmt: skip
    """Protect a PostgreSQL cluster of this host.

    Makes or joins the repository, makes the cluster's key, writes a commented configuration, proves that the server's
    operating-system user can archive with it, and shows the SQL that PostgreSQL needs; --apply runs it. A restart,
    where one is needed, is left to you. Another tool's archive_command is never replaced.

    A new repository is sealed: its identity is written to a file beside the configuration, and a recovery passphrase is
    shown once. Keep both away from this host: without them and this host, the backups cannot be read by anybody.

    Repeat it to add a cluster or a host: nothing that exists is overwritten.
    """
    place = config_place(run.globals.config, run.environ)
    request = InitRequest(
        config=place.path,
        repository=run.globals.repository or run.environ.get("PGRECALL_REPOSITORY"),
        pgdata=pgdata.absolute() if pgdata else None,
        dsn=dsn,
        cluster=_one(run.globals.clusters),
        unsealed=unsealed,
        apply=apply and not run.globals.dry_run,
        secret=run.identity(),
        new_identity=new_identity,
    )
    plan = plan_init(request, environ=run.environ, clock=run.clock)
    if printed or run.globals.dry_run:
        review, problem = review_only(plan, environ=run.environ, clock=run.clock)
        lines = (lambda: render_sql(review, problem)) if printed else (lambda: render_plan(plan, review, problem))
        run.emit("init-plan", 1, data=_plan_data(plan, review, problem), text=lines)
        return 0
    result = execute_init(plan, environ=run.environ, clock=run.clock)
    run.emit("init", 1, data=_data(result), text=lambda: render(result, place))
    if result.problem is not None:
        return result.problem.exit_status
    return DEGRADED if _dangers(result.review) else 0


def _one(clusters: tuple[str, ...]) -> str | None:
    if len(clusters) > 1:
        raise UsageError(f"init protects one cluster, not {len(clusters)}", hint=f"-c {clusters[0]}")
    return clusters[0] if clusters else None


def render(result: InitResult, place: ConfigPlace) -> Iterator[Line]:
    sealed = "sealed (AES-256-GCM)" if result.sealed else "not sealed: whoever reads it reads your data"
    identity = ", new system identifier recorded" if "identity" in result.created else ""
    yield (Span("Cluster        ", "dim"), f"{result.cluster}, {result.pgdata}{identity}")
    yield (Span("Repository     ", "dim"), f"{result.repository}, {_made(result, 'repository')}, {sealed}")
    yield (Span("Configuration  ", "dim"), f"{result.config}, {_made(result, 'configuration')}")
    yield (Span("Key            ", "dim"), f"{result.key_file}, {_made(result, 'key')}: this host's, for this cluster")
    if result.identity_file is not None:
        yield from render_secrets(result)
    yield ""
    if result.review is not None:
        yield from render_server(result.review)
    if result.problem is not None:
        yield (Span("Not finished: ", "red"), result.problem.message, f"  [{result.problem.code}]")
        yield f"  → {result.problem.hint or 'cure it'}; then run init again, it goes on where it stopped"
        return
    yield ""
    yield (Span("Next           ", "dim"), *_next(result, place))


def render_secrets(result: InitResult) -> Iterator[Line]:
    yield ""
    yield Span("KEEP THESE AWAY FROM THIS HOST. Whoever loses the host and both of them loses every backup.", "bold")
    yield f"  identity file         {result.identity_file}   (copy it to a safe place, then remove it here)"
    if result.passphrase is not None:
        yield ("  recovery passphrase   ", Span(result.passphrase, "bold"), "   (shown now and never again; print it)")


def render_server(review: ServerReview) -> Iterator[Line]:
    if review.changes and review.applied:
        yield f"PostgreSQL {review.version}: set {', '.join(change.name for change in review.changes)}, reloaded."
    elif review.changes:
        yield f"PostgreSQL {review.version} needs this (init --apply runs it):"
        yield from (f"  {statement}" for statement in settings_sql(review.changes))
    else:
        yield f"PostgreSQL {review.version}: its settings are right."
    if review.restart_needed:
        names = ", ".join(review.restart_needed)
        yield (
            Span(f"A restart is needed for {names}; ", "yellow"),
            "it is yours to do. Until then nothing is archived.",
        )
    for finding in review.findings:
        style = "red" if finding.level is Level.DANGER else "yellow"
        cure = finding.cure or " ".join(finding.cure_sql)
        yield (Span(f"{finding.level}  ", style), sentence(finding), f"  → {cure}" if cure else "")


def render_sql(review: ServerReview | None, problem: PgrecallError | None) -> Iterator[Line]:
    if review is None:
        yield from (f"-- {line}" for line in _unasked(problem))
    else:
        yield f"-- Settings of PostgreSQL {review.version} for archiving with pgrecall"
        yield from settings_sql(review.changes) or ["-- are right already"]
        if review.restart_needed:
            yield f"-- then restart the server, for {', '.join(review.restart_needed)}"
    yield ""
    yield '-- The least role that can back up: then dsn = "user=pgrecall" in the configuration'
    yield from roles_sql(ROLE)


def render_plan(plan: InitPlan, review: ServerReview | None, problem: PgrecallError | None) -> Iterator[Line]:
    yield f"Cluster        {plan.cluster}, {plan.local.pgdata}, of user {plan.local.owner.name}"
    yield f"Repository     {plan.url}, {'to be created' if plan.new_repository else 'there already'}"
    state = (
        "stays as it is"
        if plan.config_text is None
        else "to be written"
        if plan.new_config
        else "gets one more section"
    )
    yield f"Configuration  {plan.request.config}, {state}"
    yield f"Key            {plan.key_file}, {'there already' if plan.host_key else 'to be written'}"
    yield ""
    yield from render_server(review) if review else _unasked(problem)
    yield "Nothing was written."


def _unasked(problem: PgrecallError | None) -> list[str]:
    assert problem is not None, "no review and no reason"
    return [f"The server could not be asked: {problem.message}", f"  → {problem.hint}"]


def _plan_data(plan: InitPlan, review: ServerReview | None, problem: PgrecallError | None) -> dict[str, object]:
    """Schema pgrecall.init-plan/1 (docs/json.md)."""
    return {
        "cluster": plan.cluster,
        "pgdata": plan.local.pgdata,
        "repository": plan.url,
        "new_repository": plan.new_repository,
        "config": plan.request.config,
        "config_text": plan.config_text,
        "archive_command": plan.archive_command,
        "settings_sql": settings_sql(review.changes) if review else (),
        "roles_sql": roles_sql(ROLE),
        "restart_needed": review.restart_needed if review else (),
        "problem": error_data(problem),
    }


def _data(result: InitResult) -> dict[str, object]:
    """Schema pgrecall.init/1 (docs/json.md)."""
    review = result.review
    return {
        "cluster": result.cluster,
        "pgdata": result.pgdata,
        "repository": result.repository,
        "sealed": result.sealed,
        "config": result.config,
        "key_file": result.key_file,
        "identity_file": result.identity_file,
        "passphrase": result.passphrase,
        "created": result.created,
        "archive_command": result.archive_command,
        "settings_sql": settings_sql(review.changes) if review else (),
        "applied": review.applied if review else False,
        "restart_needed": review.restart_needed if review else (),
        "findings": review.findings if review else (),
        "problem": error_data(result.problem),
    }


def _made(result: InitResult, what: str) -> str:
    return "created" if what in result.created else "kept as it was"


def _dangers(review: ServerReview | None) -> bool:
    return review is not None and any(each.level is Level.DANGER for each in review.findings)


def _next(result: InitResult, place: ConfigPlace) -> list[str]:
    option_text = "" if place.found_by_itself else f" --config {result.config}"
    steps = [f"pgrecall{option_text} {step}" for step in ("check", "backup")]
    if result.review is not None and result.review.changes and not result.review.applied:
        steps.insert(0, f"pgrecall{option_text} init -c {result.cluster} --apply")
    if result.review is not None and result.review.restart_needed:
        steps.insert(-2, "restart PostgreSQL")
    return [", then ".join(steps)]
