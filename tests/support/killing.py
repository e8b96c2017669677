"""Owns killing pgrecall: a process that ends itself by SIGKILL at a chosen write, as `kill -9` from outside would.

Run as a program, `python -m tests.support.killing COUNT WRITE …` is `pgrecall …`, killed before its WRITE-th call that
changes files (0: never); the number of such calls is written to the file COUNT when it ends by itself.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHANGING = (
    "write",
    "pwrite",
    "writev",
    "pwritev",
    "fsync",
    "fdatasync",
    "link",
    "rename",
    "replace",
    "unlink",
    "mkdir",
)


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    """Exit status; negative: the signal."""
    writes: int | None
    """How many calls changed files; None if it was killed."""
    stderr: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


def run_killed(arguments: Sequence[str], *, at_write: int, scratch: Path, environment: dict[str, str]) -> Ended:
    """`pgrecall` with these arguments, killed before its at_write-th change of a file (0: not killed)."""
    count = scratch / "writes"
    count.unlink(missing_ok=True)
    path = f"{ROOT / 'src'}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killing", str(count), str(at_write), *arguments],
        cwd=scratch,
        env={**environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, int(count.read_text()) if count.exists() else None, done.stderr)


def main(count: str, at_write: str, *arguments: str) -> None:
    from pgrecall.cli.main import main as pgrecall

    calls = 0
    lock = threading.Lock()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            nonlocal calls
            with lock:
                calls += 1
                if calls == int(at_write):
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*positional, **named)

        return call

    for name in CHANGING:
        setattr(os, name, counted(getattr(os, name)))
    sys.argv = ["pgrecall", *arguments]
    try:
        pgrecall()
    finally:
        Path(count).write_text(str(calls))


if __name__ == "__main__":
    main(*sys.argv[1:])
