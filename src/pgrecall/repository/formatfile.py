"""Owns `format/<n>.json` (format.md §8): which repository this is, and what a program must know to act on it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from blake3 import blake3

from pgrecall.errors import FormatUnknown, KeyMismatch, ObjectDamaged, RepositoryNotFound
from pgrecall.repository import canonical
from pgrecall.repository.fields import U32, Fields, time_text
from pgrecall.repository.header import FORMAT
from pgrecall.repository.keyring import RootKey
from pgrecall.repository.layout import FORMAT_PREFIX, format_key, parse_format_key
from pgrecall.storage.base import Storage

Act = Literal["read", "write", "remove"]

ACTS: tuple[Act, ...] = ("read", "write", "remove")
KNOWN_FEATURES: frozenset[str] = frozenset()
_MAX_SIZE = 1 << 20


@dataclass(frozen=True)
class FormatFile:
    repository: bytes
    sealed: bool
    created: datetime | None
    """None: the file was lost, and the rest is what a host has pinned."""
    features: tuple[frozenset[str], frozenset[str], frozenset[str]] = (frozenset(), frozenset(), frozenset())
    """Needed to read, to write, to remove."""
    mac: str | None = None

    def encode(self, root: RootKey | None) -> bytes:
        """With the MAC of `root`, which a sealed repository has."""
        assert (root is not None) == self.sealed
        body = self._body()
        plain = canonical.encode(body)
        return canonical.encode(
            {**body, "hash": blake3(plain).hexdigest(), "mac": root.format_macs(plain)[0] if root else None}
        )

    @classmethod
    def decode(cls, data: bytes, what: str) -> "FormatFile":
        fields = Fields(canonical.decode(data, what), what)
        version = fields.integer("format", 1, U32)
        if version != FORMAT:
            raise FormatUnknown(
                f"{what} is of format {version}, this program knows format {FORMAT}", hint="Install a newer pgrecall."
            )
        _refuse_changed(fields, what)
        features = fields.object("features")
        read, write, remove = (frozenset(features.texts(act)) for act in ACTS)
        return cls(
            fields.hex("repository", 16),
            fields.flag("sealed"),
            fields.time("created"),
            (read, write, remove),
            fields.optional("mac", fields.text),
        )

    def require(self, act: Act) -> None:
        """FormatUnknown if this program lacks a feature that `act` needs here."""
        if self.created is None and act != "read":
            raise ObjectDamaged(
                f"this repository has lost its {FORMAT_PREFIX} directory: nothing but reading is safe",
                hint="Put format/0.json back from another copy; it holds no secret and never changes.",
            )
        unknown = self.features[ACTS.index(act)] - KNOWN_FEATURES
        if unknown:
            raise FormatUnknown(
                f"this repository forbids to {act} without: {_listed(unknown)}",
                hint="Install a newer pgrecall.",
                features=sorted(unknown),
            )

    def verify(self, root: RootKey) -> None:
        """KeyMismatch unless a holder of this root key, or of one before it, wrote this."""
        if self.repository != root.repository or self.mac not in root.format_macs(canonical.encode(self._body())):
            raise KeyMismatch("format/ of this repository was not written by the holder of its root key")

    def _body(self) -> dict[str, Any]:
        assert self.created is not None
        return {
            "format": FORMAT,
            "repository": self.repository.hex(),
            "sealed": self.sealed,
            "created": time_text(self.created),
            "features": {act: sorted(features) for act, features in zip(ACTS, self.features, strict=True)},
        }


def _refuse_changed(fields: Fields, what: str) -> None:
    """The hash tells damage from everything else; who wrote it, only the MAC tells."""
    plain = canonical.encode(fields.rest(frozenset({"hash", "mac"})))
    if fields.text("hash") != blake3(plain).hexdigest():
        raise ObjectDamaged(f"{what} is damaged: its text is not the one that was written")


@dataclass(frozen=True)
class RepositoryFormat:
    """What all of `format/` says together, lowest number first. Anybody who may write the storage can add a file, so
    one can forbid, but never take back what another demands.
    """

    files: tuple[FormatFile, ...]

    @property
    def repository(self) -> bytes:
        return self.files[0].repository

    @property
    def sealed(self) -> bool:
        return self.files[0].sealed

    @property
    def created(self) -> datetime | None:
        return self.files[0].created

    def require(self, act: Act) -> None:
        """FormatUnknown if this program lacks a feature that `act` needs here."""
        for file in self.files:
            file.require(act)

    def verify(self, root: RootKey) -> None:
        """KeyMismatch unless holders of this root key, or of one before it, wrote all of it."""
        for file in self.files:
            file.verify(root)


def read_format(storage: Storage) -> RepositoryFormat:
    """RepositoryNotFound where there is none; KeyMismatch where one file contradicts another."""
    found = (parse_format_key(info.key) for info in storage.list(FORMAT_PREFIX))
    numbers = sorted(number for number in found if number is not None)
    if not numbers:
        raise RepositoryNotFound(
            f"there is no repository at {storage.place}", hint="Make one: pgrecall init", place=storage.place
        )
    keys = [format_key(number) for number in numbers]
    files = [FormatFile.decode(storage.get(key, limit=_MAX_SIZE), f"{key} at {storage.place}") for key in keys]
    for key, file in zip(keys, files, strict=True):
        if (file.repository, file.sealed) != (files[0].repository, files[0].sealed):
            claims = f"repository {file.repository.hex()} and {'sealed' if file.sealed else 'unsealed'}"
            raise KeyMismatch(
                f"{key} at {storage.place} claims to be {claims}, {keys[0]} says otherwise",
                hint=f"Somebody put {key} there; if you did not, remove it.",
            )
    return RepositoryFormat(tuple(files))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
