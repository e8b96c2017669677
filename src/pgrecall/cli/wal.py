"""`wal push` and `wal fetch`: what PostgreSQL calls to archive its WAL and to get it back. Not for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgrecall.cli.options import argument, option, verb
from pgrecall.errors import PgrecallError, WalForked

if TYPE_CHECKING:
    from pgrecall.cli.invocation import Invocation
    from pgrecall.services.archive.push import PushResult

ABSENT = 1


class _SafeButAlarming(PgrecallError):
    """The file is stored, and somebody must know something: told like a failure, once an hour, with exit status 0."""

    code = "wal-alert"


@verb(
    "push",
    examples=["archive_command = 'pgrecall wal push %p'", "pgrecall wal push -v pg_wal/000000010000000000000003"],
    without=["--json"],
)
@argument("path", type=click.Path(path_type=Path))
def push(run: Invocation, path: Path) -> int:
    """Store one file of pg_wal; for archive_command, with %p as PATH.

    Exit status 0 when the file is durable, also when it was stored already; never above 125. Other bytes than the ones
    stored under the same name are kept apart and reported. -v shows what the call cost.
    """
    from pgrecall.services.unattended import UnattendedRun

    cluster = run.cluster()
    attended = UnattendedRun(
        run.settings(), cluster, verb="wal push", clock=run.clock, warn=run.out.warn, repeats=True
    )  # fmt: skip
    try:
        with attended:
            result = _push(run, path)
            if result.warnings:
                raise _SafeButAlarming("; ".join(result.warnings))
    except (WalForked, _SafeButAlarming) as alert:
        run.out.warn(alert.message + (f" → {alert.hint}" if alert.hint else ""))
    return 0


def _push(run: Invocation, path: Path) -> PushResult:
    from pgrecall.services.archive.push import push_wal
    from pgrecall.services.context import open_cluster, repository_storage
    from pgrecall.storage.counted import CountedStorage

    began = run.clock.monotonic()
    settings, cluster = run.settings(), run.cluster()
    storage = CountedStorage(repository_storage(settings, cluster))
    store = open_cluster(settings, cluster, identity=run.identity(), environ=run.environ, storage=storage, act="write")
    result = push_wal(
        store,
        path,
        pgdata=data_directory_of(path),
        state_dir=settings.state_directory(cluster.name),
        systems=lambda: {each.system_identifier: each.version_num // 10000 for each in store.identity().systems},
        clock=run.clock,
    )
    for note in result.notes:
        run.out.note(note)
    if run.globals.verbose:
        milliseconds = (run.clock.monotonic() - began) * 1000
        requests = ", ".join(f"{count} {name}" for name, count in sorted(storage.requests.items()))
        run.out.note(
            f"{result.name} {result.outcome}: {result.raw_bytes} bytes, {result.stored_bytes} written, "
            f"{milliseconds:.0f} ms, {requests}"
        )
    return result


@verb("fetch", examples=["restore_command = 'pgrecall wal fetch %f %p'"], without=["--json"])
@argument("name")
@argument("path", type=click.Path(path_type=Path))
@option(
    "--standby", is_flag=True, help="A standby asks: say 1 instead of 126 when the answer is not known; it asks again."
)
@option(
    "--absent-status", type=click.IntRange(1, 125), default=ABSENT, metavar="N",
    help="Exit status for a file that is not in the archive; restore writes one that no broken program gives.",
)  # fmt: skip
def fetch(run: Invocation, name: str, path: Path, standby: bool, absent_status: int) -> int:
    """Bring the file NAME of the archive to PATH; for restore_command, with %f and %p.

    Exit status 0: fetched whole and checked. 1: proven not to be in the archive. Everything else is tried again for
    fetch_patience and then ends with a status above 125, because PostgreSQL takes 1–125 as the end of the archive.
    """
    from pgrecall.services.archive.fetch import Fetched, FetchRequest, fetch_wal
    from pgrecall.services.context import open_cluster

    settings, cluster, identity = run.settings(), run.cluster(), run.identity()
    answer = fetch_wal(
        lambda: open_cluster(settings, cluster, identity=identity, environ=run.environ),
        FetchRequest.of_server(name, path, data_directory_of(path), standby=standby),
        patience=cluster.fetch_patience,
        clock=run.clock,
        say=run.out.warn,
    )
    if run.globals.verbose:
        run.out.note(f"{name}: {answer}")
    return absent_status if answer is Fetched.ABSENT else 0


def data_directory_of(path: Path) -> Path:
    """PostgreSQL calls us in its data directory, with a path relative to it; people may call from elsewhere."""
    here = Path.cwd()
    if not path.is_absolute() and (here / "global/pg_control").exists():
        return here
    return path.absolute().parent.parent


command = click.Group("wal", help="What PostgreSQL calls to archive WAL and to recover it.", commands=[push, fetch])
