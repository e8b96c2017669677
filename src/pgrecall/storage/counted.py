"""Owns the bill: how many requests a storage was asked, and how many bytes went each way."""

import threading
from collections import Counter
from collections.abc import Iterator

from pgrecall.storage.base import Buffer, ObjectInfo, Storage


class CountedStorage:
    """Fulfils `Storage` by `inner`; requests count when they are made, bytes when they have arrived."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.requests: Counter[str] = Counter()
        self.bytes_read = 0
        self.bytes_written = 0
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        return self.inner.place

    def put(self, key: str, data: Buffer) -> ObjectInfo:
        self._request("put")
        info = self.inner.put(key, data)
        with self._lock:
            self.bytes_written += info.size
        return info

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        self._request("get")
        data = self.inner.get(key, limit=limit)
        self._read(len(data))
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._request("get")
        data = self.inner.get_range(key, offset, length)
        self._read(length)
        return data

    def get_into(self, key: str, offset: int, target: memoryview) -> None:
        self._request("get")
        self.inner.get_into(key, offset, target)
        self._read(len(target))

    def head(self, key: str) -> ObjectInfo:
        self._request("head")
        return self.inner.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._request("list")
        return self.inner.list(prefix)

    def list_dirs(self, prefix: str) -> Iterator[str]:
        self._request("list")
        return self.inner.list_dirs(prefix)

    def delete(self, key: str) -> None:
        self._request("delete")
        self.inner.delete(key)

    def foreign_names(self) -> tuple[str, ...]:
        return self.inner.foreign_names()

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()

    def _request(self, kind: str) -> None:
        with self._lock:
            self.requests[kind] += 1

    def _read(self, count: int) -> None:
        with self._lock:
            self.bytes_read += count
