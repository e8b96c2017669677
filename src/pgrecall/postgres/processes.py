"""Processes below a process: found in /proc, so that none is left behind."""

from pathlib import Path

PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """Children, grandchildren… of pid, parents first; empty where there is no /proc. Any may be gone already."""
    children: dict[int, list[int]] = {}
    for entry in PROC.glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    front = [pid]
    while front:
        front = [child for parent in front for child in children.get(parent, [])]
        found += front
    return found


def is_alive(pid: int) -> bool:
    """False for a zombie, too: it runs no more, only its parent has not asked."""
    fields = _stat(pid)
    return fields is not None and fields[0] not in "ZX"


def _stat(pid: int) -> list[str] | None:
    """State, parent and the rest of /proc/PID/stat: "pid (comm) state ppid …", where comm may hold parentheses."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
