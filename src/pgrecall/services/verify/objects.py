"""Owns checking one stored object for itself: every byte read, every frame opened, its facts against its name."""

from dataclasses import dataclass

from pgrecall.domain.label import BackupLabel
from pgrecall.domain.timeline import History
from pgrecall.domain.wal import WalSegment, is_history_name, is_segment_name
from pgrecall.domain.window import StoredSegment
from pgrecall.errors import ObjectDamaged, PgrecallError, ValueInvalid
from pgrecall.postgres.walpage import check_segment_header
from pgrecall.repository import canonical
from pgrecall.repository.cluster import ClusterIdentity, ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import CommitDetails, from_clear
from pgrecall.repository.envelope import ObjectReader, check_object, read_clear
from pgrecall.repository.fields import U32, Fields
from pgrecall.repository.header import ObjectType
from pgrecall.repository.keyring import RootKey
from pgrecall.repository.layout import (
    BAD_MARKS,
    WalPlace,
    parse_backup_name,
    parse_numbered_name,
    parse_owner_name,
    parse_run_name,
    parse_wal_name,
)
from pgrecall.repository.manifest_json import decode_manifest
from pgrecall.services.archive.segment import facts_of, read_index
from pgrecall.services.verify.chunkfacts import PackFacts, words_of_frames
from pgrecall.storage.base import Buffer

SEGMENT_NAME_LENGTH = 24


@dataclass(frozen=True, slots=True)
class Checked:
    """An object that is what its name says, and what later questions need of it."""

    name: str
    kind: ObjectType
    opened: bool = True
    """False: there was no key for it, so only its hash was checked."""
    pack: PackFacts | None = None
    segment: StoredSegment | None = None
    segment_size: int = 0


def kind_of(name: str) -> ObjectType | None:
    """What should lie under a name of the cluster; None: it is not of this format, and left alone."""
    if parse_run_name(name) is not None:
        return ObjectType.BAD_MARK if name.startswith(BAD_MARKS) else ObjectType.PACK
    if (place := parse_backup_name(name)) is not None:
        return {"claim": ObjectType.CLAIM, "manifest": ObjectType.MANIFEST, "backup.json": ObjectType.COMMIT}[place[1]]
    if (wal := parse_wal_name(name)) is not None:
        return ObjectType.WAL if _holds_wal(wal.file) else ObjectType.HISTORY
    if parse_owner_name(name) is not None:
        return ObjectType.OWNER
    if parse_numbered_name(name) is not None:
        return ObjectType.IDENTITY if name.startswith("identity/") else ObjectType.CLUSTER_KEY
    return None


def check(store: ClusterStore, name: str, kind: ObjectType, data: Buffer, root: RootKey | None) -> Checked:
    """Raise DamageFound, KeyMismatch, FormatUnknown, or what else is wrong with it."""
    if kind is ObjectType.CLUSTER_KEY:
        return _check_cluster_key(store, name, data, root)
    reader = ObjectReader(store.scope, kind, name, data)
    if kind is ObjectType.PACK:
        for number in range(len(reader.frames)):
            reader.read(number)
        return Checked(name, kind, pack=PackFacts(reader.hash, reader.size, words_of_frames(reader.frames)))
    if kind is ObjectType.WAL:
        return Checked(name, kind, segment=_check_wal(reader), segment_size=reader.clear["size"])
    payload = reader.payload()
    _CHECKS[kind](reader, payload)
    return Checked(name, kind)


def pack_of(name: str) -> PackRef | None:
    """The pack that a pack's or a bad mark's name means."""
    place = parse_run_name(name)
    return PackRef(place[0].number, place[1]) if place else None


def _check_wal(reader: ObjectReader) -> StoredSegment | None:
    """Facts of a whole segment of the archive's own; None for partial ones and those beside it."""
    place = parse_wal_name(reader.name)
    assert place is not None, "a name of WAL"
    fields = Fields(reader.clear, reader.name)
    said = (fields.decimal("system_identifier"), fields.integer("timeline", 1, U32), fields.text("segment"))
    if said != (place.system_identifier, place.timeline, place.file):
        raise ObjectDamaged(f"{reader.name} says that it holds {said[2]} of system {said[0]}")
    size = fields.integer("size", 1, 1 << 30)
    if sum(frame.raw for frame in reader.frames[1:]) != size:
        raise ObjectDamaged(f"{reader.name} does not hold the {size} bytes that it claims")
    if not reader.frames or fields.list("index") != [reader.frames[0].stored, reader.frames[0].raw]:
        raise ObjectDamaged(f"{reader.name} does not say where its index ends")
    read_index(reader)
    segment = _segment(place, size)
    for number in range(1, len(reader.frames)):
        raw = reader.read(number)
        if number == 1:
            check_segment_header(raw, system_id=place.system_identifier, segment=segment, size=size)
    facts = facts_of(reader.clear, segment, reader.name)
    return facts if place.fork is None and is_segment_name(place.file) else None


def _segment(place: WalPlace, size: int) -> WalSegment:
    try:
        return WalSegment.parse(place.file[:SEGMENT_NAME_LENGTH], size)
    except (ValueInvalid, PgrecallError) as error:
        raise ObjectDamaged(f"{place.file} is no segment of {size} bytes") from error


def _check_cluster_key(store: ClusterStore, name: str, data: Buffer, root: RootKey | None) -> Checked:
    """Only the root key opens it; without it the hash and the clear part are checked."""
    check_object(data, ObjectType.CLUSTER_KEY, name)
    if root is None:
        Fields(read_clear(data, name), name).hex("cluster", 16)
        return Checked(name, ObjectType.CLUSTER_KEY, opened=False)
    cluster = Fields(read_clear(data, name), name).hex("cluster", 16)
    sealer = ClusterStore(store.storage, root.repository, cluster, store.name, root.keys)
    payload = canonical.decode(ObjectReader(sealer.scope, ObjectType.CLUSTER_KEY, name, data).payload(), name)
    if Fields(payload, name).integer("generation", 1, U32) != parse_numbered_name(name):
        raise ObjectDamaged(f"{name} holds the key of another generation")
    return Checked(name, ObjectType.CLUSTER_KEY)


def _label_of(reader: ObjectReader) -> BackupLabel:
    place = parse_backup_name(reader.name)
    assert place is not None, "a name of a backup"
    return place[0]


def _check_claim(reader: ObjectReader, payload: bytes) -> None:
    if Fields(reader.clear, reader.name).label("label") != _label_of(reader):
        raise ObjectDamaged(f"{reader.name} is the claim of {reader.clear.get('label')}")


def _check_manifest(reader: ObjectReader, payload: bytes) -> None:
    label = _label_of(reader)
    if reader.clear.get("label") != str(label) or decode_manifest(payload, reader.name).label != label:
        raise ObjectDamaged(f"{reader.name} is the manifest of {reader.clear.get('label')}")


def _check_commit(reader: ObjectReader, payload: bytes) -> None:
    from_clear(reader.clear, _label_of(reader), reader.name)
    if reader.clear["state"] == "committed":
        CommitDetails.decode(payload, reader.name)


def _check_history(reader: ObjectReader, payload: bytes) -> None:
    place = parse_wal_name(reader.name)
    if place is None or not is_history_name(place.file):
        return  # a backup history file: text for people
    if reader.clear.get("timeline") != place.timeline:
        raise ObjectDamaged(f"{reader.name} is the history of timeline {reader.clear.get('timeline')}")
    try:
        History.parse(payload.decode("utf-8", "replace"), place.timeline)
    except ValueInvalid as error:
        raise ObjectDamaged(f"{reader.name}: {error}") from error


def _check_owner(reader: ObjectReader, payload: bytes) -> None:
    Fields(reader.clear, reader.name).hex("token_hash", 32)


def _check_identity(reader: ObjectReader, payload: bytes) -> None:
    ClusterIdentity.from_clear(parse_numbered_name(reader.name) or 0, reader.clear, reader.name)


def _check_mark(reader: ObjectReader, payload: bytes) -> None:
    Fields(reader.clear, reader.name).text("reason")


_CHECKS = {
    ObjectType.CLAIM: _check_claim,
    ObjectType.MANIFEST: _check_manifest,
    ObjectType.COMMIT: _check_commit,
    ObjectType.HISTORY: _check_history,
    ObjectType.OWNER: _check_owner,
    ObjectType.IDENTITY: _check_identity,
    ObjectType.BAD_MARK: _check_mark,
}


def _holds_wal(file: str) -> bool:
    return is_segment_name(file) or file.endswith(".partial")
