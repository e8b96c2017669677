"""Owns the threads of a copy: one feeds units, workers do them, the first failure stops all."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from pgrecall.domain.label import BackupLabel
from pgrecall.postgres.listing import DirectoryItem
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.directory_writer import DirectoryFacts, DirectoryWriter
from pgrecall.repository.manifest_reader import DirectoryIndex
from pgrecall.repository.pack import PackBuilder, PackNumbers
from pgrecall.repository.runtable import PackRecord
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


@dataclass(frozen=True, slots=True)
class _Task:
    unit: Unit
    index: DirectoryIndex | None


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
    last: Callable[[Worker, Mapping[bytes, DirectoryWriter]], None],
) -> Copied:
    """Read and store every file of the directories with `jobs` threads.

    last is called when all of them are read, with one worker and the directories' writers. check is called about every
    second from this thread and raises what must stop the run (a lost session). Memory: per job one pack (33 MiB) and
    16 MiB to read into; besides, the maps of the directories not finished yet.
    """
    crew = _Crew([Worker(shared, PackBuilder(store, label, numbers, level=level)) for _ in range(jobs)], check)
    writers: dict[bytes, DirectoryWriter] = {}
    with crew:
        for task in _tasks(directories, shared, writers):
            crew.hand_out(task)
    last(crew.workers[0], writers)
    crew.workers[0].builder.close()
    for writer in writers.values():
        shared.manifest.finish_directory(writer)
    counts = SpanCounts()
    for worker in crew.workers:
        counts.add(worker.counts)
    packs = tuple(record for worker in crew.workers for record in worker.builder.records)
    return Copied(counts, sum(worker.vanished for worker in crew.workers), packs)


def _tasks(
    directories: Iterable[DirectoryItem], shared: Shared, writers: dict[bytes, DirectoryWriter]
) -> Iterator[_Task]:
    for directory in directories:
        owner, group = shared.principals.user(directory.uid), shared.principals.group(directory.gid)
        writer = shared.manifest.directory(DirectoryFacts(directory.path, directory.mode, owner, group))
        writers[directory.path] = writer
        index = shared.earlier.directory(directory.path) if shared.earlier is not None and directory.files else None
        for unit in units_of(directory, writer):
            yield _Task(unit, index)


class _Crew:
    """Workers and their queue.

    Leaving the context waits for all work; after a failure it stops the work and raises the first error.
    """

    def __init__(self, workers: list[Worker], check: Callable[[], None]) -> None:
        self.workers = workers
        self._check = check
        self._queue: queue.Queue[_Task | None] = queue.Queue(maxsize=UNITS_AHEAD * len(workers))
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"backup-{number}", daemon=True)
            for number, worker in enumerate(workers)
        ]

    def hand_out(self, task: _Task) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._queue.put(task, timeout=CHECK_SECONDS)
                return
            self._check()
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
                worker.do(task.unit, task.index)
            if not self._stop.is_set() and worker is not self.workers[0]:
                worker.builder.close()
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            self._failure = self._failure or error
            self._stop.set()
            self._drain()

    def _drain(self) -> None:
        """Wake whoever waits to put."""
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
