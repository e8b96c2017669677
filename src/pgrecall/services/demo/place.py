"""The demo's own directory: what lies where, the program that PostgreSQL calls, and whether there is room."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pgrecall
from pgrecall.domain.humanize import format_bytes
from pgrecall.errors import StorageFull
from pgrecall.postgres.binaries import Binaries
from pgrecall.postgres.scratch import SUPERUSER
from pgrecall.postgres.users import owner_of
from pgrecall.services.demo.report import Kept

CLUSTER = "main"
ORIGINAL_PORT, RECOVERED_PORT = 5432, 5433  # names of sockets only, and only when kept
START_SCRIPT = "start-servers"
# Two data directories, the repository, and what their servers write beside the tables.
SPACE_FACTOR = 3.5
SPACE_BASE = 800_000_000


@dataclass(frozen=True)
class Place:
    """Everything that the demo writes lies below `home`, but for the servers' sockets."""

    home: Path

    @property
    def original(self) -> Path:
        return self.home / "original"

    @property
    def recovered(self) -> Path:
        return self.home / "recovered"

    @property
    def repository(self) -> Path:
        return self.home / "repository"

    @property
    def config(self) -> Path:
        return self.home / "pgrecall.toml"

    @property
    def program(self) -> Path:
        return self.home / "pgrecall"

    def environment(self) -> dict[str, str]:
        """Under which our own services look for nothing outside."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "XDG_"))}
        own = {"HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "state"), "PGUSER": SUPERUSER}
        return {**inherited, **own}

    def socket_settings(self, port: int) -> dict[str, str | int | bool]:
        """For later, when pg_ctl starts what was kept."""
        return {"unix_socket_directories": str(self.home), "port": port}

    def make(self, needed_bytes: int) -> None:
        """Create it; StorageFull when the demo would not fit."""
        self.home.mkdir(mode=0o700, parents=True)
        free = shutil.disk_usage(self.home).free
        if free < needed_bytes:
            raise StorageFull(
                f"the demo needs about {format_bytes(needed_bytes)} in {self.home.parent}, "
                f"{format_bytes(free)} are free",
                hint="a smaller one: --size 50MB; or another place: TMPDIR=/path pgrecall demo",
                needed=needed_bytes,
                free=free,
            )
        self._script(self.program, wrapper(self.config))

    def remove(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    def keep(self, binaries: Binaries, outermost: Path) -> Kept:
        """Write the scripts with which people look around."""
        socket = shlex.quote(str(self.home))
        psql, pg_ctl = (shlex.quote(str(binaries.program(name))) for name in ("psql", "pg_ctl"))
        servers = {"original": (self.original, ORIGINAL_PORT), "recovered": (self.recovered, RECOVERED_PORT)}
        scripts = {
            f"psql-{name}": [f'exec {psql} -h {socket} -p {port} -U {SUPERUSER} "$@"']
            for name, (_, port) in servers.items()
        }
        directories = [shlex.quote(str(pgdata)) for pgdata, _ in servers.values()]
        scripts[START_SCRIPT] = ["set -e", *(f"{pg_ctl} -D {each} -l {each}.log -s -w start" for each in directories)]
        scripts["stop-servers"] = [f"{pg_ctl} -D {each} -s -w stop" for each in directories]
        for name, lines in scripts.items():
            self._script(self.home / name, lines)
        user = owner_of(self.home)
        return Kept(
            directory=self.home,
            outermost=outermost,
            run_by=user.name if owner_of(outermost) != user else None,
            program=self.program,
            psql_original=self.home / "psql-original",
            psql_recovered=self.home / "psql-recovered",
            start=self.home / START_SCRIPT,
            stop=self.home / "stop-servers",
            repository=self.repository,
            original=self.original,
            recovered=self.recovered,
            identity_file=self.config.parent / "identity",
        )

    @staticmethod
    def _script(path: Path, lines: Iterable[str]) -> None:
        path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n", encoding="utf-8")
        path.chmod(0o700)

    def repository_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.repository.rglob("*") if path.is_file())


def needed_bytes(size: int) -> int:
    return int(size * SPACE_FACTOR) + SPACE_BASE


def wrapper(config: Path) -> list[str]:
    """Lines of a shell script that is this very pgrecall with the demo's configuration, from any environment."""
    package = Path(pgrecall.__file__).parent.parent
    variables: dict[str, str | None] = {
        "PGRECALL_CONFIG": str(config),
        "PGRECALL_REPOSITORY": None,
        "PGUSER": SUPERUSER,
    }
    if not package.is_relative_to(sys.prefix):
        variables["PYTHONPATH"] = str(package)
    if os.environ.get("LD_LIBRARY_PATH"):  # of an interpreter that is not in its own place
        variables["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    lines = ["# The pgrecall that ran this demo, with the demo's configuration."]
    for name, value in variables.items():
        lines.append(f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}")
    lines.append(f'exec {shlex.quote(sys.executable)} -P -m pgrecall "$@"')
    return lines
