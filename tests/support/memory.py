"""A storage in a dict, for tests that look at what is asked of it rather than at disks."""

from collections.abc import Iterator
from datetime import UTC, datetime

from pgrecall.errors import ObjectDamaged, ObjectExists, ObjectMissing
from pgrecall.storage.base import Buffer, ObjectInfo

_STORED_AT = datetime(2026, 11, 20, tzinfo=UTC)


class MemoryStorage:
    """Fulfils `Storage`. `objects` is open to tests that remove or damage; `reads` lists (key, bytes) of every read."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.reads: list[tuple[str, int]] = []

    @property
    def place(self) -> str:
        return "memory:"

    def put(self, key: str, data: Buffer) -> ObjectInfo:
        if self.objects.setdefault(key, made := bytes(data)) is not made:
            raise ObjectExists(f"{key} is taken")
        return self.head(key)

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        data = self._object(key)
        if limit is not None and len(data) > limit:
            raise ObjectDamaged(f"{key} has {len(data)} bytes")
        self.reads.append((key, len(data)))
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        data = self._object(key)[offset : offset + length]
        if len(data) != length:
            raise ObjectDamaged(f"{key} ends before {offset + length}")
        self.reads.append((key, length))
        return data

    def get_into(self, key: str, offset: int, target: memoryview) -> None:
        target[:] = self.get_range(key, offset, len(target))

    def head(self, key: str) -> ObjectInfo:
        return ObjectInfo(key, len(self._object(key)), _STORED_AT)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (self.head(key) for key in sorted(self.objects) if key.startswith(prefix))

    def list_dirs(self, prefix: str) -> Iterator[str]:
        rests = (key[len(prefix) :] for key in sorted(self.objects) if key.startswith(prefix))
        return iter(dict.fromkeys(rest.partition("/")[0] for rest in rests if "/" in rest))

    def foreign_names(self) -> tuple[str, ...]:
        return ()

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def free_bytes(self) -> int | None:
        return None

    def _object(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise ObjectMissing(f"{key} is not there") from None
