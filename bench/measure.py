"""Owns the costs of one command: wall and CPU seconds of its whole process tree, the server's CPU, peak memory."""

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgrecall.postgres.processes import descendants

SAMPLE_SECONDS = 0.2
TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


class CommandFailed(Exception):
    """A measured command ended with an error: its numbers would mean nothing."""


@dataclass(slots=True)
class Cost:
    """Seconds and bytes. cpu: user and system of the command and all below it; server_cpu: of the server meanwhile.

    memory: the largest sum of proportional set sizes (Pss) of the command's process tree.
    """

    wall: float = 0
    cpu: float = 0
    server_cpu: float = 0
    memory: int = 0
    stored: int | None = None
    """Bytes added to the repository."""
    requests: int | None = None
    output: str = field(default="", repr=False)

    def add(self, other: "Cost") -> None:
        """Another command after this one, for the same purpose."""
        self.wall += other.wall
        self.cpu += other.cpu
        self.server_cpu += other.server_cpu
        self.memory = max(self.memory, other.memory)
        self.output = other.output


def run(
    argv: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    server: int | None = None,
    accepted: Sequence[int] = (0,),
) -> Cost:
    """Run a command and measure it; server: process id of the postmaster that works for it."""
    with tempfile.TemporaryFile() as output:
        server_before = _server_cpu(server)
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=dict(environment),
        )  # fmt: skip
        with _Memory(process.pid) as memory:
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        server_cpu = _server_cpu(server) - server_before
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode not in accepted:
        raise CommandFailed(f"{' '.join(map(str, argv))} ended with {process.returncode}:\n{text[-4000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, server_cpu, memory.peak, output=text)


class _Memory:
    """Samples the memory of a process tree until the block ends."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, sum(map(_pss, [self._pid, *descendants(self._pid)])))


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _server_cpu(postmaster: int | None) -> float:
    """Of the postmaster, of its children that live, and of those that ended."""
    if postmaster is None:
        return 0
    ticks = sum(_ticks(postmaster, ended_children=True))
    ticks += sum(sum(_ticks(pid, ended_children=False)) for pid in descendants(postmaster))
    return ticks / TICKS


def _ticks(pid: int, *, ended_children: bool) -> list[int]:
    with contextlib.suppress(OSError):
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return [int(text) for text in fields[11 : 15 if ended_children else 13]]
    return [0]


def tree_bytes(root: Path) -> int:
    """Bytes of all files below root."""
    return sum(path.lstat().st_size for path in _files(root))


def settle() -> None:
    """What earlier commands left to be written is on the disk before the next one is measured."""
    os.sync()


def evict(root: Path) -> None:
    """Take the files below root out of the page cache (no privilege is needed for one's own files)."""
    os.sync()
    for path in _files(root):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def warm(root: Path) -> None:
    """Read every file below root once."""
    memory = bytearray(8 << 20)
    for path in _files(root):
        with path.open("rb", buffering=0) as file:
            while file.readinto(memory):
                pass


def _files(root: Path) -> Iterable[Path]:
    for place, _, names in os.walk(root):
        for name in names:
            path = Path(place) / name
            if path.is_file() and not path.is_symlink():
                yield path
