"""The empty frame of a restored cluster: directories, tablespaces, pg_wal; before the first file."""

from collections.abc import Sequence
from pathlib import Path

from pgrecall.errors import ObjectDamaged
from pgrecall.postgres.exclusions import TABLESPACE_DIRECTORY, WAL_DIRECTORY
from pgrecall.repository.manifest import DirectoryEntry, Manifest
from pgrecall.repository.paths import OUTSIDE, quote
from pgrecall.services.restore.destination import Made, top_level
from pgrecall.services.restore.files import NEVER_RESTORED
from pgrecall.services.restore.tablespaces import PlacedTablespace, is_absent_or_empty
from pgrecall.services.restore.tree import RestoredTree

_WAL_STATUS = WAL_DIRECTORY + b"/archive_status"
_OURS = (b"pgrecall-config", b"postgresql.conf", b"postgresql.auto.conf", b"pg_hba.conf", b"pg_ident.conf")


def version_directory(manifest: Manifest) -> str:
    """PG_<major>_<catalog version>: what of a tablespace's directory belongs to this cluster."""
    return f"PG_{manifest.cluster.version_num // 10000}_{manifest.cluster.catalog_version}"


def what_will_be_made(
    manifest: Manifest,
    root_files: Sequence[bytes],
    placed: Sequence[PlacedTablespace],
    replayed: Sequence[Path],
    *,
    destination_exists: bool,
) -> Made:
    """For the marker: everything that a killed restore may leave behind. `root_files`: files of the data directory."""
    names = [each.path for each in manifest.directories if each.path not in (b"", OUTSIDE)]
    entries = top_level([*names, *root_files, *_OURS, *NEVER_RESTORED, WAL_DIRECTORY, TABLESPACE_DIRECTORY])
    temporary = tuple(f"{name}.pgrecall" for name in entries)
    version = version_directory(manifest)
    places = {str(each.place): (version, not each.place.exists()) for each in placed}
    places |= {str(path): (version, True) for path in replayed if not path.exists()}
    return Made(str(manifest.label), not destination_exists, (*entries, *temporary), places)


def check_tablespaces(manifest: Manifest) -> None:
    """Every directory below pg_tblspc belongs to a tablespace that the manifest names; ObjectDamaged otherwise.

    Nothing lies in a tablespace but its version directory: a place outside the destination gets nothing else.
    """
    known = {str(each.oid).encode() for each in manifest.tablespaces}
    version = version_directory(manifest).encode()
    for directory in manifest.directories:
        parts = directory.path.split(b"/")
        if parts[0] == TABLESPACE_DIRECTORY and len(parts) > 1 and parts[1] not in known:
            raise ObjectDamaged(f"{quote(directory.path)} belongs to no tablespace of the backup {manifest.label}")
        if parts[0] == TABLESPACE_DIRECTORY and (
            parts[2:3] not in ([], [version]) or (parts[2:] == [] and directory.blocks)
        ):
            raise ObjectDamaged(f"{quote(directory.path)} holds what is not PostgreSQL's: only {version.decode()} is")


def make_directories(manifest: Manifest, tree: RestoredTree, placed: Sequence[PlacedTablespace]) -> None:
    """Every directory of the backup, tablespaces behind links of ours, and a fresh pg_wal, whatever it was before."""
    links = {each.link: each for each in placed}
    by_path = {each.path: each for each in manifest.directories if each.path != OUTSIDE}
    for path in (WAL_DIRECTORY, _WAL_STATUS, TABLESPACE_DIRECTORY):
        by_path.setdefault(path, DirectoryEntry(path, 0o700, 0, 0, 0, 0, ()))
    for path in sorted(by_path):
        entry = by_path[path]
        owner = tree.ownership.of(entry.owner, entry.group)
        if not path:
            continue  # the destination itself, settled when everything is in it
        if path in links:
            _make_tablespace(links[path], entry, tree)
        else:
            tree.make_directory(path, entry.mode, owner)


def _make_tablespace(tablespace: PlacedTablespace, entry: DirectoryEntry, tree: RestoredTree) -> None:
    make_empty(tablespace.place)
    owner = tree.ownership.of(entry.owner, entry.group)
    tree.make_link(tablespace.link, tablespace.place, owner)
    tree.settle_directory(tablespace.link, entry.mode, owner)


def make_empty(place: Path) -> None:
    """The directory, with its parents; it was absent or empty when the plan was made, and must be so still."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_absent_or_empty(place):
        raise FileExistsError(17, "not empty any more", str(place))


def root_entry(manifest: Manifest) -> DirectoryEntry:
    """The data directory's own entry; ObjectDamaged where there is none."""
    for each in manifest.directories:
        if not each.path:
            return each
    raise ObjectDamaged(f"the manifest of {manifest.label} does not describe the data directory itself")
