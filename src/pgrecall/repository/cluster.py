"""Owns one cluster inside one copy: its objects by name, under its keys."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from blake3 import blake3

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.errors import (
    Busy,
    ClusterNotFound,
    DamageFound,
    FormatUnknown,
    KeyMismatch,
    KeyProblem,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    RepositoryNotFound,
    ValueInvalid,
)
from pgrecall.repository import canonical, layout
from pgrecall.repository.envelope import ObjectReader, ObjectWriter, check_object, read_clear
from pgrecall.repository.fields import U32, Fields, base64_text, time_text
from pgrecall.repository.formatfile import FormatFile, read_format
from pgrecall.repository.header import FOOTER_SIZE, HASHED_END, HEADER_SIZE, SALT, Header, ObjectType
from pgrecall.repository.hostkey import HostKey
from pgrecall.repository.keyring import RootKey, unwrap_root
from pgrecall.repository.lostid import id_in_claims, ids_in_key_objects
from pgrecall.repository.secrets import KEY_SIZE, Keys, Scope
from pgrecall.storage.base import Buffer, ObjectInfo, Storage

_CLAIM_ATTEMPTS = 1000
_LAST_YEAR = 9999


class StoredObject(NamedTuple):
    """What was stored: `hash` is the hash field of the object's footer."""

    name: str
    size: int
    salt: bytes
    hash: bytes


class SystemIdentity(NamedTuple):
    """A system identifier that the cluster has had, its version, and since when."""

    system_identifier: int
    version_num: int
    since: datetime


@dataclass(frozen=True)
class ClusterIdentity:
    """`identity/<number>`; the last of `systems` is the present one."""

    number: int
    cluster: bytes
    name: str
    systems: tuple[SystemIdentity, ...]

    @property
    def clear(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster.hex(),
            "name": self.name,
            "systems": [
                {
                    "system_identifier": str(system.system_identifier),
                    "version_num": system.version_num,
                    "since": time_text(system.since),
                }
                for system in self.systems
            ],
        }

    @classmethod
    def from_clear(cls, number: int, clear: dict[str, Any], what: str) -> "ClusterIdentity":
        fields = Fields(clear, what)
        systems = tuple(
            SystemIdentity(each.decimal("system_identifier"), each.integer("version_num", 0, U32), each.time("since"))
            for each in fields.objects("systems")
        )
        return cls(number, fields.hex("cluster", 16), fields.text("name"), systems)


class ClusterStore:
    """The objects of one cluster in one storage. Names are keys relative to the cluster (`layout`). Safe to share
    between threads; making one asks nothing of the storage, the class methods that read keys do.
    """

    def __init__(self, storage: Storage, repository_id: bytes, cluster_id: bytes, name: str, keys: Keys) -> None:
        self.storage = storage
        self.name = name
        self.scope = Scope(repository_id, cluster_id, keys)
        self._prefix = layout.cluster_prefix(name)

    def __repr__(self) -> str:
        return f"<ClusterStore {self.name} at {self.storage.place}>"

    @classmethod
    def from_host_key(cls, storage: Storage, key: HostKey) -> "ClusterStore":
        """As a database host opens its own cluster; asks nothing. `Repository.open(storage, pin)` checks the copy."""
        return cls(storage, key.repository, key.cluster, key.name, key.keys)

    @classmethod
    def from_identity(cls, storage: Storage, name: str, secret: str) -> "ClusterStore":
        """As a rescuer opens any cluster: `secret` is the text of an identity file, or the recovery passphrase."""
        try:
            written: FormatFile | None = read_format(storage)
        except RepositoryNotFound:
            written = None  # The wraps say, too, which repository this is.
        root = unwrap_root(storage, secret, written.repository if written else None)
        if written is not None:
            written.verify(root)
            written.require("read")
        return cls.from_host_key(storage, host_key_from_root(storage, name, root))

    @classmethod
    def without_key(cls, storage: Storage, name: str) -> "ClusterStore":
        """As anybody may read an unsealed repository: intact or not, but never authentic."""
        written = read_format(storage)
        written.require("read")
        if written.sealed:
            raise KeyProblem(
                f"the repository at {storage.place} is sealed; no key was given",
                hint="Name the cluster's key file, an identity file or the passphrase.",
            )
        try:
            _, header, cluster = _read_identity(storage, name)
        except (ClusterNotFound, DamageFound):
            claimed = id_in_claims(storage, name)
            if claimed is None:
                raise
            return cls(storage, written.repository, claimed, name, Keys.of_unsealed(claimed, None))
        if header.sealed:
            raise KeyMismatch(f"cluster '{name}' is sealed, but the repository says that it is not")
        return cls(storage, written.repository, cluster, name, Keys.of_unsealed(cluster, None))

    @property
    def keys(self) -> Keys:
        return self.scope.keys

    def key(self, name: str) -> str:
        """The storage's key of the object `name`."""
        return self._prefix + name

    # Writing ------------------------------------------------------------------------------------------------------
    def put(
        self,
        kind: ObjectType,
        name: str,
        *,
        clear: dict[str, Any] | None = None,
        frames: Iterable[Buffer] = (),
        capacity: int = 16 << 10,
        level: int = 3,
    ) -> StoredObject:
        """Build and store a whole object. ObjectExists if somebody else's is there."""
        writer = ObjectWriter(self.scope, kind, name, clear=clear, capacity=capacity, level=level)
        for frame in frames:
            writer.add(frame)
        return self.put_built(name, writer.finish())

    def put_built(self, name: str, data: memoryview) -> StoredObject:
        """Store what an ObjectWriter for this very name finished. May be called again with the same data after an
        error: an object of ours whose acknowledgement was lost is a success, not ObjectExists.
        """
        salt, digest = bytes(data[SALT]), bytes(data[-FOOTER_SIZE:][HASHED_END : HASHED_END + 32])
        try:
            self.storage.put(self.key(name), data)
        except ObjectExists:
            if not self._holds(name, data):
                raise
        return StoredObject(name, len(data), salt, digest)

    def _holds(self, name: str, data: memoryview) -> bool:
        """Is the stored object the one built here? Its salt was drawn for this attempt alone."""
        try:
            head = self.storage.get_range(self.key(name), 0, HEADER_SIZE)
            foot = self.storage.get_range(self.key(name), len(data) - FOOTER_SIZE, FOOTER_SIZE)
        except ObjectDamaged:
            return False
        return head == data[:HEADER_SIZE] and foot == data[-FOOTER_SIZE:]

    def claim_label(
        self,
        kind: BackupKind,
        now: datetime,
        host: str,
        token: bytes,
        *,
        parents: Iterable[BackupLabel] = (),
        start_lsn: Lsn | None = None,
        timeline: int | None = None,
    ) -> BackupLabel:
        """Take a label for a run that begins now: above every label there is, and nobody else's."""
        # A label of the calendar's last year is a forgery; nothing could follow it.
        known = (label for label in self.labels() if label.moment.year < _LAST_YEAR)
        label = BackupLabel.at(now, kind).next_free(max(known, default=None))
        for _ in range(_CLAIM_ATTEMPTS):
            clear = {
                "cluster": self.scope.cluster.hex(),
                "label": str(label),
                "host": host,
                "token_hash": blake3(token).hexdigest(),
                "at": time_text(now),
                "parents": [str(parent) for parent in parents],
                "start_lsn": None if start_lsn is None else str(start_lsn),
                "timeline": timeline,
            }
            try:
                self.put(ObjectType.CLAIM, layout.claim_name(label), clear=clear)
            except ObjectExists:
                label = label.next_free(label)
            else:
                return label
        raise Busy(f"no free label for cluster '{self.name}' up to {label}")

    def record_system(self, system: SystemIdentity) -> ClusterIdentity:
        """The cluster has a new system identifier (after pg_upgrade); ObjectExists if another host was faster."""
        before = self.identity()
        after = ClusterIdentity(before.number + 1, before.cluster, before.name, (*before.systems, system))
        self.put(ObjectType.IDENTITY, layout.identity_name(after.number), clear=after.clear)
        return after

    def delete(self, name: str) -> None:
        self.storage.delete(self.key(name))

    # Reading ------------------------------------------------------------------------------------------------------
    def read(self, kind: ObjectType, name: str) -> ObjectReader:
        """The whole object, checked. ObjectMissing, ObjectDamaged, KeyMismatch."""
        return ObjectReader(self.scope, kind, name, self.storage.get(self.key(name), limit=kind.max_size))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.storage.get_range(self.key(name), offset, length)

    def get_into(self, name: str, offset: int, target: memoryview) -> None:
        self.storage.get_into(self.key(name), offset, target)

    def exists(self, name: str) -> bool:
        try:
            self.storage.head(self.key(name))
        except ObjectMissing:
            return False
        return True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose name begins with prefix; `key` is the name."""
        skip = len(self._prefix)
        return (info._replace(key=info.key[skip:]) for info in self.storage.list(self.key(prefix)))

    def list_dirs(self, prefix: str) -> Iterator[str]:
        return self.storage.list_dirs(self.key(prefix))

    def labels(self) -> Iterator[BackupLabel]:
        """Every label that was ever claimed here, oldest first; what is no label is skipped."""
        for text in self.list_dirs(layout.BACKUPS):
            try:
                yield BackupLabel.parse(text)
            except ValueInvalid:
                continue

    def identity(self) -> ClusterIdentity:
        number = _newest_number(self.storage, self.name)
        name = layout.identity_name(number)
        return ClusterIdentity.from_clear(number, self.read(ObjectType.IDENTITY, name).clear, name)


def make_cluster(
    storage: Storage, repository: bytes, name: str, root: RootKey | None, systems: Iterable[SystemIdentity]
) -> HostKey:
    """Create a cluster: first its keys, sealed under the root key (None: unsealed), then the identity, which counts.

    ObjectExists if the name is taken. Keys that a killed attempt left are passed over.
    """
    cluster = os.urandom(16)
    if root is None:
        keys = Keys.of_unsealed(cluster, os.urandom(KEY_SIZE))
    else:
        taken = {layout.parse_numbered_name(each) for each in _names(storage, name, layout.CLUSTER_KEYS)}
        generation = next(each for each in range(1, U32) if each not in taken)
        keys = Keys.of_sealed(generation, os.urandom(KEY_SIZE), os.urandom(KEY_SIZE))
        _put_data_key(storage, repository, cluster, name, root, keys)
    store = ClusterStore(storage, repository, cluster, name, keys)
    identity = ClusterIdentity(0, cluster, name, tuple(systems))
    store.put(ObjectType.IDENTITY, layout.identity_name(0), clear=identity.clear)
    return HostKey(repository, cluster, name, keys)


def host_key_from_root(storage: Storage, name: str, root: RootKey) -> HostKey:
    """The cluster's keys, as the holder of the root key finds them. KeyMismatch if somebody else sealed them.

    Where the identity is lost, the key objects tell which cluster they are for.
    """
    try:
        number, header, cluster = _read_identity(storage, name)
    except (ClusterNotFound, DamageFound):
        found = _keys_without_identity(storage, name, root)
        if found is None:
            raise
        return found
    if not header.sealed:
        raise KeyMismatch(f"cluster '{name}' is not sealed, but this repository is")
    host_key = _open_data_key(storage, name, root, header.generation, cluster)
    # So far the identity was only believed; these keys prove it.
    ClusterStore.from_host_key(storage, host_key).read(ObjectType.IDENTITY, layout.identity_name(number))
    return host_key


def _open_data_key(storage: Storage, name: str, root: RootKey, generation: int, cluster: bytes) -> HostKey:
    key_name = layout.data_key_name(generation)
    sealer = ClusterStore(storage, root.repository, cluster, name, root.keys)
    payload = Fields(canonical.decode(sealer.read(ObjectType.CLUSTER_KEY, key_name).payload(), key_name), key_name)
    said = (payload.hex("repository", 16), payload.hex("cluster", 16), payload.integer("generation", 1, U32))
    if said != (root.repository, cluster, generation):
        raise KeyMismatch(f"{key_name} of cluster '{name}' holds the keys of another cluster or generation")
    data_key, id_key = payload.base64("data_key"), payload.base64("id_key")
    if len(data_key) != KEY_SIZE or len(id_key) != KEY_SIZE:
        raise ObjectDamaged(f"{key_name} of cluster '{name}' holds keys of a wrong length")
    return HostKey(root.repository, cluster, name, Keys.of_sealed(generation, data_key, id_key))


def _keys_without_identity(storage: Storage, name: str, root: RootKey) -> HostKey | None:
    """The newest keys under which a claim opens (a killed creation leaves keys that nothing is sealed under), else just
    the newest.
    """
    opened: list[HostKey] = []
    for generation, cluster in ids_in_key_objects(storage, name):
        try:
            key = _open_data_key(storage, name, root, generation, cluster)
        except (DamageFound, KeyProblem):
            continue
        opened.append(key)
        if _opens_a_claim(ClusterStore.from_host_key(storage, key)):
            return key
    return opened[0] if opened else None


def _opens_a_claim(store: ClusterStore) -> bool:
    for label in store.labels():
        with contextlib.suppress(DamageFound, KeyProblem, FormatUnknown, ObjectMissing):
            store.read(ObjectType.CLAIM, layout.claim_name(label))
            return True
    return False


def _put_data_key(storage: Storage, repository: bytes, cluster: bytes, name: str, root: RootKey, keys: Keys) -> None:
    assert keys.data_key is not None
    payload = {
        "repository": repository.hex(),
        "cluster": cluster.hex(),
        "generation": keys.generation,
        "data_key": base64_text(keys.data_key),
        "id_key": base64_text(keys.id_key),
    }
    sealer = ClusterStore(storage, repository, cluster, name, root.keys)
    sealer.put(
        ObjectType.CLUSTER_KEY,
        layout.data_key_name(keys.generation),
        clear={"cluster": cluster.hex()},
        frames=[canonical.encode(payload)],
    )


def _names(storage: Storage, cluster: str, prefix: str) -> Iterator[str]:
    skip = len(layout.cluster_prefix(cluster))
    return (info.key[skip:] for info in storage.list(layout.cluster_key(cluster, prefix)))


def _newest_number(storage: Storage, name: str) -> int:
    numbers = map(layout.parse_numbered_name, _names(storage, name, layout.IDENTITY))
    newest = max((number for number in numbers if number is not None), default=None)
    if newest is None:
        raise ClusterNotFound(f"there is no cluster '{name}' at {storage.place}", cluster=name)
    return newest


def _read_identity(storage: Storage, name: str) -> tuple[int, Header, bytes]:
    """Number, header and cluster id of the newest identity; it is intact, but nothing proves it yet."""
    number = _newest_number(storage, name)
    key = layout.cluster_key(name, layout.identity_name(number))
    data = storage.get(key, limit=ObjectType.IDENTITY.max_size)
    header, _ = check_object(data, ObjectType.IDENTITY, key)
    return number, header, Fields(read_clear(data, key), f"identity of {name}").hex("cluster", 16)
