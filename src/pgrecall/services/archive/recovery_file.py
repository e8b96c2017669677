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


@dataclass(frozen=True, slots=True)
class RecoveryPath:
    """Where a recovery goes: the history of its target timeline."""

    system_identifier: int
    history: History

    def encode(self) -> bytes:
        """The file's bytes; write them durably, before the server starts."""
        value = {
            "timeline": self.history.timeline,
            "history": self.history.to_text(),
            "system_identifier": str(self.system_identifier),
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
            return cls(int(value["system_identifier"]), history)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueInvalid(f"{file} cannot be understood: {error}") from error
