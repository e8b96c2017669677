"""`pgrecall backup`: one physical backup of one cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from pgrecall.cli.invocation import Invocation
from pgrecall.cli.options import option, verb
from pgrecall.cli.output import Line, Span
from pgrecall.config import ClusterSettings
from pgrecall.domain.humanize import format_bytes, format_duration
from pgrecall.domain.label import BackupKind
from pgrecall.errors import DamageFound
from pgrecall.services.backup.preview import BackupPreview, preview_backup
from pgrecall.services.backup.request import BackupRequest, BackupResult
from pgrecall.services.backup.run import run_backup
from pgrecall.services.context import connect_cluster, data_directory, open_cluster
from pgrecall.storage.counted import CountedStorage
from pgrecall.storage.open import open_storage

KINDS = {"full": True, "incr": False, "diff": False}
SHOWN = 10


@verb(
    "backup",
    examples=["pgrecall backup", "pgrecall backup -c main --full --jobs 4", "pgrecall backup --dry-run"],
    writes=True,
)
@option("--full", is_flag=True, help="Read and compare every byte; store what is new.")
@option("--independent", is_flag=True, help="Use nothing that is stored already: every byte is stored anew.")
@option("--type", "kind", type=click.Choice(list(KINDS)), help="Alias for users of other tools; diff means incr.")
@option("--jobs", type=click.IntRange(1, 64), metavar="N", help="How many workers; default: the cluster's `parallel`.")
def command(run: Invocation, full: bool, independent: bool, kind: str | None, jobs: int | None) -> int:
    """Back up a cluster while it runs.

    An earlier backup that can serve as parent makes this one incremental: only what changed is stored, and the result
    still restores alone, in one pass. Otherwise it is full. The output says which, and why.

    A backup is "complete" when all its WAL is in the repository; where WAL is not archived with pgrecall, the backup
    brings its own and can be recovered to its end, not to other moments.

    Exit status: 0 complete; 3 complete, with warnings; 9 corrupt pages in the source (stored, named, never hidden).
    """
    cluster = run.cluster()
    run.become_owner(cluster)
    storage = CountedStorage(open_storage(run.settings().repository(cluster.repository).url))
    store = open_cluster(
        run.settings(), cluster, identity=run.identity(), environ=run.environ, storage=storage, act="write"
    )
    full = full or independent or KINDS.get(kind or "", False)
    request = _request(run, cluster, full=full, independent=independent, jobs=jobs)
    if run.globals.dry_run:
        with run.progress() as progress:
            preview = preview_backup(request, store, clock=run.clock, reporter=progress)
        run.emit("backup-preview", 1, data=preview, text=lambda: render_preview(preview))
        return run.status(preview.warnings)
    with run.unattended("backup", cluster) as unattended, run.progress() as progress:
        result = run_backup(request, store, clock=run.clock, reporter=progress)
        unattended.message = " ".join(str(part) for part in summary(result))
    data = {"cluster": cluster.name, "state": result.state, "backup": result, "requests": dict(storage.requests)}
    run.emit("backup", 1, data=data, text=lambda: render(result, storage))
    return DamageFound.exit_status if result.damage else run.status(result.warnings)


def _request(
    run: Invocation, cluster: ClusterSettings, *, full: bool, independent: bool, jobs: int | None
) -> BackupRequest:
    return BackupRequest(
        pgdata=data_directory(cluster),
        connect=lambda: connect_cluster(cluster, run.environ),
        state_dir=run.settings().state_directory(cluster.name),
        full=full,
        independent=independent,
        jobs=jobs or cluster.parallel,
        level=cluster.compression_level,
        fast_checkpoint=cluster.checkpoint == "fast",
        archive_wait=cluster.archive_wait,
    )


def summary(result: BackupResult) -> tuple[str, ...]:
    return (f"{result.label}", result.state)


def render(result: BackupResult, storage: CountedStorage) -> Iterator[Line]:
    style = "red" if result.damage else "green"
    yield (Span(str(result.label), "bold"), "  ", Span(result.state, style), f"  in {format_duration(result.took)}")
    parent = f"compared with {result.parent}" if result.parent else "compared with nothing"
    yield f"  {parent}: {result.why[-1] if result.why else ''}"
    yield (
        f"  {format_bytes(result.size)} in {result.files:,} files; {format_bytes(result.unchanged)} unchanged; "
        f"{format_bytes(result.stored)} added in {result.packs} packs, {sum(storage.requests.values())} requests"
    )
    first, last = result.wal
    yield f"  WAL {result.start_lsn} to {result.stop_lsn} on timeline {result.timeline}, {first} to {last}"
    if result.self_contained:
        yield Span("  brings its own WAL: can be recovered to its end, not to other moments", "yellow")
    for page in result.damage[:SHOWN]:
        yield Span(f"  corrupt in the source: {os.fsdecode(page.path)} block {page.block}: {page.reason}", "red")
    if len(result.damage) > SHOWN:
        yield f"  … and {len(result.damage) - SHOWN} more: pgrecall show {result.label}"


def render_preview(preview: BackupPreview) -> Iterator[Line]:
    kind = "incremental" if preview.kind is BackupKind.INCR else "full"
    yield f"Kind      {kind}, compared with {preview.parent or 'nothing'}"
    for reason in preview.why:
        yield f"          {reason}"
    yield f"Read      {format_bytes(preview.size)} in {preview.files:,} files"
    free = "" if preview.free is None else f", {format_bytes(preview.free)} free"
    yield f"To        {preview.place}{free}"
    wal = (
        "brought by the backup itself; no other moment can be recovered"
        if preview.self_contained
        else "from the archive"
    )
    yield f"WAL       {wal}"
    yield "Nothing was written."
