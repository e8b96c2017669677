"""What is on this host: running servers and their data directories, the program that PostgreSQL is to call."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgrecall.clock import Clock
from pgrecall.config_schema import NAME
from pgrecall.errors import NotThere, Refused, UsageError
from pgrecall.postgres.control import read_control
from pgrecall.postgres.users import OsUser, is_root, owner_of

PROC = Path("/proc")
USUAL_PLACES = ("/var/lib/postgresql/*/*", "/var/lib/pgsql/*/data", "/var/lib/pgsql/data", "/usr/local/pgsql/data")


@dataclass(frozen=True, kw_only=True)
class LocalCluster:
    """A data directory here, by what lies in it. version_num is that of the major version: files know no minor."""

    pgdata: Path
    owner: OsUser
    system_identifier: int
    version_num: int


def local_cluster(pgdata: Path, clock: Clock) -> LocalCluster:
    """NotThere when this is no data directory; Refused when its files belong to somebody else and we are not root."""
    version = pgdata / "PG_VERSION"
    try:
        major = version.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise NotThere(
            f"{pgdata} is no data directory: it has no PG_VERSION", hint="SHOW data_directory in psql tells which it is"
        ) from None
    except PermissionError:
        owner = owner_of(pgdata)
        raise Refused(f"{pgdata} belongs to {owner.name}", hint=f"run it as root, or as {owner.name}") from None
    owner = owner_of(pgdata)
    if not is_root() and os.geteuid() != owner.uid:
        raise Refused(f"{pgdata} belongs to {owner.name}", hint=f"run it as root, or as {owner.name}")
    identifier = read_control(pgdata, clock=clock).system_identifier
    return LocalCluster(pgdata=pgdata, owner=owner, system_identifier=identifier, version_num=int(major) * 10000)


def find_data_directory(environ: Mapping[str, str], known: Mapping[str, Path | None]) -> Path:
    """PGDATA, else the one server that runs here and is not `known` (configured), else the one that is.

    An error names all there are.
    """
    if environ.get("PGDATA"):
        return Path(environ["PGDATA"]).absolute()
    configured = [path.resolve() for path in known.values() if path is not None]
    found = [path for path in running_servers() if path not in configured] or configured
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"which server? {len(found)} run here: {', '.join(map(str, found))}", hint=f"--pgdata {found[0]}"
        )
    raise NotThere("no running PostgreSQL was found on this host", hint="name its data directory: --pgdata DIR")


def running_servers() -> list[Path]:
    """Data directories with a postmaster.pid whose process lives, as far as this user can see."""
    return sorted({place.resolve() for place in (*_working_directories(), *_usual_places()) if _runs(place)})


def cluster_name(wanted: str | None, pgdata: Path, taken: Mapping[str, Path | None]) -> str:
    """The name typed, else that of the configured cluster with this directory, else `main`, else the directory's."""
    if wanted is not None:
        if not NAME.fullmatch(wanted):
            raise UsageError(f"'{wanted}' is no name for a cluster", hint="lower-case letters, digits, _ and -")
        return wanted
    same = [name for name, path in taken.items() if path is not None and path.resolve() == pgdata.resolve()]
    if same:
        return same[0]
    for name in ("main", pgdata.name):
        if name not in taken and NAME.fullmatch(name):
            return name
    raise UsageError(f"a name for the cluster at {pgdata} is needed; taken: {', '.join(taken)}", hint="-c NAME")


def program_words() -> list[str]:
    """How PostgreSQL is to call us: the absolute path of this very program."""
    called = Path(sys.argv[0])
    beside = Path(sys.executable).with_name("pgrecall")
    for program in (called, beside, Path(shutil.which("pgrecall") or "/")):
        if program.name == "pgrecall" and program.is_file():
            return [str(program.absolute())]
    return [sys.executable, "-m", "pgrecall"]


def server_environment(pgdata: Path) -> dict[str, str] | None:
    """The environment of the running postmaster, which archive_command inherits; None when it cannot be seen."""
    try:
        pid = int((pgdata / "postmaster.pid").read_text().splitlines()[0])
        texts = (PROC / str(pid) / "environ").read_bytes().decode(errors="surrogateescape").split("\0")
    except (OSError, ValueError, IndexError):
        return None
    return dict(text.split("=", 1) for text in texts if "=" in text)


def _working_directories() -> Iterator[Path]:
    """A postmaster works in its data directory."""
    for process in PROC.glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() in ("postgres", "postmaster"):
                yield (process / "cwd").readlink()
        except OSError:
            continue


def _usual_places() -> Iterable[Path]:
    return (path for pattern in USUAL_PLACES for path in Path("/").glob(pattern.removeprefix("/")))


def _runs(place: Path) -> bool:
    try:
        pid = int((place / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, ValueError, IndexError):
        return False
    return True
