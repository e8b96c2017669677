"""Owns what is measured of every tool, and how pgrecall is called: by its own command line, as users call it."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from bench.measure import Cost, run, tree_bytes
from pgrecall.postgres.scratch import ScratchServer

Kind = Literal["full", "incr"]
Which = Literal["full", "last"]
LEVEL = 3
OK = (0, 3)
"""pgrecall's exit statuses: done; done, with warnings."""


class Tool(Protocol):
    """One tool with a repository of its own. Operations that it does not have return None."""

    name: str
    version: str

    def prepare(self, home: Path, server: ScratchServer) -> None:
        """A new, empty repository below home; not measured."""
        ...

    def backup(self, kind: Kind) -> Cost | None: ...

    def restore(self, which: Which, destination: Path) -> Cost | None:
        """The first full backup or the newest one, files only: the result is ready to be started."""
        ...

    def verify(self) -> Cost | None: ...

    @property
    def repository(self) -> Path: ...


class Pgrecall:
    """Sealed (AES-256-GCM), with the defaults of `pgrecall init`."""

    def __init__(self, jobs: int) -> None:
        self.name = "pgrecall"
        self._jobs = jobs
        self._program = [sys.executable, "-m", "pgrecall"]
        self.version = _pgrecall_version()
        self._labels: list[str] = []

    def prepare(self, home: Path, server: ScratchServer) -> None:
        self.repository = home / "repository"
        self._server = server
        self._labels = []
        self._config = home / "pgrecall.toml"
        # A checkout that we cannot write to has no bytecode of its own; an installed package has.
        bytecode = {"PYTHONPYCACHEPREFIX": str(home.parent / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        state = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
        self._environment = {**server.client_environment(), **state, **bytecode}
        for verb in ("backup", "restore", *(["verify"] if _has_verb("verify") else [])):
            run([*self._program, verb, "--help"], self._environment)
        self._call("init", "-c", "bench", "--repo", self.repository, "--pgdata", server.pgdata, "--yes")

    def backup(self, kind: Kind) -> Cost:
        more = ["--full"] if kind == "full" else []
        before = tree_bytes(self.repository)
        cost, data = self._call("backup", *more, "--jobs", str(self._jobs))
        self._labels.append(data["backup"]["label"])
        cost.stored = tree_bytes(self.repository) - before
        cost.requests = sum(data["requests"].values())
        return cost

    def restore(self, which: Which, destination: Path) -> Cost:
        label = self._labels[0 if which == "full" else -1]
        words = ("restore", "--to", destination, "--from", label, "--at", "immediate", "--jobs", str(self._jobs))
        cost, data = self._call(*words)
        cost.requests = _requests(data)
        return cost

    def verify(self) -> Cost | None:
        if not _has_verb("verify"):
            return None
        cost, data = self._call("verify")
        cost.requests = _requests(data)
        return cost

    def _call(self, *words: str | Path) -> tuple[Cost, dict[str, Any]]:
        argv = [*self._program, *words, "--config", self._config, "--json", "-q"]
        cost = run(argv, self._environment, server=self._server.pid, accepted=OK)
        answer: dict[str, Any] = json.loads(next(line for line in cost.output.splitlines() if line.startswith("{")))
        return cost, answer["data"]


class PgBasebackup:
    """PostgreSQL's own: the server reads, compresses (zstd, two workers) and sends; one stream."""

    def __init__(self, *, plain: bool, jobs: int) -> None:
        self.name = "pg_basebackup plain" if plain else "pg_basebackup zstd"
        self._plain = plain
        self._jobs = jobs
        self.version = ""

    def prepare(self, home: Path, server: ScratchServer) -> None:
        self.repository = home / "backups"
        self.repository.mkdir(parents=True)
        self._server = server
        self._environment = {**server.client_environment(), "HOME": str(home)}
        self._bin = server.binaries.bindir
        self.version = server.binaries.version
        self._count = 0

    def backup(self, kind: Kind) -> Cost | None:
        if self._plain and kind == "incr":
            return None
        target = self.repository / str(self._count)
        form = ["-Fp"] if self._plain else ["-Ft", f"--compress=server-zstd:level={LEVEL},workers={self._jobs}"]
        manifest = self.repository / str(self._count - 1) / "backup_manifest"
        parent = [] if kind == "full" else ["--incremental", str(manifest)]
        argv: list[str | Path] = [
            self._bin / "pg_basebackup",
            "-D",
            target,
            "-c",
            "fast",
            "-X",
            "fetch",
            *form,
            *parent,
        ]
        cost = run(argv, self._environment, server=self._server.pid)
        cost.stored = tree_bytes(target)
        self._count += 1
        return cost

    def restore(self, which: Which, destination: Path) -> Cost | None:
        if self._plain or shutil.which("zstd") is None:
            return None
        if which == "full":
            return self._unpack(0, destination)
        cost = Cost()
        parts = [destination.with_name(f"{destination.name}-{number}") for number in range(self._count)]
        for number, part in enumerate(parts):
            cost.add(self._unpack(number, part))
        cost.add(run([self._bin / "pg_combinebackup", "-o", destination, *parts], self._environment))
        for part in parts:
            shutil.rmtree(part)
        return cost

    def _unpack(self, number: int, destination: Path) -> Cost:
        destination.mkdir(mode=0o700)
        script = 'set -eu; zstd -dcq "$1" | tar -x -C "$2"'
        backup = self.repository / str(number)
        cost = run(["sh", "-c", script, "sh", backup / "base.tar.zst", destination], self._environment)
        shutil.copyfile(backup / "backup_manifest", destination / "backup_manifest")
        return cost

    def verify(self) -> Cost | None:
        cost = Cost()
        for number in range(self._count):
            cost.add(run([self._bin / "pg_verifybackup", "-q", "-n", self.repository / str(number)], self._environment))
        return cost


class PgBackRest:
    """Bundles, block incremental, zstd, unencrypted; it waits for no WAL and stores none."""

    def __init__(self, program: Path, version: str, jobs: int) -> None:
        self.name = "pgBackRest"
        self.version = version
        self._program = program
        self._jobs = jobs

    def prepare(self, home: Path, server: ScratchServer) -> None:
        self.repository = home / "repository"
        for name in ("repository", "log", "lock", "spool"):
            (home / name).mkdir(parents=True)
        self._server = server
        self._config = home / "pgbackrest.conf"
        settings = {
            "repo1-path": self.repository,
            "repo1-bundle": "y",
            "repo1-block": "y",
            "repo1-retention-full": 9999999,
            "compress-type": "zst",
            "compress-level": LEVEL,
            "process-max": self._jobs,
            "start-fast": "y",
            "archive-check": "n",
            "log-level-console": "warn",
            "log-level-file": "off",
            "log-path": home / "log",
            "lock-path": home / "lock",
            "spool-path": home / "spool",
            "cmd": self._program,
        }
        lines = ["[global]", *(f"{name}={value}" for name, value in settings.items())]
        lines += ["[bench]", f"pg1-path={server.pgdata}", f"pg1-socket-path={server.socket_dir}", "pg1-port=5432"]
        lines += ["pg1-user=postgres"]
        self._config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PGBACKREST_", "PG"))
        }
        self._call("stanza-create")
        self._labels: list[str] = []

    def backup(self, kind: Kind) -> Cost:
        before = tree_bytes(self.repository)
        cost = self._call("backup", f"--type={kind}")
        cost.stored = tree_bytes(self.repository) - before
        newest = max(path.name for path in (self.repository / "backup" / "bench").glob("2*-*") if path.is_dir())
        self._labels.append(newest)
        return cost

    def restore(self, which: Which, destination: Path) -> Cost:
        destination.mkdir(mode=0o700)
        label = self._labels[0 if which == "full" else -1]
        return self._call("restore", f"--set={label}", f"--pg1-path={destination}", "--type=immediate")

    def verify(self) -> Cost:
        return self._call("verify")

    def _call(self, *words: str) -> Cost:
        argv: Sequence[str | Path] = [self._program, f"--config={self._config}", "--stanza=bench", *words]
        return run(argv, self._environment, server=self._server.pid)


def _requests(data: dict[str, Any]) -> int | None:
    """Where a verb counts them."""
    counted = data.get("requests")
    return sum(counted.values()) if isinstance(counted, dict) else None


def _pgrecall_version() -> str:
    from pgrecall import __version__

    return __version__


def _has_verb(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(f"pgrecall.cli.{name}") is not None
