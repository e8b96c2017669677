"""`pgrecall show LABEL`: everything known about one backup."""

from __future__ import annotations

from collections.abc import Iterator

from pgrecall.cli.invocation import Invocation
from pgrecall.cli.list import STYLES
from pgrecall.cli.options import argument, verb
from pgrecall.cli.output import Line, Span
from pgrecall.cli.table import Cell, table
from pgrecall.cli.zone import Zone
from pgrecall.domain.humanize import format_bytes, format_duration
from pgrecall.domain.label import BackupLabel
from pgrecall.repository.columns import PackRef
from pgrecall.services.context import open_cluster
from pgrecall.services.listing import BackupDetails, show_backup

MOST_DAMAGE_LINES = 50


@verb(
    "show",
    examples=[
        "pgrecall show latest",
        "pgrecall show 20261120T01 -c main",
        "pgrecall show main/20261120T010003Z-incr --json",
    ],
)
@argument("label")
def command(run: Invocation, label: str) -> int:
    """Show everything known about one backup.

    LABEL is a label, the unique beginning of one, or `latest` (the newest that can be restored). `main/2026…` names the
    cluster, too.
    """
    name, slash, rest = label.rpartition("/")
    if slash:
        run.apply("clusters", (name,))
    cluster = run.cluster()
    store = open_cluster(run.settings(), cluster, identity=run.identity(), environ=run.environ)
    found = show_backup(store, rest)
    zone = Zone.of(run.environ, run.clock.now())
    run.emit("show", 1, data=data(found), text=lambda: render(found, zone))
    return run.status(found.warnings)


def render(found: BackupDetails, zone: Zone) -> Iterator[Line]:
    backup = found.backup
    state = f"{backup.state}: {backup.reason}" if backup.reason else str(backup.state)
    yield (Span(f"{found.cluster}/{backup.label}", "bold"), "  ", Span(state, STYLES.get(backup.state, "dim")))
    yield from table([[Span(name, "dim"), value] for name, value in _facts(found, zone)])
    for page in found.manifest.damage[:MOST_DAMAGE_LINES] if found.manifest else ():
        path = page.path.decode(errors="surrogateescape")
        yield (Span("corrupt in the source  ", "yellow"), f"{path} block {page.block}: {page.reason}")
    for pack in found.bad_packs:
        yield (Span("damaged pack  ", "red"), _pack(pack))
    for warning in (*(found.details.warnings if found.details else ()), *found.warnings):
        yield (Span("warning  ", "yellow"), warning)


def _facts(found: BackupDetails, zone: Zone) -> Iterator[tuple[str, Cell]]:
    commit, details, manifest = found.commit, found.details, found.manifest
    if commit is None:
        yield "Began", zone.full(found.backup.started)
        return
    version = f"{commit.version_num // 10000}.{commit.version_num % 10000}"
    yield "Cluster", f"PostgreSQL {version}, system identifier {commit.system_identifier}"
    if details is not None and manifest is not None:
        yield "Host", f"{details.host}, {manifest.server.data_directory}"
    yield "Based on", f"{commit.parent} (compared with it; not needed to restore)" if commit.parent else "nothing"
    took = (commit.stopped - commit.started).total_seconds()
    yield "Started", zone.full(commit.started)
    yield "Stopped", f"{zone.full(commit.stopped)}, after {format_duration(took)}"
    yield "WAL", f"{commit.start_lsn} to {commit.stop_lsn}, timeline {commit.timeline}"
    only = "only the moment it stopped (it brings its own WAL)"
    yield (
        "Reaches",
        only if commit.self_contained else f"{zone.full(commit.stopped)} and later, as far as WAL is stored",
    )
    yield "Restores", f"{format_bytes(commit.size)} in {commit.files:,} files"
    runs = len(commit.live.runs())
    yield (
        "Stored",
        f"{format_bytes(commit.stored)} new; needs {len(commit.live):,} packs of {runs} run{'' if runs == 1 else 's'}",
    )
    if manifest is not None:
        checksums = "on" if manifest.cluster.checksums else "off: damage in the source cannot be seen"
        yield "Checksums", checksums
        places = [f"{each.oid} {each.path.decode(errors='surrogateescape')}" for each in manifest.tablespaces]
        yield "Tablespaces", ", ".join(places) or "none"
    yield "Commit", f"number {commit.sequence}, {'authentic' if found.backup.authentic else 'intact'}"


def data(found: BackupDetails) -> dict[str, object]:
    """Schema pgrecall.show/1 (docs/json.md)."""
    commit, details, manifest = found.commit, found.details, found.manifest
    return {
        "cluster": found.cluster,
        "backup": found.backup,
        "sequence": commit.sequence if commit else None,
        "system_identifier": str(commit.system_identifier) if commit else None,
        "host": details.host if details else None,
        "data_directory": manifest.server.data_directory if manifest else None,
        "page_checksums": manifest.cluster.checksums if manifest else None,
        "tablespaces": [
            {"oid": each.oid, "path": each.path.decode(errors="surrogateescape"), "in_place": each.in_place}
            for each in (manifest.tablespaces if manifest else ())
        ],
        "packs": len(commit.live) if commit else None,
        "runs": [str(BackupLabel.from_number(run)) for run in commit.live.runs()] if commit else [],
        "bad_packs": [_pack(pack) for pack in found.bad_packs],
        "damage": [
            {"path": each.path.decode(errors="surrogateescape"), "block": each.block, "reason": each.reason}
            for each in (manifest.damage if manifest else ())
        ],
        "warnings": [*(details.warnings if details else ()), *found.warnings],
    }


def _pack(pack: PackRef) -> str:
    return f"packs/{BackupLabel.from_number(pack.run)}/{pack.pack:08d}"
