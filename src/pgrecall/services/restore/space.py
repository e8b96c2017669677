"""Room for a restore: what each file system must take, against what it has left."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgrecall.domain.humanize import format_bytes
from pgrecall.errors import DestinationTooSmall
from pgrecall.repository.manifest import Manifest
from pgrecall.services.restore.tablespaces import PlacedTablespace

MARGIN = 64 * 1024 * 1024
"""Directories, the log, what a starting server writes before anybody can react."""
MOST_WAL = 3 * 1024 * 1024 * 1024
"""Replay removes WAL as it goes; more than three times the default max_wal_size does not lie in pg_wal at once."""


@dataclass(frozen=True, slots=True)
class SpaceNeed:
    """One file system: the directories on it, bytes needed and free."""

    places: tuple[Path, ...]
    needed: int
    free: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.free

    def refusal(self) -> DestinationTooSmall:
        places = ", ".join(map(str, self.places))
        return DestinationTooSmall(
            f"{places} has {format_bytes(self.free)} free, {format_bytes(self.needed)} are needed",
            hint="Make room, choose another --to, or map tablespaces to other disks with --tablespace.",
            free=self.free,
            needed=self.needed,
        )


def space_needs(
    manifest: Manifest, destination: Path, placed: Sequence[PlacedTablespace], *, wal_bytes: int
) -> list[SpaceNeed]:
    """By file system. Sizes are full sizes: holes may make it less."""
    sizes = {each.place: 0 for each in placed}
    links = {each.link: each.place for each in placed}
    own = min(wal_bytes, MOST_WAL) + MARGIN
    for directory in manifest.directories:
        link = b"/".join(directory.path.split(b"/")[:2])
        if link in links:
            sizes[links[link]] += directory.size
        else:
            own += directory.size
    by_device: dict[int, list[tuple[Path, int]]] = {}
    for place, size in [(destination, own), *sizes.items()]:
        by_device.setdefault(_existing(place).stat().st_dev, []).append((place, size))
    return [
        SpaceNeed(tuple(place for place, _ in group), sum(size for _, size in group), free_bytes(group[0][0]))
        for group in by_device.values()
    ]


def free_bytes(place: Path) -> int:
    """Bytes that we may write there, or will be able to where it does not exist yet."""
    found = os.statvfs(_existing(place))
    return found.f_bavail * found.f_frsize


def _existing(place: Path) -> Path:
    return next(each for each in (place, *place.parents) if each.exists())
