"""Owns the description of the machine and of the programs that were measured."""

import os
import platform
import subprocess
from pathlib import Path


def describe(directory: Path) -> dict[str, str]:
    return {
        "CPU": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "kernel": platform.release(),
        "file system": _file_system(directory),
        "Python": platform.python_version(),
    }


def version(*argv: str | Path) -> str:
    """The first line that a program says of itself."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[0]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """Type of the file system that holds directory: the longest mount point above it."""
    place = str(directory.resolve())
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        inside = place == mount or place.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind
