"""The whole cycle on a real server: archived quickly, backed up, restored beside the running source, compared."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Self

from pgrecall.clock import Clock, SystemClock
from pgrecall.domain.label import BackupLabel
from pgrecall.domain.target import EndOfArchive, RecoveryRequest
from pgrecall.errors import PgrecallError
from pgrecall.observe.reporter import Reporter, Silent
from pgrecall.postgres.connection import connect
from pgrecall.postgres.exclusions import is_excluded, is_unlogged_content, unlogged_numbers
from pgrecall.postgres.pgwal import read_archive_status
from pgrecall.postgres.relation import is_relation_directory
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from pgrecall.repository.catalog import BackupState, Catalog
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import NODE_SIZE
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import WAL
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.services.archive.segment import read_raw
from pgrecall.services.backup.request import BackupRequest, BackupResult
from pgrecall.services.backup.run import run_backup
from pgrecall.services.restore.execute import execute_restore
from pgrecall.services.restore.plan import RestoreOptions, plan_restore
from pgrecall.services.restore.recovery import Program
from pgrecall.services.restore.tablespaces import TablespaceMapping
from tests.conftest import NewServer, OpenServer
from tests.support.archive import Archive, archiving, wait_archived
from tests.support.cluster import table_fingerprints

SMALL_WAL = InitOptions(wal_segment_bytes=1 << 20)
POLL_SECONDS = 0.02
# What the running server rewrites in these directories while nobody writes to tables.
_COMPARED = (b"base", b"global", b"pg_tblspc", b"pg_xact", b"pg_multixact")

_WAIT_FOR_THE_THREAD = """#!/bin/sh
# Called as "pgrecall wal push NAME": the test's own process pushes; this waits until it did.
turns=0
until [ -e "{home}/archived/$3" ]; do
    turns=$((turns + 1))
    if [ -e "{home}/refusing" ] || [ $turns -gt 1500 ]; then exit 1; fi
    sleep {poll}
done
"""


class QuickArchiver:
    """Pushes what the server has ready from a thread of the test: as safe as `pgrecall wal push`, without its start-up.

    The archive_command still ends only when the file is in the repository.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._home = archive.home
        (self._home / "archived").mkdir()
        (self._home / "bin").mkdir()
        self._script = self._home / "bin/pgrecall"
        self._script.write_text(_WAIT_FOR_THE_THREAD.format(home=self._home, poll=POLL_SECONDS))
        self._script.chmod(0o755)
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self.failures: list[PgrecallError] = []

    @property
    def command(self) -> str:
        return f"{self._script} wal push %f"

    def follow(self, server: ScratchServer) -> None:
        self._thread = threading.Thread(target=self._work, args=(server,), name="archiver", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """archive_command fails while the block runs."""
        mark = self._home / "refusing"
        mark.touch()
        yield
        mark.unlink()

    def close(self) -> None:
        """End; what the server still calls fails."""
        (self._home / "refusing").touch()
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self, server: ScratchServer) -> None:
        while not self._ending.wait(POLL_SECONDS):
            if (self._home / "refusing").exists():
                continue
            with contextlib.suppress(FileNotFoundError):
                for name in read_archive_status(server.pgdata).ready:
                    self._push(server, name)

    def _push(self, server: ScratchServer, name: str) -> None:
        if (self._home / "archived" / name).exists():
            return
        try:
            self._archive.push(server, name)
        except PgrecallError as error:
            self.failures.append(error)
        (self._home / "archived" / name).touch()


class Interfering(Silent):
    """A reporter that does something, once, when a stage begins."""

    def __init__(self, stage: str, action: Callable[[], object]) -> None:
        super().__init__()
        self._stage, self._action = stage, action
        self.done = False

    def stage(self, name: str, total_bytes: int | None = None) -> None:
        if name == self._stage and not self.done:
            self.done = True
            self._action()


@dataclass
class Cycle:
    """A server, its repository, and what one does with them."""

    server: ScratchServer
    archive: Archive
    archiver: QuickArchiver
    open_server: OpenServer
    home: Path
    clock: SystemClock = field(default_factory=SystemClock)

    @classmethod
    @contextlib.contextmanager
    def running(
        cls,
        new_server: NewServer,
        open_server: OpenServer,
        tmp_path: Path,
        *,
        options: InitOptions = SMALL_WAL,
        settings: dict[str, str] | None = None,
        archives: bool = True,
        sealed: bool = True,
    ) -> Iterator[Self]:
        server = new_server(options=options, settings={"autovacuum": "off", **(settings or {})}, start=False)
        archive = Archive.of(server, tmp_path / "home", sealed=sealed)
        archiver = QuickArchiver(archive)
        if archives:
            server.settings.update(archiving(archiver.command))
            archiver.follow(server)
        server.start()
        try:
            yield cls(server, archive, archiver, open_server, tmp_path)
        finally:
            archiver.close()
        assert archiver.failures == []

    @property
    def store(self) -> ClusterStore:
        return self.archive.store

    def request(
        self, *, full: bool = False, jobs: int = 2, wait_seconds: float = 60, independent: bool = False
    ) -> BackupRequest:
        return BackupRequest(
            pgdata=self.server.pgdata,
            connect=lambda: connect(self.server.conninfo(), env={}, pgdata=self.server.pgdata),
            state_dir=self.archive.home / "state-host",
            full=full,
            independent=independent,
            jobs=jobs,
            level=1,
            archive_wait=timedelta(seconds=wait_seconds),
        )

    def backup(
        self,
        request: BackupRequest | None = None,
        *,
        store: ClusterStore | None = None,
        clock: Clock | None = None,
        reporter: Reporter | None = None,
    ) -> BackupResult:
        return run_backup(
            request or self.request(),
            store or self.store,
            clock=clock or self.clock,
            reporter=reporter or Silent(),
        )

    @property
    def config(self) -> Path:
        """The configuration under which `pgrecall backup` does what `backup` does."""
        path = self.archive.home / "backup.toml"
        path.write_text(
            f'state_dir = "{self.archive.home}/state-host"\n'
            f'repository = {{ url = "file://{self.archive.home}/repository" }}\n'
            f'clusters.main = {{ key_file = "{self.archive.home}/keys/main.key", pgdata = "{self.server.pgdata}" }}\n'
        )
        return path

    def states(self) -> dict[BackupLabel, BackupState]:
        return {each.label: each.state for each in Catalog(self.store).backups()}

    def switch(self) -> None:
        """End the segment now being written and wait until it is archived."""
        self.server.execute("select pg_current_xact_id()")
        wait_archived(self.server, str(self.server.value("select pg_walfile_name(pg_switch_wal())")))

    # reading back ---------------------------------------------------------------------------------------------------
    def assemble(self, label: BackupLabel) -> dict[bytes, bytes]:
        """Every file of a backup, put together from its chunks, every digest proven."""
        return assemble(self.store, label)

    def differing_files(self, label: BackupLabel) -> list[str]:
        """Files of tables that the backup holds otherwise than the disk does now, and those that one of them lacks.

        Right after a backup of a server at rest there are none.
        """
        stored = {path: data for path, data in self.assemble(label).items() if path.split(b"/")[0] in _COMPARED}
        stored.pop(b"global/pg_control")
        root = self.server.pgdata
        there = set(files_of_tables(root))
        differing = [path for path, data in stored.items() if path in there and read(root, path) != data]
        return sorted(path.decode() for path in [*differing, *(there ^ set(stored))])

    def restored(self, name: str, *, label: BackupLabel | None = None) -> ScratchServer:
        """A backup (the newest) recovered to the end of the archive, beside the source: a started server."""
        destination = self.home / name
        spaces = self.server.query("select oid, oid::text from pg_tablespace where spcname !~ '^pg_'")
        options = RestoreOptions(
            destination=destination,
            request=RecoveryRequest(EndOfArchive(), inclusive=True, timeline="latest"),
            from_label=str(label) if label else None,
            tablespaces=tuple(TablespaceMapping(oid, self.home / f"{name}-space-{oid}") for _, oid in spaces),
        )
        plan = plan_restore(self.store, options, now=self.clock.now())
        execute_restore(plan, Program(("false",)), reporter=Silent(), clock=self.clock)
        # Recovery from files costs no start of Python per segment; `wal fetch` has tests of its own.
        wal = self.home / f"{name}-wal"
        extract_wal(self.store, wal)
        settings = {"restore_command": f"cp {wal}/%f %p", "recovery_target_timeline": "latest"}
        server = self.open_server(destination, isolated=True, settings=settings).start()
        server.wait_promoted()
        return server

    def assert_restores(self, *labels: BackupLabel) -> None:
        """Each of these backups (none: the newest), recovered to the end, holds every row that the source holds now."""
        self.switch()
        wanted = table_fingerprints(self.server)
        for number, label in enumerate(labels or (None,)):
            with self.restored(f"copy{number}", label=label) as server:
                assert table_fingerprints(server) == wanted, f"restored from {label or 'the newest backup'}"


def assemble(store: ClusterStore, label: BackupLabel) -> dict[bytes, bytes]:
    record = Catalog(store).get(label)
    assert record is not None and record.commit is not None, f"{label} was never committed"
    reader = ManifestReader.open(store, label, record.commit.manifest)
    chunks = reader.chunk_reader()
    found = {}
    for file in reader.all_files():
        data = bytearray(file.entry.size)
        if file.node_list is None:
            assert file.extents is not None and file.ranges is not None
            chunks.assemble(file.extents, file.ranges, file.path, memoryview(data))
        else:
            for node in reader.nodes(reader.node_list(file)):
                out = memoryview(data)[node.offset : node.offset + min(NODE_SIZE, node.length)]
                chunks.assemble(node.extents, node.ranges, file.path, out, node.offset)
        found[file.path] = bytes(data)
    return found


def files_of_tables(root: Path) -> Iterator[bytes]:
    """Paths below a data directory that a backup of a server at rest must hold byte by byte."""
    for top in _COMPARED:
        yield from _files_below(root, top)


def _files_below(root: Path, directory: bytes) -> Iterator[bytes]:
    entries = sorted((root / directory.decode()).iterdir())
    names = [entry.name.encode() for entry in entries]
    unlogged = unlogged_numbers(names) if is_relation_directory(directory) else frozenset()
    for entry, name in zip(entries, names, strict=True):
        path = directory + b"/" + name
        if entry.is_dir():
            yield from _files_below(root, path)
        elif not is_excluded(directory, name) and not is_unlogged_content(name, unlogged):
            yield path


def read(root: Path, path: bytes) -> bytes:
    return (root / path.decode()).read_bytes()


def extract_wal(store: ClusterStore, directory: Path) -> None:
    """Every stored WAL file under its own name."""
    directory.mkdir()
    for info in store.list(WAL):
        name = info.key.rpartition("/")[2]
        if name == "owner":
            continue
        if "." in name:
            data = store.read(ObjectType.HISTORY, info.key).payload()
        else:
            data = read_raw(store.read(ObjectType.WAL, info.key))
        (directory / name).write_bytes(data)
