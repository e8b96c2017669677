"""Owns finding a cluster's id again where its identity is lost: key objects and claims say it in their clear parts."""

from collections.abc import Iterator

from pgrecall.errors import DamageFound, FormatUnknown, ObjectMissing
from pgrecall.repository import layout
from pgrecall.repository.envelope import check_object, read_clear
from pgrecall.repository.fields import Fields
from pgrecall.repository.header import ObjectType
from pgrecall.storage.base import Storage


def ids_in_key_objects(storage: Storage, name: str) -> Iterator[tuple[int, bytes]]:
    """(generation, cluster id) as each intact key object says, newest generation first; the root key must prove it."""
    prefix = layout.cluster_prefix(name)
    found = (layout.parse_numbered_name(info.key[len(prefix) :]) for info in storage.list(prefix + layout.CLUSTER_KEYS))
    for generation in sorted((each for each in found if each is not None), reverse=True):
        cluster = _cluster_in(storage, prefix + layout.data_key_name(generation), ObjectType.CLUSTER_KEY)
        if cluster is not None:
            yield generation, cluster


def id_in_claims(storage: Storage, name: str) -> bytes | None:
    """The cluster id as the first intact claim says; nothing proves it, as nothing does in an unsealed identity."""
    prefix = layout.cluster_prefix(name)
    for info in storage.list(prefix + layout.BACKUPS):
        place = layout.parse_backup_name(info.key[len(prefix) :])
        if place is not None and place[1] == "claim":
            cluster = _cluster_in(storage, info.key, ObjectType.CLAIM)
            if cluster is not None:
                return cluster
    return None


def _cluster_in(storage: Storage, key: str, kind: ObjectType) -> bytes | None:
    try:
        data = storage.get(key, limit=kind.max_size)
        check_object(data, kind, key)
        return Fields(read_clear(data, key), key).hex("cluster", 16)
    except (DamageFound, FormatUnknown, ObjectMissing):
        return None
