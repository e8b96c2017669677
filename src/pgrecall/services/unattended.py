"""Runs that nobody watches: [notify] hears how each ended, also of one that was killed, from the next one."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pgrecall.clock import Clock
from pgrecall.config import ClusterSettings, Settings
from pgrecall.errors import PgrecallError
from pgrecall.observe.notify import Event, notify

REPEAT_AFTER_SECONDS = 3600


class UnattendedRun:
    """`with UnattendedRun(…) as run: work; run.message = "what a person should read"`.

    While the run lives, a mark in the state directory names its process; a mark whose process is gone is a killed run.
    `repeats` is for what PostgreSQL calls again and again (wal push): only failures are told, each kind once an hour.
    A failure to notify is given to `warn`, never raised. Errors pass through unchanged.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: ClusterSettings,
        *,
        verb: str,
        clock: Clock,
        warn: Callable[[str], None],
        repeats: bool = False,
    ) -> None:
        self.message = f"{verb} of {cluster.name} ended well"
        self._notify, self._cluster, self._verb = settings.notify, cluster.name, verb
        self._clock, self._warn, self._repeats = clock, warn, repeats
        directory = settings.state_directory(cluster.name) / "runs"
        self._mark = directory / f"{verb.replace(' ', '-')}.{os.getpid()}"
        self._told = directory / f"{verb.replace(' ', '-')}.told"
        self._marks = bool(settings.notify.on_failure) and not repeats

    def __enter__(self) -> Self:
        if self._marks:
            self._tell_of_killed_runs()
            self._write(self._mark, {"started": self._now(), "boot": _boot()})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        if self._marks:
            self._mark.unlink(missing_ok=True)
        if error is None and self._repeats:
            self._told.unlink(missing_ok=True)
        elif error is None:
            self._tell("success", self.message)
        elif not isinstance(error, KeyboardInterrupt):
            self._tell_failure(error)
        return False

    def _tell_failure(self, error: BaseException) -> None:
        named = error if isinstance(error, PgrecallError) else None
        code = named.code if named else "internal" if isinstance(error, Exception) else "killed"
        if not self._notify.on_failure or (self._repeats and self._told_lately(code)):
            return
        message = str(error) or type(error).__name__
        self._tell("failure", message, code=code, hint=named.hint if named else None)

    def _tell_of_killed_runs(self) -> None:
        for mark in sorted(self._mark.parent.glob(f"{self._mark.stem}.[0-9]*")):
            if _is_running(mark):
                continue
            started = _read(mark).get("started", "an unknown time")
            mark.unlink(missing_ok=True)
            self._tell("failure", f"{self._verb} of {self._cluster}, begun {started}, was killed", code="killed")

    def _tell(
        self, event: Literal["success", "failure"], message: str, *, code: str | None = None, hint: str | None = None
    ) -> None:
        targets = self._notify.on_failure
        if event == "success":
            targets = (*self._notify.on_success, *self._notify.heartbeat)
        told = Event(event, self._verb, self._cluster, socket.gethostname(), self._now(), message, code, hint)
        for trouble in notify(targets, told, timeout_seconds=self._notify.timeout.total_seconds()):
            self._warn(trouble)

    def _told_lately(self, code: str) -> bool:
        """Whether this failure was told within the last hour; notes that it is told now if not."""
        last = _read(self._told)
        now = self._clock.now().timestamp()
        if last.get("code") == code and 0 <= now - float(last.get("at", 0)) < REPEAT_AFTER_SECONDS:
            return True
        self._write(self._told, {"code": code, "at": now})
        return False

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        """Best effort: a state directory that cannot be written must not stop a backup."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content), encoding="ascii")
        except OSError as error:
            self._warn(f"a killed run would go unnoticed: {path}: {error.strerror}")

    def _now(self) -> str:
        return self._clock.now().isoformat(timespec="seconds").replace("+00:00", "Z")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_running(mark: Path) -> bool:
    """Whether the process that wrote the mark may still live: same boot, and its pid exists."""
    if _read(mark).get("boot") != _boot():
        return False
    try:
        os.kill(int(mark.suffix[1:]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
