"""Owns finding a lost manifest again: its second copy lies in the run's last pack (format.md §5)."""

from collections.abc import Iterator

from pgrecall.domain.label import BackupLabel
from pgrecall.errors import DamageFound, FormatUnknown, ObjectDamaged, ObjectMissing, StorageError
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.commit import Commit
from pgrecall.repository.envelope import ObjectReader
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import PACKS, pack_name, parse_run_name
from pgrecall.repository.manifest import Manifest
from pgrecall.repository.manifest_json import decode_manifest
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.runtable import RunTable

_MAP_MAGICS = (b"PGRN", b"PGRL", b"PGRF", b"PGRT")


def open_manifest(
    store: ClusterStore, label: BackupLabel, commit: Commit | None = None
) -> tuple[ManifestReader, str | None]:
    """The backup's files, and, when its manifest is missing or damaged, a warning that the second copy was used.

    The first error is raised where there is no second copy either.
    """
    try:
        return ManifestReader.open(store, label, commit.manifest if commit else None), None
    except (DamageFound, ObjectMissing) as error:
        found = find_second_copy(store, label)
        if found is None:
            raise
        return ManifestReader(store, found), f"{error.message}; read its second copy instead"


def find_second_copy(store: ClusterStore, label: BackupLabel) -> Manifest | None:
    """The manifest in the packs of its run, looked for from the last pack backwards; packs are read whole."""
    for seq in _packs_of(store, label):
        try:
            pack = store.read(ObjectType.PACK, pack_name(label, seq))
            found = _manifest_in(pack, label, seq)
        except (DamageFound, FormatUnknown, StorageError):
            continue  # one more damaged pack is no reason not to look into the others
        if found is not None:
            return found
    return None


def _packs_of(store: ClusterStore, label: BackupLabel) -> list[int]:
    places = (parse_run_name(info.key) for info in store.list(f"{PACKS}{label}/"))
    return sorted((place[1] for place in places if place), reverse=True)


def _manifest_in(pack: ObjectReader, label: BackupLabel, seq: int) -> Manifest | None:
    """The frames after the run table. Only map packs are searched: their first frame tells."""
    if not pack.frames or not pack.read(0).startswith(_MAP_MAGICS):
        return None
    frames: list[bytes] = []
    for number, raw in _backwards(pack):
        if raw.startswith(b"PGRT"):
            return _checked(frames, raw, label, (seq, number))
        frames.insert(0, raw)
    return None


def _backwards(pack: ObjectReader) -> Iterator[tuple[int, bytes]]:
    for number in range(len(pack.frames) - 1, -1, -1):
        yield number, pack.read(number)


def _checked(frames: list[bytes], table: bytes, label: BackupLabel, place: tuple[int, int]) -> Manifest:
    """The manifest must say of itself that its run's table lies exactly there."""
    manifest = decode_manifest(b"".join(frames), f"second copy of the manifest of {label}")
    own = next((each for each in manifest.runs if each.run == label), None)
    if (
        manifest.label != label
        or own is None
        or (own.pack.seq, own.table.chunk) != place
        or RunTable.decode(table).run != label.number
    ):
        raise ObjectDamaged(f"pack {place[0]} of {label} holds another run's manifest")
    return manifest
