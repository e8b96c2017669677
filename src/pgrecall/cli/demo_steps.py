"""How the demo's steps are shown on stderr: a spinner that becomes one line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pgrecall.cli.output import Output, Span
from pgrecall.clock import Clock

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

NAME_WIDTH = 42


class ShownStep:
    """A `Step` of the demo; may be called from many threads."""

    def __init__(self, out: Output, clock: Clock, name: str, bar: Bar | None) -> None:
        self.result = ""
        self._out, self._clock, self._name, self._bar = out, clock, name, bar
        self._began = clock.monotonic()
        self._lock = threading.Lock()
        self._done = 0

    def says(self, text: str) -> None:
        self.result = text

    def stage(self, name: str, total_bytes: int | None = None) -> None:
        with self._lock:
            self._done = 0
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], total=total_bytes, completed=0, doing=name)

    def advance(self, byte_count: int) -> None:
        with self._lock:
            self._done += byte_count
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=self._done)

    def note(self, text: str) -> None:
        """What matters of a step is in its line."""

    def warn(self, text: str) -> None:
        with self._lock:
            self._out.warn(text)

    def finish(self) -> None:
        took = f"{self._clock.monotonic() - self._began:5.1f} s"
        self._out.note(Span(took, "dim"), "  ", Span(f"{self._name:<{NAME_WIDTH}}", "bold"), f"  {self.result}")


class Steps:
    """Opens steps: `with steps("Fill it") as step: …`; a step that fails ends without a line."""

    def __init__(self, out: Output, clock: Clock) -> None:
        self._out, self._clock = out, clock
        self._uses_bar = out.stderr.isatty() and not out.quiet

    @contextmanager
    def __call__(self, name: str) -> Iterator[ShownStep]:
        bar = self._spinner(name) if self._uses_bar else None
        step = ShownStep(self._out, self._clock, name, bar)
        try:
            yield step
        finally:
            if bar is not None:
                bar.stop()
        step.finish()

    def _spinner(self, name: str) -> Bar:
        from rich import progress as rich
        from rich.console import Console
        from rich.table import Column

        console = Console(file=self._out.stderr, no_color=not self._out.colours(self._out.stderr))
        bar = rich.Progress(
            rich.SpinnerColumn(),
            rich.TimeElapsedColumn(),
            rich.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            rich.BarColumn(bar_width=24),
            rich.TextColumn("{task.fields[doing]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        bar.add_task(name, total=None, doing="")
        bar.start()
        return bar
