"""Owns packs on their way to storage: who fills packs does not wait for the disk, and memory stays bounded."""

import queue
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from pgrecall.repository.cluster import ClusterStore


class PackSender:
    """Stores packs of several builders, each in the builder's own buffer, with threads of its own.

    There is one buffer more than builders: a builder whose pack is on its way goes on with the spare one, or waits for
    it. What a put raises is raised to whoever asks next: by `buffer`, at the latest by `finish`. Leaving the context
    waits for the puts that run.
    """

    def __init__(self, store: ClusterStore, builders: int) -> None:
        self._store = store
        self._buffers: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
        for _ in range(builders + 1):
            self._buffers.put(None)  # made by who first needs it
        self._threads = ThreadPoolExecutor(builders, thread_name_prefix="send")
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def buffer(self) -> bytearray | None:
        """Memory for one pack, given back by `send`; None: to be allocated. Waits until there is some."""
        self._raise_failure()
        buffer = self._buffers.get()
        self._raise_failure()
        return buffer

    def send(self, name: str, data: memoryview, buffer: bytearray) -> None:
        """Store data, which lies in buffer, under name; return at once."""
        self._threads.submit(self._put, name, data, buffer)

    def finish(self) -> None:
        """Everything sent is stored; else raise what went wrong first. Nothing can be sent afterwards."""
        self._threads.shutdown()
        self._raise_failure()

    def _put(self, name: str, data: memoryview, buffer: bytearray) -> None:
        try:
            self._store.put_built(name, data)
        except BaseException as error:  # noqa: BLE001 - handed to the builders' threads
            self._failure = self._failure or error
        finally:
            self._buffers.put(buffer)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
