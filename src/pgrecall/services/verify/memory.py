"""Owns how much memory all readers together may fill with objects."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryBudget:
    """Grants bytes to threads. An object larger than the whole budget is read alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._size)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()
