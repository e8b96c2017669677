"""Owns one cluster inside one copy: its objects by name, under its keys."""

import contextlib
import os
from collections.abc import Iterable, Iterator
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
    PgrecallError,
    RepositoryNotFound,
    ValueInvalid,
)
from pgrecall.repository import canonical, layout
from pgrecall.repository.envelope import ObjectReader, ObjectWriter
from pgrecall.repository.fields import U32, Fields, base64_text, time_text
from pgrecall.repository.formatfile import RepositoryFormat, read_format
from pgrecall.repository.header import FOOTER_SIZE, HASHED_END, HEADER_SIZE, SALT, ObjectType
from pgrecall.repository.hostkey import HostKey
from pgrecall.repository.identity import ClusterIdentity, SystemIdentity, identity_numbers, read_identity
from pgrecall.repository.keyring import RootKey, unwrap_root
from pgrecall.repository.lostid import id_in_claims, ids_in_key_objects
from pgrecall.repository.secrets import KEY_SIZE, Keys, Scope
from pgrecall.storage.base import Buffer, ObjectInfo, Storage

__all__ = [
    "ClusterIdentity", "ClusterStore", "StoredObject", "SystemIdentity", "host_key_from_root", "make_cluster",
]  # fmt: skip

_CLAIM_ATTEMPTS = 1000
_LAST_YEAR = 9999


class StoredObject(NamedTuple):
    """What was stored: `hash` is the hash field of the object's footer."""

    name: str
    size: int
    salt: bytes
    hash: bytes


class ClusterStore:
    """The objects of one cluster in one storage. Names are keys relative to the cluster (`layout`). Safe to share
    between threads; making one asks nothing of the storage, the class methods that read keys do.
    """

    def __init__(
        self,
        storage: Storage,
        repository_id: bytes,
        cluster_id: bytes,
        name: str,
        keys: Keys,
        older: tuple[Keys, ...] = (),
    ) -> None:
        """`keys` seal and open; `older` generations only open."""
        self.storage = storage
        self.name = name
        self.scope = Scope(repository_id, cluster_id, keys, older)
        self._prefix = layout.cluster_prefix(name)

    def __repr__(self) -> str:
        return f"<ClusterStore {self.name} at {self.storage.place}>"

    @classmethod
    def from_host_key(cls, storage: Storage, key: HostKey) -> "ClusterStore":
        """As a database host opens its own cluster; asks nothing. `Repository.open(storage, pin)` checks the copy."""
        return cls(storage, key.repository, key.cluster, key.name, key.keys, key.older)

    @classmethod
    def from_identity(cls, storage: Storage, name: str, secret: str) -> "ClusterStore":
        """As a rescuer opens any cluster: `secret` is the text of an identity file, or the recovery passphrase."""
        try:
            written: RepositoryFormat | None = read_format(storage)
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
        problem: PgrecallError | None = None
        cluster: bytes | None = None
        for number in identity_numbers(storage, name):
            try:
                header, cluster = read_identity(storage, name, number)
            except (DamageFound, FormatUnknown, ObjectMissing) as error:
                problem = problem or error
                continue
            if header.sealed:
                raise KeyMismatch(f"cluster '{name}' is sealed, but the repository says that it is not")
            break
        if cluster is None:
            cluster = id_in_claims(storage, name)
        if cluster is None:
            raise problem or ClusterNotFound(f"there is no cluster '{name}' at {storage.place}", cluster=name)
        return cls(storage, written.repository, cluster, name, Keys.of_unsealed(cluster, None))

    def on(self, storage: Storage) -> "ClusterStore":
        """The same cluster, asked through another storage (one that counts)."""
        scope = self.scope
        return ClusterStore(storage, scope.repository, scope.cluster, self.name, scope.keys, scope.older)

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
        label = BackupLabel.at(now, kind)
        label = label.next_free(self._newest_claimed(label))
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

    def _newest_claimed(self, now: BackupLabel) -> BackupLabel | None:
        """The newest label. One ahead of the clock counts only if its claim is ours, since anybody can put one there;
        and nothing could follow one of the calendar's last year.
        """
        for label in sorted(self.labels(), reverse=True):
            if label < now or (label.moment.year < _LAST_YEAR and self.claimed(label)):
                return label
        return None

    def claimed(self, label: BackupLabel) -> bool:
        """Whether a claim of this label opens under our keys."""
        with contextlib.suppress(DamageFound, FormatUnknown, KeyProblem, ObjectMissing):
            return bool(self.read(ObjectType.CLAIM, layout.claim_name(label)).hash)
        return False

    def record_system(self, system: SystemIdentity) -> ClusterIdentity:
        """The cluster has a new system identifier (after pg_upgrade); ObjectExists if another host was faster."""
        before = self.identity()
        number = max(identity_numbers(self.storage, self.name)) + 1
        after = ClusterIdentity(number, before.cluster, before.name, (*before.systems, system))
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
        """The newest that our keys prove: anybody can add another."""
        problem: PgrecallError | None = None
        for number in identity_numbers(self.storage, self.name):
            name = layout.identity_name(number)
            try:
                return ClusterIdentity.from_clear(number, self.read(ObjectType.IDENTITY, name).clear, name)
            except (DamageFound, FormatUnknown, KeyProblem, ObjectMissing) as error:
                problem = problem or error
        place = self.storage.place
        raise problem or ClusterNotFound(f"there is no cluster '{self.name}' at {place}", cluster=self.name)


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
    """The cluster's keys, as the holder of the root key finds them: the newest generation seals, those before it read.

    KeyMismatch if somebody else sealed them. Anybody can add an identity: one that its keys do not prove is passed
    over. Where none is left, the key objects tell which cluster they are for.
    """
    cluster, problem = _proven_cluster(storage, name, root)
    if cluster is None:
        cluster = _cluster_without_identity(storage, name, root)
    generations = [] if cluster is None else _generations(storage, name, root, cluster)
    if cluster is None or not generations:
        raise problem or ClusterNotFound(f"there is no cluster '{name}' at {storage.place}", cluster=name)
    return HostKey(root.repository, cluster, name, generations[-1], tuple(generations[:-1]))


def _proven_cluster(storage: Storage, name: str, root: RootKey) -> tuple[bytes | None, PgrecallError | None]:
    """The cluster's id as the newest identity says that opens under keys which the root key sealed, else a reason."""
    problem: PgrecallError | None = None
    for number in identity_numbers(storage, name):
        try:
            header, cluster = read_identity(storage, name, number)
            if not header.sealed:
                raise KeyMismatch(f"cluster '{name}' is not sealed, but this repository is")
            keys = _open_data_key(storage, name, root, header.generation, cluster)
            # So far the identity was only believed; these keys prove it.
            store = ClusterStore(storage, root.repository, cluster, name, keys)
            store.read(ObjectType.IDENTITY, layout.identity_name(number))
        except (DamageFound, FormatUnknown, KeyProblem, ObjectMissing) as error:
            problem = problem or error
        else:
            return cluster, None
    return None, problem


def _open_data_key(storage: Storage, name: str, root: RootKey, generation: int, cluster: bytes) -> Keys:
    key_name = layout.data_key_name(generation)
    sealer = ClusterStore(storage, root.repository, cluster, name, root.keys, root.older_keys)
    payload = Fields(canonical.decode(sealer.read(ObjectType.CLUSTER_KEY, key_name).payload(), key_name), key_name)
    said = (payload.hex("repository", 16), payload.hex("cluster", 16), payload.integer("generation", 1, U32))
    if said != (root.repository, cluster, generation):
        raise KeyMismatch(f"{key_name} of cluster '{name}' holds the keys of another cluster or generation")
    data_key, id_key = payload.base64("data_key"), payload.base64("id_key")
    if len(data_key) != KEY_SIZE or len(id_key) != KEY_SIZE:
        raise ObjectDamaged(f"{key_name} of cluster '{name}' holds keys of a wrong length")
    return Keys.of_sealed(generation, data_key, id_key)


def _generations(storage: Storage, name: str, root: RootKey, cluster: bytes) -> list[Keys]:
    """All keys of this cluster that open, oldest first: others are lost, or a killed creation left them."""
    found = []
    for generation, other in ids_in_key_objects(storage, name):
        if other == cluster:
            with contextlib.suppress(DamageFound, KeyProblem):
                found.append(_open_data_key(storage, name, root, generation, cluster))
    return found[::-1]


def _cluster_without_identity(storage: Storage, name: str, root: RootKey) -> bytes | None:
    """The id of the newest keys under which a claim opens (a killed creation leaves keys that nothing is sealed under),
    else of the newest.
    """
    opened: list[bytes] = []
    for generation, cluster in ids_in_key_objects(storage, name):
        try:
            keys = _open_data_key(storage, name, root, generation, cluster)
        except (DamageFound, KeyProblem):
            continue
        opened.append(cluster)
        if _opens_a_claim(ClusterStore(storage, root.repository, cluster, name, keys)):
            return cluster
    return opened[0] if opened else None


def _opens_a_claim(store: ClusterStore) -> bool:
    return any(store.claimed(label) for label in store.labels())


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
