"""The contract that every storage fulfils."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, Protocol

Buffer = bytes | bytearray | memoryview


class ObjectInfo(NamedTuple):
    key: str
    size: int
    modified: datetime


class Storage(Protocol):
    """A flat space of keys. A key is `/`-separated parts of `[A-Za-z0-9._~+=@-]`, no part empty, `.` or `..`; at most
    900 bytes; checked on the way in and, for listings, on the way out (foreign names are skipped).

    Safe for use from many threads. Errors: ObjectMissing, ObjectExists, StorageFull, StorageDenied, else StorageError;
    each names key and place. Nothing is retried here: wrappers do that.
    """

    @property
    def place(self) -> str:
        """URL for people, without secrets."""

    def put(self, key: str, data: Buffer) -> ObjectInfo:
        """Store data under key, whole or not at all; when this returns, it survives power loss.

        Create-only: raise ObjectExists if the key is taken, whoever wins a race.
        """

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        """The whole object; ObjectDamaged, before anything is read, if it has more than limit bytes."""

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Exactly length bytes from offset; ObjectDamaged if the object ends before (objects are never cut by us)."""

    def get_into(self, key: str, offset: int, target: memoryview) -> None:
        """Like get_range, into memory of the caller's; no fresh allocation."""

    def head(self, key: str) -> ObjectInfo:
        """ObjectMissing if it is not there."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with prefix, in the order of their keys' bytes.

        A prefix that does not end in `/` may end within a part.
        """

    def list_dirs(self, prefix: str) -> Iterator[str]:
        """The distinct next parts below prefix (which ends in `/` or is empty) that have keys below them, in order."""

    def delete(self, key: str) -> None:
        """Gone when this returns; no error if it was not there."""

    def foreign_names(self) -> tuple[str, ...]:
        """What lies at the top and is no key, so that listings skip it: a place that has some is somebody else's."""

    def free_bytes(self) -> int | None:
        """Space left, None where the question has no answer."""
