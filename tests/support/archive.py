"""A repository with one cluster for a server of the tests, and the commands that its archive_command calls."""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pgrecall.clock import Clock, SystemClock
from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.wal import is_segment_name
from pgrecall.domain.window import BackupPoint
from pgrecall.postgres.control import read_control, read_system_identifier
from pgrecall.postgres.scratch import ScratchServer
from pgrecall.repository.cluster import ClusterStore, SystemIdentity
from pgrecall.repository.hostkey import write_host_key
from pgrecall.repository.repository import Repository
from pgrecall.services.archive.inventory import WalInventory
from pgrecall.services.archive.push import PushResult, push_wal
from pgrecall.storage.posix import PosixStorage

SOURCE = Path(__file__).parents[2] / "src"


@dataclass
class Archive:
    """Made for one server's system identifier; `home` keeps repository, configuration, key and state directories."""

    home: Path
    system_identifier: int
    major: int
    patience: str = "2s"
    sealed: bool = True
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        self.storage = PosixStorage(self.home / "repository")
        created = Repository.create(self.storage, sealed=self.sealed, clock=self.clock)
        system = SystemIdentity(self.system_identifier, self.major * 10000, datetime.now(UTC).replace(microsecond=0))
        key = created.repository.add_cluster("main", created.root, systems=[system])
        (self.home / "keys").mkdir()
        write_host_key(self.home / "keys/main.key", key)
        self.store = ClusterStore.from_host_key(self.storage, key)
        self.config = self.home / "pgrecall.toml"
        self.write_config()

    @classmethod
    def of(cls, server: ScratchServer, home: Path, *, sealed: bool = True) -> "Archive":
        home.mkdir()
        return cls(home, read_system_identifier(server.pgdata), server.binaries.major, sealed=sealed)

    def write_config(self, *, patience: str | None = None, host: str = "host") -> Path:
        """The configuration of one host: hosts have their own state directories."""
        path = self.home / f"{host}.toml"
        path.write_text(
            f'state_dir = "{self.home}/state-{host}"\n'
            f'repository = {{ url = "file://{self.home}/repository" }}\n'
            f'clusters.main = {{ key_file = "{self.home}/keys/main.key", '
            f'fetch_patience = "{patience or self.patience}" }}\n'
        )
        self.config = path if host == "host" else self.config
        return path

    def command(self, words: str, *, host: str = "host") -> str:
        """A shell command for archive_command or restore_command; words may hold %p and %f."""
        config = self.home / f"{host}.toml"
        if not config.exists():
            self.write_config(host=host)
        env = f"PYTHONPATH={SOURCE} PYTHONPYCACHEPREFIX={self.home}/pyc PGRECALL_CONFIG={shlex.quote(str(config))}"
        return f"{env} {sys.executable} -m pgrecall {words}"

    def run(self, words: str, *, cwd: Path, host: str = "host", **environment: str) -> subprocess.CompletedProcess[str]:
        """Call the program as PostgreSQL does."""
        return subprocess.run(
            ["/bin/sh", "-c", self.command(words, host=host)],
            cwd=cwd, env=_with_bytecode(environment), capture_output=True, text=True, check=False,
        )  # fmt: skip

    def push(self, server: ScratchServer, name: str, *, host: str = "host") -> PushResult:
        """Push a file of pg_wal in this process."""
        return push_wal(
            self.store,
            server.pgdata / "pg_wal" / name,
            pgdata=server.pgdata,
            state_dir=self.home / f"state-{host}",
            systems=lambda: {self.system_identifier: self.major},
            clock=self.clock,
        )

    def inventory(self) -> WalInventory:
        return WalInventory(self.store, self.system_identifier)

    def object_path(self, name: str) -> Path:
        """The file of the stored object of a WAL file."""
        timeline = name[:8]
        return self.home / f"repository/clusters/main/wal/{self.system_identifier}/{timeline}/{name}"


def _with_bytecode(environment: dict[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return inherited | environment


def archiving(command: str) -> dict[str, str]:
    """Settings of a server that archives by a command."""
    return {"archive_mode": "on", "archive_command": command, "wal_level": "replica", "max_wal_size": "10GB"}


def fill(server: ScratchServer, segments: int = 1, *, table: str = "filled") -> list[str]:
    """Write some rows and end the segment, that many times; the names of the segments ended."""
    server.execute(f"create table if not exists {table} (n int, note text)")
    names = []
    for number in range(segments):
        server.execute(f"insert into {table} select {number}, repeat('x', n) from generate_series(1, 100) n")
        names.append(str(server.value("select pg_walfile_name(pg_switch_wal())")))
    return names


def wait_archived(server: ScratchServer, name: str, *, clock: Clock | None = None, timeout_s: float = 60) -> None:
    """Until the server knows that the file is archived."""
    clock = clock or SystemClock()
    deadline = clock.monotonic() + timeout_s
    while not (server.pgdata / f"pg_wal/archive_status/{name}.done").exists():
        assert clock.monotonic() < deadline, f"{name} was not archived:\n{server.log()[-3000:]}"
        clock.sleep(0.05)


def cold_copy(server: ScratchServer, target: Path) -> BackupPoint:
    """A data directory copied while the server is down, as the base of recoveries; what the inventory must know."""
    server.stop()
    shutil.copytree(server.pgdata, target, symlinks=True, ignore=_wal_files)
    control = read_control(target, clock=SystemClock())
    server.start()
    stop = Lsn(control.checkpoint + 1)
    label = BackupLabel.at(control.checkpoint_time, BackupKind.FULL)
    return BackupPoint(label, control.timeline, control.redo, stop, control.checkpoint_time)


def _wal_files(path: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(path).name == "pg_wal" and is_segment_name(name)]


def recover(pgdata: Path, restore_command: str, **settings: str) -> dict[str, str]:
    """Make a copied directory recover; the settings to start it with."""
    (pgdata / "recovery.signal").touch()
    (pgdata / "postmaster.pid").unlink(missing_ok=True)
    return {"restore_command": restore_command, "archive_mode": "off", "hot_standby": "on", **settings}
