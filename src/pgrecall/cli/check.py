"""`pgrecall check` (alias doctor): whether everything that a recovery will need works now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from pgrecall.cli.invocation import DEGRADED, Invocation
from pgrecall.cli.options import option, verb
from pgrecall.cli.output import Line, Span
from pgrecall.cli.table import Cell, table
from pgrecall.postgres.requirements import Level
from pgrecall.services.check import CheckRequest, Topic, check_clusters, topics_of
from pgrecall.services.findings import Finding

STYLES = {Level.DANGER: "red", Level.WARN: "yellow", Level.OK: "green"}
EXIT_STATUS = {Level.DANGER: 1, Level.WARN: DEGRADED, Level.OK: 0}
SHOW_VALUES = "show values"


@verb(
    "check",
    examples=["pgrecall check", "pgrecall check -c main --only archive --wait 120", "pgrecall check --config"],
)
@option("--only", multiple=True, metavar="TOPIC", help=f"Only these (repeatable, or with commas): {', '.join(Topic)}.")
@option("--wait", type=click.FloatRange(0, 3600), default=60, help="Seconds that a segment may take to arrive (60).")
@option(
    "--config",
    "config_or_values",
    is_flag=False,
    flag_value=SHOW_VALUES,
    metavar="[FILE]",
    help="Configuration file; without FILE: print every setting with its origin, and try nothing.",
)
def command(run: Invocation, only: tuple[str, ...], wait: float, config_or_values: str | None) -> int:
    """Prove that settings, rights, keys and archiving work now.

    Nothing is believed: the repository is asked to create an object twice, the server is proven to be the one whose
    files lie here, a WAL segment is completed and must arrive in the repository.

    Findings come worst first, each with its cure. Exit status: 1 with a DANGER, 3 with a WARN, else 0. -v shows what is
    fine, too.
    """
    if config_or_values == SHOW_VALUES:
        return show_values(run)
    if config_or_values is not None:
        run.apply("config", Path(config_or_values))
    request = CheckRequest(topics=topics_of(only), archive_wait_seconds=wait, identity=run.identity())
    found = check_clusters(run.settings(), run.clusters(), request, environ=run.environ, clock=run.clock)
    run.emit("check", 1, data={"findings": found}, text=lambda: render(found, verbose=run.globals.verbose > 0))
    return max((EXIT_STATUS[each.level] for each in found), key=(0, DEGRADED, 1).index, default=0)


def render(found: list[Finding], *, verbose: bool) -> Iterator[Line]:
    shown = [each for each in found if verbose or each.level is not Level.OK]
    rows: list[list[Cell]] = [
        [str(number), Span(each.level, STYLES[each.level]), _told(each)] for number, each in enumerate(shown, 1)
    ]
    for finding, line in zip(shown, table(rows, right=(0,)), strict=True):
        yield line
        if finding.cure:
            yield f"            → {finding.cure}"
    fine = [each for each in found if each.level is Level.OK]
    topics = ", ".join(dict.fromkeys(each.topic for each in fine))
    yield (Span(f"{len(fine)} fine", "green" if len(fine) == len(found) else "dim"), f": {topics}" if fine else "")


def _told(finding: Finding) -> str:
    return f"{finding.cluster}: {finding.what}" if finding.cluster else finding.what


def show_values(run: Invocation) -> int:
    """Every setting, its value and where it comes from; offline."""
    settings = run.settings()
    values = settings.origins()
    data = {"path": settings.path, "settings": [{"name": n, "value": v, "origin": o} for n, v, o in values]}
    run.emit("config", 1, data=data, text=lambda: table([[n, _value(v), Span(o, "dim")] for n, v, o in values]))
    return 0


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
