"""Owns a repository as a whole: making one, opening one, and the clusters in it."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC

from pgrecall.clock import Clock
from pgrecall.errors import (
    DestinationNotEmpty,
    KeyMismatch,
    KeyProblem,
    ObjectExists,
    Refused,
    RepositoryExists,
    RepositoryNotFound,
    StorageError,
)
from pgrecall.repository import keyring, layout
from pgrecall.repository.cluster import ClusterStore, SystemIdentity, host_key_from_root, make_cluster
from pgrecall.repository.formatfile import Act, FormatFile, RepositoryFormat, read_format
from pgrecall.repository.hostkey import HostKey
from pgrecall.repository.keyring import RootKey, Wrap
from pgrecall.repository.readme import README_TEXT
from pgrecall.storage.base import Storage

__all__ = ["ClusterStore", "CreatedRepository", "HostKey", "Repository", "RootKey", "SystemIdentity"]


@dataclass(frozen=True, repr=False)
class CreatedRepository:
    """A new repository and the secrets that exist nowhere else: show them once, then forget them."""

    repository: "Repository"
    root: RootKey | None
    identity: str | None
    """`AGE-SECRET-KEY-1…`: opens everything; None in an unsealed repository."""
    passphrase: str | None
    """To be written down; opens everything, too."""


class Repository:
    """One copy of a repository that passed `open`, or was just created."""

    def __init__(self, storage: Storage, written: RepositoryFormat) -> None:
        self.storage = storage
        self.format = written

    @property
    def id(self) -> bytes:
        return self.format.repository

    @property
    def sealed(self) -> bool:
        return self.format.sealed

    @classmethod
    def create(
        cls, storage: Storage, *, sealed: bool, clock: Clock, passphrase: bool = True, identity: str | None = None
    ) -> CreatedRepository:
        """Make a repository in an empty place. Nothing that is there is ever changed.

        `identity`: one that the caller has put into safety already (keyring.new_identity); None makes one.
        RepositoryExists if there is one, DestinationNotEmpty if foreign things are there. What an attempt left that was
        killed does not stand in the way: the format file is written last and makes it a repository.
        """
        _refuse_occupied(storage)
        root = keyring.new_root() if sealed else None
        repository = root.repository if root else os.urandom(16)
        identity = (identity or keyring.new_identity()) if root else None
        words = keyring.new_passphrase() if root and passphrase else None
        wraps: list[Wrap] = []
        if root and identity:
            wraps.append(keyring.wrap_for_recipient(root, keyring.recipient_of(identity)))
        if root and words:
            wraps.append(keyring.wrap_for_passphrase(root, words))

        _put_own(storage, layout.README, README_TEXT)
        for wrap in wraps:
            _put_own(storage, wrap.key, wrap.data)
        created = clock.now().astimezone(UTC).replace(microsecond=0)
        written = FormatFile(repository, sealed, created).encode(root)
        try:
            _put_own(storage, layout.format_key(0), written)
        except ObjectExists as error:
            raise _exists(storage) from error
        made = RepositoryFormat((FormatFile.decode(written, layout.format_key(0)),))
        return CreatedRepository(cls(storage, made), root, identity, words)

    @classmethod
    def open(cls, storage: Storage, pin: HostKey | None = None, act: Act = "read") -> "Repository":
        """The repository at this place, if this program can `act` on it. With `pin`: only if it is the pinned one.

        RepositoryNotFound, FormatUnknown; KeyMismatch for another repository than the pinned one, or one that claims
        not to be sealed any more.
        """
        try:
            written = read_format(storage)
        except RepositoryNotFound:
            lost = pin is not None and any(True for _ in storage.list_dirs(layout.CLUSTERS_PREFIX))
            if pin is None or not lost:
                raise
            written = RepositoryFormat((FormatFile(pin.repository, pin.sealed, None),))
        if pin is not None:
            _refuse_other_repository(storage, written, pin)
        for each in {"read", act}:
            written.require(each)
        return cls(storage, written)

    def unlock(self, secret: str) -> RootKey:
        """The root key, from the text of an identity file or from the recovery passphrase."""
        if not self.sealed:
            raise KeyProblem(f"the repository at {self.storage.place} is not sealed: it has no root key")
        root = keyring.unwrap_root(self.storage, secret, self.id)
        self.format.verify(root)
        return root

    def clusters(self) -> list[str]:
        """Names of all clusters."""
        return [name for name in self.storage.list_dirs(layout.CLUSTERS_PREFIX) if layout.is_cluster_name(name)]

    def add_cluster(self, name: str, root: RootKey | None, *, systems: Iterable[SystemIdentity] = ()) -> HostKey:
        """Create a cluster; the result belongs into the key file of its host (`hostkey.write_host_key`)."""
        layout.check_cluster_name(name)
        self.format.require("write")
        if (root is not None) != self.sealed:
            raise KeyProblem(
                "adding a cluster to a sealed repository takes its root key",
                hint="Give the identity file or the passphrase that was printed when the repository was made.",
            )
        if root is not None:
            self.format.verify(root)
        try:
            return make_cluster(self.storage, self.id, name, root, systems)
        except ObjectExists as error:
            raise Refused(
                f"cluster '{name}' exists already at {self.storage.place}",
                hint="Another host of the same cluster gets its key file from the root key.",
                cluster=name,
            ) from error

    def host_key(self, name: str, root: RootKey) -> HostKey:
        """The keys of a cluster for one more host, or for one that lost its key file."""
        self.format.verify(root)
        return host_key_from_root(self.storage, name, root)


def _refuse_occupied(storage: Storage) -> None:
    if any(True for _ in storage.list(layout.FORMAT_PREFIX)):
        raise _exists(storage)
    foreign = next(iter(storage.foreign_names()), None) or next(
        (info.key for info in storage.list("") if not _is_leftover(storage, info.key)), None
    )
    if foreign is not None:
        raise DestinationNotEmpty(
            f"{storage.place} is not empty: it holds {foreign}",
            hint="Give the repository a directory of its own.",
            found=foreign,
        )


def _is_leftover(storage: Storage, key: str) -> bool:
    """Of a `create` that was killed before its repository existed."""
    if key == layout.README:
        return storage.get(key, limit=1 << 20) == README_TEXT
    return layout.parse_root_wrap_key(key) is not None


def _put_own(storage: Storage, key: str, data: bytes) -> None:
    """Put, and once more after an error: giving up when only the answer was lost would leave a repository whose secrets
    nobody has seen. What is there already must be these very bytes.
    """
    try:
        storage.put(key, data)
    except StorageError as error:
        if not isinstance(error, ObjectExists):
            with contextlib.suppress(ObjectExists):
                storage.put(key, data)
        if storage.get(key) != data:
            raise


def _exists(storage: Storage) -> RepositoryExists:
    return RepositoryExists(
        f"there is a repository already at {storage.place}", hint="To use it, name it; nothing has to be made."
    )


def _refuse_other_repository(storage: Storage, written: RepositoryFormat, pin: HostKey) -> None:
    if written.repository != pin.repository:
        raise KeyMismatch(
            f"{storage.place} is repository {written.repository.hex()}, the key of cluster '{pin.name}' is for "
            f"{pin.repository.hex()}",
            hint="Is another directory mounted here, or does the key file belong to another repository?",
        )
    if written.sealed != pin.sealed:
        raise KeyMismatch(
            f"{storage.place} claims to be {'sealed' if written.sealed else 'unsealed'}, but this host knows better",
            hint="Somebody changed format/; nothing is written there.",
        )
