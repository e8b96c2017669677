"""`pgrecall status`: what can be recovered now, in one line per cluster; `--wal`: the recovery windows as intervals."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from pgrecall.cli.invocation import DEGRADED, Invocation
from pgrecall.cli.options import option, verb
from pgrecall.cli.output import Line, Span
from pgrecall.cli.table import Cell, table
from pgrecall.cli.zone import Zone
from pgrecall.domain.humanize import format_bytes
from pgrecall.services.status import Branch, ClusterStatus, Health, Trouble, Window, cluster_statuses

STYLES = {Health.OK: "green", Health.WARN: "yellow", Health.FAIL: "red"}
EXIT_STATUS = {Health.OK: 0, Health.WARN: DEGRADED, Health.FAIL: 1}


@verb("status", examples=["pgrecall status", "pgrecall status --wal -c main", "pgrecall status --json"])
@option("--wal", is_flag=True, help="Every recovery window as an interval, timelines and gaps.")
def command(run: Invocation, wal: bool) -> int:
    """Show what can be recovered now.

    One line per cluster: OK, WARN or FAIL, the moments that can be recovered ("any moment A → B, except gaps"; B is the
    last commit that is stored), the newest backup, and what to do next. Exit status 0, 3 (a WARN) or 1 (a FAIL).
    """
    found = cluster_statuses(run.settings(), run.clusters(), identity=run.identity(), environ=run.environ)
    zone = Zone.of(run.environ, run.clock.now())
    run.emit(
        "status", 1, data={"clusters": found}, text=lambda: render_wal(found, zone) if wal else render(found, zone)
    )
    return max((EXIT_STATUS[each.level] for each in found), key=(0, DEGRADED, 1).index, default=0)


def render(statuses: list[ClusterStatus], zone: Zone) -> Iterator[Line]:
    yield Span(zone.title(), "dim")
    rows: list[list[Cell]] = [
        [Span(each.cluster, "bold"), Span(each.level, STYLES[each.level]), summary(each, zone)] for each in statuses
    ]
    for status, line in zip(statuses, table(rows), strict=True):
        yield line
        yield from (f"      {_told(trouble)}" for trouble in status.trouble)


def summary(status: ClusterStatus, zone: Zone) -> str:
    parts = []
    branch = status.current
    if branch is not None and branch.windows:
        parts.append(f"any moment {_span(branch, zone)}")
        others = len(status.branches) - 1
        parts += [f"{others} other timelines (--wal)"] if others else []
    if status.newest_backup is not None and status.newest_backup.stopped is not None:
        parts.append(f"newest backup {zone.ago(status.newest_backup.stopped)}, {status.backups} in all")
    if status.archiver is not None and status.archiver.waiting:
        parts.append(f"segments that wait to be archived: {status.archiver.waiting}")
    return " · ".join(parts) or "nothing can be recovered"


def _span(branch: Branch, zone: Zone) -> str:
    """`21 Oct 02:00:41 → 20 Nov 15:31:07 (7 s ago), except 3 Nov 11:02:10–3 Nov 11:40:55`"""
    first, last = branch.windows[0], branch.windows[-1]
    if first.opens == last.closes:
        return f"only of {zone.short(first.opens)} ({zone.ago(last.closes)}); no later commit is stored"
    gaps = [f"{zone.short(a.closes)}–{zone.short(b.opens)}" for a, b in pairwise(branch.windows)]
    told = f"{zone.short(first.opens)} → {zone.short(last.closes)} ({zone.ago(last.closes)})"
    return f"{told}, except {', '.join(gaps)}" if gaps else told


def render_wal(statuses: list[ClusterStatus], zone: Zone) -> Iterator[Line]:
    yield Span(zone.title(), "dim")
    for status in statuses:
        stored = f"{status.segments:,} segments, {format_bytes(status.wal_bytes)} stored"
        yield (Span(status.cluster, "bold"), "  ", Span(status.level, STYLES[status.level]), f"  {stored}")
        yield from (f"  {_told(trouble)}" for trouble in status.trouble)
        for branch in status.branches:
            yield f"  timeline {branch.timeline}"
            yield from table([_interval(window, zone) for window in branch.windows])
            if not branch.windows:
                yield "    no backup leads into it"
            for first, last in branch.gaps:
                yield (
                    Span("    gap  ", "yellow"),
                    first if first == last else f"{first} to {last}",
                    " is not stored",
                )


def _told(trouble: Trouble) -> str:
    return f"{trouble.what}  → {trouble.cure}" if trouble.cure else trouble.what


def _interval(window: Window, zone: Zone) -> list[str]:
    count = len(window.backups)
    backups = f"{count} backup{'s' if count > 1 else ''}, first {window.backups[0]}"
    lsns = f"WAL {window.from_lsn}–{window.to_lsn}"
    return ["  ", zone.full(window.opens), "→", zone.full(window.closes), lsns, backups]
