"""Owns the threads of a copy: one feeds units, workers do them, the first failure stops all."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pgrecall.clock import Clock
from pgrecall.domain.label import BackupLabel
from pgrecall.postgres.listing import DirectoryItem
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.directory_writer import DirectoryFacts, DirectoryWriter
from pgrecall.repository.manifest_reader import DirectoryIndex
from pgrecall.repository.pack import PackBuilder, PackNumbers
from pgrecall.repository.runtable import PackRecord
from pgrecall.repository.sending import PackSender
from pgrecall.services.backup.spans import SpanCounts
from pgrecall.services.backup.units import Unit, units_of
from pgrecall.services.backup.worker import Shared, Worker

UNITS_AHEAD = 4
CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Copied:
    counts: SpanCounts
    vanished: int
    packs: tuple[PackRecord, ...]


class _OpenDirectory:
    """A directory whose files are being stored; it is finished, and its memory freed, with its last unit."""

    def __init__(self, writer: DirectoryWriter, index: DirectoryIndex | None, finish: Callable[[], None]) -> None:
        self.writer = writer
        self.index = index
        self._finish = finish
        self._left = 1  # the feeder's own hold, until every unit is handed out
        self._lock = threading.Lock()

    def hold(self) -> None:
        with self._lock:
            self._left += 1

    def release(self) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self.index = None
            self._finish()


@dataclass(frozen=True, slots=True)
class _Task:
    unit: Unit
    directory: _OpenDirectory


def copy_directories(
    directories: Iterable[DirectoryItem],
    shared: Shared,
    store: ClusterStore,
    label: BackupLabel,
    numbers: PackNumbers,
    *,
    jobs: int,
    level: int,
    check: Callable[[], None],
    kept: bytes,
    last: Callable[[Worker, DirectoryWriter], None],
) -> Copied:
    """Read and store every file of the directories with `jobs` threads.

    The directory `kept` stays open until all others are read: then last is called with one worker and its writer. check
    is called about every second from this thread and raises what must stop the run (a lost session). Memory: per job a
    pack (33 MiB) and 16 MiB to read into; one more pack on its way; the maps of the directories not finished yet.
    """
    writers: list[DirectoryWriter] = []
    with PackSender(store, jobs) as sender:
        builders = [PackBuilder(store, label, numbers, level=level, sender=sender) for _ in range(jobs)]
        crew = _Crew([Worker(shared, builder) for builder in builders], check, shared.clock)
        with crew:
            for task in _tasks(directories, shared, kept, writers):
                crew.hand_out(task)
        (writer,) = writers
        last(crew.workers[0], writer)
        crew.workers[0].builder.close()
        sender.finish()
    shared.manifest.finish_directory(writer)
    counts = SpanCounts()
    for worker in crew.workers:
        counts.add(worker.counts)
    packs = tuple(record for worker in crew.workers for record in worker.builder.records)
    return Copied(counts, sum(worker.vanished for worker in crew.workers), packs)


def _tasks(
    directories: Iterable[DirectoryItem], shared: Shared, kept: bytes, writers: list[DirectoryWriter]
) -> Iterator[_Task]:
    """The units of all directories; the writer of the directory that is kept open is put into writers."""
    for item in directories:
        owner, group = shared.principals.user(item.uid), shared.principals.group(item.gid)
        writer = shared.manifest.directory(DirectoryFacts(item.path, item.mode, owner, group))
        index = shared.earlier.directory(item.path) if shared.earlier is not None and item.files else None
        directory = _OpenDirectory(writer, index, partial(_finish, shared, writer, item.path == kept))
        if item.path == kept:
            writers.append(writer)
        for unit in units_of(item, writer):
            directory.hold()
            yield _Task(unit, directory)
        directory.release()


def _finish(shared: Shared, writer: DirectoryWriter, is_kept: bool) -> None:
    if not is_kept:
        shared.manifest.finish_directory(writer)


class _Crew:
    """Workers and their queue.

    Leaving the context waits for all work; after a failure it stops the work and raises the first error.
    """

    def __init__(self, workers: list[Worker], check: Callable[[], None], clock: Clock) -> None:
        self.workers = workers
        self._check_now = check
        self._clock = clock
        self._checked = clock.monotonic()
        self._queue: queue.Queue[_Task | None] = queue.Queue(maxsize=UNITS_AHEAD * len(workers))
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"backup-{number}", daemon=True)
            for number, worker in enumerate(workers)
        ]

    def hand_out(self, task: _Task) -> None:
        while not self._stop.is_set():
            self._check()
            with suppress(queue.Full):
                self._queue.put(task, timeout=CHECK_SECONDS)
                return
        self._raise_failure()

    def __enter__(self) -> "_Crew":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                for _ in self._threads:
                    self._put_end()
                self._wait()
        finally:
            self._stop.set()
            self._drain()
            for _ in self._threads:
                self._queue.put_nowait(None)
            for thread in self._threads:
                thread.join()
        if error is None:
            self._raise_failure()

    def _put_end(self) -> None:
        while True:
            try:
                self._queue.put(None, timeout=CHECK_SECONDS)
                return
            except queue.Full:
                if self._stop.is_set():
                    return
                self._check()

    def _wait(self) -> None:
        for thread in self._threads:
            while thread.is_alive() and not self._stop.is_set():
                thread.join(CHECK_SECONDS)
                self._check()

    def _work(self, worker: Worker) -> None:
        try:
            while not self._stop.is_set():
                task = self._queue.get()
                if task is None:
                    break
                worker.do(task.unit, task.directory.index)
                task.directory.release()
            if not self._stop.is_set() and worker is not self.workers[0]:
                worker.builder.close()
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            self._failure = self._failure or error
            self._stop.set()
            self._drain()

    def _check(self) -> None:
        """Ask, about once a second, whether the run may go on."""
        now = self._clock.monotonic()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._check_now()

    def _drain(self) -> None:
        """Wake whoever waits to put."""
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
