"""Owns what the machine itself can do with this data: the floor below which no backup can go."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from bench.measure import evict

PIECE = 128 * 1024
BLOCK = 8 << 20
SAMPLE_BYTES = 512 << 20
"""Of the data, for compression."""
WRITTEN_BYTES = 1 << 30
LARGE = 4 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """MB (10^6 bytes) per second."""

    read_warm: float
    read_cold: float
    zstd_1_thread: float
    zstd_2_threads: float
    zstd_ratio: float
    write_synced: float


def machine_limits(pgdata: Path, scratch: Path) -> Limits:
    paths = [path for path in sorted((pgdata / "base").rglob("*")) if path.is_file() and path.stat().st_size >= LARGE]
    evict(pgdata)
    cold = _read(paths)
    warm = _read(paths)
    sample = _sample(paths)
    one, ratio = _compress(sample, 1)
    two, _ = _compress(sample, 2)
    return Limits(warm, cold, one, two, ratio, _write(scratch / "written"))


def _read(paths: list[Path]) -> float:
    memory = bytearray(BLOCK)
    total = 0
    began = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(memory):
                total += count
    return total / (time.perf_counter() - began) / 1e6


def _sample(paths: list[Path]) -> list[bytes]:
    """Blocks spread evenly over all files."""
    total = sum(path.stat().st_size for path in paths)
    stride = max(1, total // SAMPLE_BYTES)
    blocks = (block for path in paths for block in _blocks(path))
    return [block for number, block in enumerate(blocks) if number % stride == 0]


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            yield block


def _compress(sample: list[bytes], threads: int) -> tuple[float, float]:
    stored = [0] * threads

    def work(number: int) -> None:
        zstd = zstandard.ZstdCompressor(level=3)
        for block in sample[number::threads]:
            view = memoryview(block)
            for at in range(0, len(block), PIECE):
                stored[number] += len(zstd.compress(view[at : at + PIECE]))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - began
    raw = sum(map(len, sample))
    return raw / took / 1e6, raw / sum(stored)


def _write(path: Path) -> float:
    block = os.urandom(BLOCK)
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(WRITTEN_BYTES // BLOCK):
            file.write(block)
        os.fsync(file.fileno())
    took = time.perf_counter() - began
    path.unlink()
    return WRITTEN_BYTES / took / 1e6
