"""How work in progress is shown on stderr: a bar with rate and ETA on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pgrecall.cli.output import Output
from pgrecall.clock import Clock
from pgrecall.domain.humanize import format_bytes, format_duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

BAR_AFTER_SECONDS = 2.0
"""Shorter work needs no bar."""
LINE_EVERY_SECONDS = 30.0


class Progress:
    """A `Reporter` that keeps its warnings; may be called from many threads."""

    def __init__(self, out: Output, clock: Clock) -> None:
        self.warnings: list[str] = []
        self._out, self._clock = out, clock
        self._lock = threading.Lock()
        self._stage, self._total, self._done = "", None, 0  # type: tuple[str, int | None, int]
        self._began = self._told = clock.monotonic()
        self._bar: Bar | None = None
        self._uses_bar = out.stderr.isatty() and not out.quiet

    def stage(self, name: str, total_bytes: int | None = None) -> None:
        with self._lock:
            self._end_bar()
            self._stage, self._total, self._done = name, total_bytes, 0
            self._began = self._told = self._clock.monotonic()
            if not self._uses_bar:
                self._out.note(name if total_bytes is None else f"{name}: about {format_bytes(total_bytes)}")

    def advance(self, byte_count: int) -> None:
        with self._lock:
            self._done += byte_count
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=self._done)
            elif self._uses_bar and self._seconds(self._began) >= BAR_AFTER_SECONDS:
                self._begin_bar()
            elif not self._uses_bar and self._seconds(self._told) >= LINE_EVERY_SECONDS:
                self._told = self._clock.monotonic()
                self._out.note(self._line())

    def note(self, text: str) -> None:
        with self._lock, self._beside_the_bar():
            self._out.note(text)

    def warn(self, text: str) -> None:
        with self._lock, self._beside_the_bar():
            self.warnings.append(text)
            self._out.warn(text)

    def close(self) -> None:
        with self._lock:
            self._end_bar()

    def _line(self) -> str:
        """`copy files: 1.2 GiB of 41.0 GiB (3 %), 210 MiB/s, 3:10 left`"""
        seconds = max(self._seconds(self._began), 0.001)
        rate = self._done / seconds
        parts = [format_bytes(self._done)]
        if self._total:
            share = min(100 * self._done // self._total, 99)
            parts[0] += f" of {format_bytes(self._total)} ({share} %)"
        parts.append(f"{format_bytes(round(rate))}/s")
        if self._total and rate and self._total > self._done:
            parts.append(f"{format_duration((self._total - self._done) / rate)} left")
        return f"{self._stage}: {', '.join(parts)}"

    def _seconds(self, since: float) -> float:
        return self._clock.monotonic() - since

    @contextmanager
    def _beside_the_bar(self) -> Iterator[None]:
        """A line while the bar is up: the bar is taken away and drawn again below it."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def _begin_bar(self) -> None:
        from rich import progress as rich
        from rich.console import Console

        console = Console(file=self._out.stderr, no_color=not self._out.colours(self._out.stderr))
        self._bar = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.DownloadColumn(binary_units=True),
            rich.TransferSpeedColumn(),
            rich.TimeRemainingColumn(compact=True) if self._total else rich.TimeElapsedColumn(),
            console=console,
            transient=True,
            get_time=self._clock.monotonic,
            redirect_stdout=False,
        )
        self._bar.add_task(self._stage, total=self._total, completed=self._done)
        self._bar.start()

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextmanager
def progress(out: Output, clock: Clock) -> Iterator[Progress]:
    shown = Progress(out, clock)
    try:
        yield shown
    finally:
        shown.close()
