"""Owns `pgrecall-recovery.json` in a restored data directory: what `wal fetch` must know of the recovery's path.

Restore writes it beside the recovery settings. Without it a parent's segment could replace a missing child's (rule 8).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pgrecall.domain.timeline import History
from pgrecall.errors import ValueInvalid

RECOVERY_FILE = "pgrecall-recovery.json"
SERVED_FILE = "pgrecall-served.json"
"""In pg_wal: the newest history that was served where restore wrote no path, or where the path may grow (standby)."""
_TIMELINE_LENGTH = 8


@dataclass(frozen=True, slots=True)
class RecoveryPath:
    """Where a recovery goes: the history of its target timeline."""

    system_identifier: int
    history: History
    planned_to: str | None = None
    """The first segment, by its name without the timeline, that the plan of the restore did not look at."""

    def is_planned(self, name: str) -> bool:
        """Whether the plan judged this segment's content; it did for all where nothing else is said."""
        return self.planned_to is None or name[_TIMELINE_LENGTH:] < self.planned_to

    def encode(self) -> bytes:
        """The file's bytes; write them durably, before the server starts."""
        value = {
            "timeline": self.history.timeline,
            "history": self.history.to_text(),
            "system_identifier": str(self.system_identifier),
            "planned_to": self.planned_to,
        }
        return json.dumps(value, indent=1).encode() + b"\n"

    @classmethod
    def read(cls, pgdata: Path) -> Self | None:
        """None if restore wrote none. ValueInvalid if it cannot be understood: then nothing may be guessed."""
        return cls.read_file(pgdata / RECOVERY_FILE)

    @classmethod
    def read_file(cls, file: Path) -> Self | None:
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return None
        try:
            value = json.loads(data)
            history = History.parse(value["history"], int(value["timeline"]))
            planned_to = value.get("planned_to")
            return cls(int(value["system_identifier"]), history, None if planned_to is None else str(planned_to))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueInvalid(f"{file} cannot be understood: {error}") from error
