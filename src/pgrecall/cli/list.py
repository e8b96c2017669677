"""`pgrecall list`: the backups of every cluster, newest first."""

from __future__ import annotations

from collections.abc import Iterator

from pgrecall.cli.invocation import Invocation
from pgrecall.cli.options import verb
from pgrecall.cli.output import Line, Span
from pgrecall.cli.table import Cell, table
from pgrecall.cli.zone import Zone
from pgrecall.domain.humanize import format_bytes, format_duration
from pgrecall.services.listing import Backup, ClusterListing, State, list_clusters

STYLES = {State.COMPLETE: "green", State.STORED: "yellow", State.DAMAGED: "red", State.UNFINISHED: "yellow"}
SOME_CLUSTERS_FAILED = 1


@verb(
    "list",
    examples=["pgrecall list", "pgrecall list -c main --json", "pgrecall list --repo /srv/backup --identity-file KIT"],
)
def command(run: Invocation) -> int:
    """Show the backups of a cluster, newest first.

    STATE is what may be said honestly: "complete" means that everything needed to recover is in the repository, WAL
    included; "stored" that the bytes are there, but its WAL is not yet, or pages were corrupt in the source;
    "unfinished" that the run is at work or was killed. Reading every byte is `pgrecall verify`.

    TO REACH is the earliest moment a backup can recover; an arrow means: and later ones, as far as WAL is stored
    (`pgrecall status`). NEW is what the run added to the repository, TOTAL what a restore writes.
    """
    found = list_clusters(run.settings(), run.clusters(), identity=run.identity(), environ=run.environ)
    zone = Zone.of(run.environ, run.clock.now())
    run.emit("list", 1, data={"clusters": found}, text=lambda: render(found, zone))
    return SOME_CLUSTERS_FAILED if any(each.problem for each in found) else run.status()


def render(listings: list[ClusterListing], zone: Zone) -> Iterator[Line]:
    yield Span(zone.title(), "dim")
    for listing in listings:
        if listing.problem:
            yield (Span(listing.cluster, "bold"), ": ", Span(listing.problem, "red"), f"  [{listing.problem_code}]")
            continue
        yield from table(
            [row(backup, zone) for backup in listing.backups],
            header=(title(listing), "STATE", "TO REACH", "NEW", "TOTAL", "TOOK"),
            right=(3, 4, 5),
        )
        if not listing.backups:
            yield f"no backup yet  → pgrecall backup -c {listing.cluster}"


def title(listing: ClusterListing) -> str:
    version = listing.version_num
    if not version:
        return listing.cluster
    minor = f".{version % 10000}" if version % 10000 else ""  # init knows the major version only
    return f"{listing.cluster} · PostgreSQL {version // 10000}{minor}"


def row(backup: Backup, zone: Zone) -> list[Cell]:
    state = Span(_state(backup), STYLES.get(backup.state, "dim"))
    if backup.stopped is None:
        return [str(backup.label), state]
    reach = zone.short(backup.stopped) + (" only" if backup.self_contained else "→")
    took = format_duration((backup.stopped - backup.started).total_seconds())
    return [str(backup.label), state, reach, _size(backup.new_bytes), _size(backup.total_bytes), took]


def _state(backup: Backup) -> str:
    if backup.reason:
        return f"{backup.state}: {backup.reason}"
    return "complete, own WAL" if backup.self_contained else str(backup.state)


def _size(count: int | None) -> str:
    return "" if count is None else format_bytes(count)
