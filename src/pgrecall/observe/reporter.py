"""The one channel from services to whoever watches."""

from typing import Protocol


class Reporter(Protocol):
    """Methods may be called from many threads and never raise."""

    def stage(self, name: str, total_bytes: int | None = None) -> None:
        """A new stage begins ("copy files"); total_bytes is an estimate, None when unknown."""

    def advance(self, byte_count: int) -> None:
        """So many bytes of the current stage are done."""

    def note(self, text: str) -> None:
        """One line that a person wants to read while it happens."""

    def warn(self, text: str) -> None:
        """Something is degraded: shown in the result, too, and worth exit status 3."""


class Silent:
    """Keeps warnings, says nothing."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def stage(self, name: str, total_bytes: int | None = None) -> None: ...

    def advance(self, byte_count: int) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)
