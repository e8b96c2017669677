"""Owns the keys of one cluster in memory: what is derived from what, and what an object is bound to."""

from dataclasses import dataclass
from functools import cached_property

from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pgrecall.repository.header import ObjectType
from pgrecall.storage.base import Buffer

ChunkId = bytes
"""32 bytes: the keyed BLAKE3 of a chunk's raw bytes. Its first 16 are what maps call id16."""

KEY_SIZE = 32


def derive(key: bytes, info: str, *, salt: bytes = b"", length: int = KEY_SIZE) -> bytes:
    return HKDF(SHA256(), length, salt, info.encode()).derive(key)


@dataclass(frozen=True, repr=False)
class Keys:
    """One generation of a cluster's keys. `data_key` is None in an unsealed repository; `mac_key` is None there for a
    reader without the host's key file. Nothing here is ever printed.
    """

    generation: int
    data_key: bytes | None
    id_key: bytes
    mac_key: bytes | None

    def __post_init__(self) -> None:
        assert (self.data_key is None) == (self.generation == 0), "generation 0 means unsealed"
        assert all(key is None or len(key) == KEY_SIZE for key in (self.data_key, self.id_key, self.mac_key))

    def __repr__(self) -> str:
        return f"<Keys generation {self.generation} {'sealed' if self.sealed else 'unsealed'}>"

    @property
    def sealed(self) -> bool:
        return self.data_key is not None

    @property
    def fingerprint(self) -> str | None:
        """16 hexadecimal digits that people compare; None where there is no data key."""
        return None if self.data_key is None else blake3(self.data_key).hexdigest(8)

    @classmethod
    def of_sealed(cls, generation: int, data_key: bytes, id_key: bytes) -> "Keys":
        return cls(generation, data_key, id_key, derive(data_key, "pgrecall/1/mac"))

    @classmethod
    def of_unsealed(cls, cluster: bytes, mac_key: bytes | None) -> "Keys":
        return cls(0, None, derive(cluster, "pgrecall/1/id"), mac_key)

    @classmethod
    def of_root(cls, generation: int, root: bytes) -> "Keys":
        """What seals a cluster's key object; the id key there is derived, since the cluster's own is inside."""
        return cls.of_sealed(generation, root, derive(root, "pgrecall/1/id"))

    def object_key(self, kind: ObjectType, salt: bytes) -> tuple[bytes, bytes]:
        """The AES key of one sealed object, and its commitment."""
        assert self.data_key is not None
        both = derive(self.data_key, f"pgrecall/1/{kind.label}", salt=salt, length=2 * KEY_SIZE)
        return both[:KEY_SIZE], both[KEY_SIZE:]

    def chunk_id(self, raw: Buffer) -> ChunkId:
        return blake3(raw, key=self.id_key).digest()


@dataclass(frozen=True)
class Scope:
    """What every object of a cluster is bound to: it cannot be served as another cluster's, or under other keys.

    `keys` seal what is written; `older` are the generations before them, which only read.
    """

    repository: bytes
    cluster: bytes
    keys: Keys
    older: tuple[Keys, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.repository) == len(self.cluster) == 16
        assert self.keys.sealed or not self.older, "an unsealed repository has no generations"
        assert all(0 < each.generation < self.keys.generation for each in self.older), "older keys are of the past"

    def keys_of(self, generation: int) -> Keys | None:
        """The keys that an object of this generation is sealed under; None where they are not at hand."""
        return next((each for each in (self.keys, *self.older) if each.generation == generation), None)

    @cached_property
    def _ids(self) -> bytes:
        return self.repository + self.cluster

    def binding(self, header: bytes, clear: Buffer, name: str) -> bytes:
        path = name.encode()
        digest = blake3(b"pgrecall/1/bind")
        for part in (header, clear, self._ids, len(path).to_bytes(4, "little"), path):
            digest.update(part)
        return digest.digest()
