"""Owns a storage that fails on purpose: by a script of letters, or by a seed."""

import errno
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pgrecall.clock import Clock
from pgrecall.errors import ObjectDamaged, StorageError, StorageFull
from pgrecall.storage.base import Buffer, ObjectInfo, Storage

FINE: Final = "."
BEFORE: Final = "E"  # an error; nothing was done
AFTER: Final = "L"  # done, but the reply is lost
CUT: Final = "C"  # a read ends early (as damage); for other requests like BEFORE
FULL: Final = "F"  # no space left, for puts; others are fine
DELAY: Final = "D"  # slow, then fine


class ConnectionLost(StorageError):
    """What a network storage raises when it does not know what became of a request."""


@dataclass
class FaultyStorage:
    """Fulfils `Storage` by `inner`. Request n suffers letter n of `script`; later ones are drawn by `seed` with `rate`
    (0: none). `faults` tells what was suffered, to show with a failing test.
    """

    inner: Storage
    script: str = ""
    seed: int | str = 0
    rate: float = 0.0
    choices: str = BEFORE + AFTER + CUT + FULL
    clock: Clock | None = None
    delay_seconds: float = 1.0
    faults: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._script = iter(self.script)
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        return self.inner.place

    def put(self, key: str, data: Buffer) -> ObjectInfo:
        fault = self._begin("put", key)
        if fault == FULL:
            raise StorageFull(f"{self.place}: {key}: {os.strerror(errno.ENOSPC)}", key=key)
        info = self.inner.put(key, data)
        self._end(fault, key)
        return info

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        fault = self._begin("get", key)
        data = self.inner.get(key, limit=limit)
        self._end(fault, key)
        # A whole object that arrives cut looks like an object that is cut: readers have to notice.
        return data[: self._random.randrange(len(data))] if fault == CUT and data else data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        fault = self._begin("get_range", key)
        data = self.inner.get_range(key, offset, length)
        self._end(fault, key)
        if fault == CUT:
            raise ObjectDamaged(f"{key} is cut off", key=key)
        return data

    def get_into(self, key: str, offset: int, target: memoryview) -> None:
        fault = self._begin("get_into", key)
        if fault == CUT:
            part = len(target) // 2
            self.inner.get_into(key, offset, target[:part])
            raise ObjectDamaged(f"{key} is cut off", key=key)
        self.inner.get_into(key, offset, target)
        self._end(fault, key)

    def head(self, key: str) -> ObjectInfo:
        fault = self._begin("head", key)
        info = self.inner.head(key)
        self._end(fault, key)
        return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._end(self._begin("list", prefix), prefix)
        return self.inner.list(prefix)

    def list_dirs(self, prefix: str) -> Iterator[str]:
        self._end(self._begin("list_dirs", prefix), prefix)
        return self.inner.list_dirs(prefix)

    def delete(self, key: str) -> None:
        fault = self._begin("delete", key)
        self.inner.delete(key)
        self._end(fault, key)

    def foreign_names(self) -> tuple[str, ...]:
        return self.inner.foreign_names()

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()

    def _begin(self, request: str, key: str) -> str:
        with self._lock:
            fault = next(self._script, None)
            if fault is None:
                fault = self._random.choice(self.choices) if self._random.random() < self.rate else FINE
            if fault != FINE:
                self.faults.append((fault, request, key))
        if fault == DELAY and self.clock is not None:
            self.clock.sleep(self.delay_seconds)
        if fault == BEFORE or (fault == CUT and not request.startswith("get")):
            raise ConnectionLost(f"{self.place}: {key}: connection refused", key=key)
        return fault

    def _end(self, fault: str, key: str) -> None:
        if fault == AFTER:
            raise ConnectionLost(f"{self.place}: {key}: connection reset by peer", key=key)
