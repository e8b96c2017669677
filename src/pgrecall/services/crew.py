"""Work for several threads: one producer, a short queue, and the first error stops everybody."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
AHEAD = 2
"""Units that wait for each thread."""


class _Queue(Generic[T]):
    def __init__(self, jobs: int) -> None:
        self._units: queue.Queue[T | None] = queue.Queue(AHEAD * jobs)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self.error = self.error or error
        self._stop.set()

    def put(self, unit: T | None) -> bool:
        """False when somebody failed: nobody needs it any more."""
        while not self._stop.is_set():
            try:
                self._units.put(unit, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def taken(self) -> Iterator[T]:
        while not self._stop.is_set():
            try:
                unit = self._units.get(timeout=0.1)
            except queue.Empty:
                continue
            if unit is None:
                return
            yield unit


def in_parallel(units: Iterator[T], work: Callable[[Iterator[T]], None], jobs: int) -> None:
    """Run `work` in `jobs` threads, each over a share of the units; units are made in this thread, a few ahead.

    The first error of anybody, Ctrl-C here among them, is raised when all threads have ended.
    """
    shared: _Queue[T] = _Queue(jobs)

    def run() -> None:
        try:
            work(shared.taken())
        except BaseException as error:  # noqa: BLE001 - carried to the thread that waits
            shared.fail(error)

    threads = [threading.Thread(target=run, name=f"crew-{number}", daemon=True) for number in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        for unit in units:
            if not shared.put(unit):
                break
        for _ in threads:
            shared.put(None)
        for thread in threads:
            thread.join()
    except BaseException as error:
        shared.fail(error)
        for thread in threads:
            thread.join()
        raise
    if shared.error is not None:
        raise shared.error
