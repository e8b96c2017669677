"""Where a restore goes: an absent or empty directory, or what an unfinished restore left; never anything else."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgrecall.durable import sync_directory
from pgrecall.errors import Busy, DestinationNotEmpty, DestinationRunning, Refused
from pgrecall.services.restore.files import CONTROL_FILE, MARKER

MARKER_NAME = os.fsdecode(MARKER)
_PID_FILE = "postmaster.pid"


@dataclass(frozen=True, slots=True)
class Made:
    """What an unfinished restore made: it wrote this down before it made anything.

    `entries`: names in the destination. `tablespaces`: by place, the one directory below it that is ours, and whether
    the place itself is. `parents`: True if the destination itself was made.
    """

    label: str
    destination_made: bool
    entries: tuple[str, ...]
    tablespaces: Mapping[str, tuple[str, bool]] = field(default_factory=dict)

    def to_json(self) -> bytes:
        said = "A pgrecall restore has not finished here: nothing starts. Run it again, or remove this directory."
        return json.dumps(
            {
                "what": said,
                "label": self.label,
                "destination_made": self.destination_made,
                "entries": list(self.entries),
                "tablespaces": {place: list(made) for place, made in self.tablespaces.items()},
            },
            indent=1,
        ).encode()

    @classmethod
    def from_json(cls, text: str) -> "Made":
        raw: dict[str, Any] = json.loads(text)
        return cls(
            str(raw["label"]),
            bool(raw["destination_made"]),
            tuple(str(each) for each in raw["entries"]),
            {str(place): (str(name), bool(made)) for place, (name, made) in raw["tablespaces"].items()},
        )


@dataclass(frozen=True, slots=True)
class Destination:
    """A directory that may be restored into."""

    path: Path
    exists: bool
    unfinished: Made | None = None


def inspect_destination(path: Path) -> Destination:
    """Raise DestinationRunning, DestinationNotEmpty or Refused, naming what to do instead; reads only."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would hide a link that the user typed
    _refuse_inside_a_cluster(path)
    if not path.exists():
        if path.is_symlink():
            raise Refused(f"{path} is a symbolic link that leads nowhere", path=str(path))
        return Destination(path, exists=False)
    if not path.is_dir():
        raise DestinationNotEmpty(f"{path} is a file, not a directory", path=str(path))
    refuse_running(path)
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        return Destination(path, exists=True)
    if MARKER_NAME in names:
        return Destination(path, exists=True, unfinished=_unfinished(path))
    what = "a PostgreSQL data directory" if "PG_VERSION" in names else f"not empty ({', '.join(names[:3])}…)"
    raise DestinationNotEmpty(
        f"{path} is {what}; a restore never writes over anything",
        hint=f"--to {path / 'rescue'}" if "PG_VERSION" not in names else f"--to {path}.restored",
        path=str(path),
    )


def refuse_running(path: Path) -> None:
    """postmaster.pid means a server, also when its pid cannot be seen from here (containers)."""
    if not (path / _PID_FILE).exists():
        return
    with suppress(OSError, UnicodeDecodeError):
        first = (path / _PID_FILE).read_text().splitlines()[:1]
        pid = f" (pid {first[0].strip()})" if first and first[0].strip().isdigit() else ""
        raise DestinationRunning(
            f"{path} is a running server{pid}, or one that crashed: it holds {_PID_FILE}",
            hint=f"--to {path}.restored; a restore beside it disturbs nothing",
            path=str(path),
        )
    raise DestinationRunning(f"{path} holds {_PID_FILE}, which cannot be read", path=str(path))


def _refuse_inside_a_cluster(path: Path) -> None:
    for parent in path.resolve().parents:
        if (parent / "PG_VERSION").exists():
            raise Refused(
                f"{path} lies inside the data directory {parent}",
                hint=f"--to {parent}.restored",
                path=str(path),
            )


def _unfinished(path: Path) -> Made:
    if (path / os.fsdecode(CONTROL_FILE)).exists():
        raise DestinationNotEmpty(
            f"{path} holds a restore that was interrupted in its last step: its data is complete",
            hint=f"remove {path / MARKER_NAME} and start it, or choose another --to",
            path=str(path),
        )
    try:
        made = Made.from_json((path / MARKER_NAME).read_text())
    except (OSError, ValueError, KeyError, TypeError):
        made = Made("unknown", destination_made=False, entries=())
    foreign = sorted({entry.name for entry in path.iterdir()} - {*made.entries, MARKER_NAME})
    if foreign:
        raise DestinationNotEmpty(
            f"{path} holds an unfinished restore and also what it did not make: {', '.join(foreign[:3])}",
            hint=f"remove {path} yourself, or choose another --to",
            path=str(path),
        )
    return made


@contextmanager
def claim(destination: Destination, made: Made) -> Iterator[None]:
    """Make the directory (0700), wipe what an unfinished restore left, and hold the marker while the restore works.

    Raise Busy if another restore is at work there. The marker stays until `finish`.
    """
    path = destination.path
    if not destination.exists:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    marker = os.open(path / MARKER_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another restore is at work in {path}", hint="Wait for it, or choose another --to.") from None
        if destination.unfinished is not None:
            wipe(path, destination.unfinished)
        elif any(entry.name != MARKER_NAME for entry in path.iterdir()):
            raise DestinationNotEmpty(f"{path} was filled by somebody else meanwhile", path=str(path))
        path.chmod(0o700)
        os.ftruncate(marker, 0)
        os.pwrite(marker, made.to_json(), 0)
        os.fsync(marker)
        sync_directory(path)
        sync_directory(path.parent)
        yield
    finally:
        os.close(marker)


def wipe(path: Path, made: Made) -> None:
    """Remove what the marker says was made, and the marker never: a wipe that is killed can be begun again."""
    refuse_running(path)
    for name in made.entries:
        if name != MARKER_NAME:
            _remove(path / name)
    for place, (name, place_made) in made.tablespaces.items():
        _remove(Path(place) / name)
        if place_made:
            with suppress(OSError):
                Path(place).rmdir()


def finish(path: Path) -> None:
    """The restore is whole: from here on the directory is a cluster like any other."""
    (path / MARKER_NAME).unlink()
    sync_directory(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def top_level(paths: Iterable[bytes]) -> tuple[str, ...]:
    """Names in the destination of these paths below it, for `Made.entries`."""
    return tuple(sorted({os.fsdecode(path.split(b"/")[0]) for path in paths if path}))
