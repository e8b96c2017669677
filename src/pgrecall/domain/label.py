"""Owns the label of a backup: its start in UTC and its kind."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import total_ordering
from typing import Self

from pgrecall.errors import ValueInvalid

_SHAPE = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-(full|incr|dump)\Z", re.ASCII)


class BackupKind(StrEnum):
    FULL = "full"
    INCR = "incr"
    DUMP = "dump"

    @property
    def code(self) -> int:
        """The number of format.md §1."""
        return _CODES[self]


_KINDS = (BackupKind.FULL, BackupKind.INCR, BackupKind.DUMP)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}


@total_ordering
@dataclass(frozen=True, slots=True)
class BackupLabel:
    """`20261120T153127Z-full`. Ordered by its number: moment, then kind. Order says nothing about lineage."""

    moment: datetime
    kind: BackupKind

    def __post_init__(self) -> None:
        assert self.moment.tzinfo is UTC, "a label's moment is in UTC"
        assert self.moment.microsecond == 0, "a label counts whole seconds"
        assert self.moment.year >= 1970, "a label's number counts seconds since 1970"

    @classmethod
    def at(cls, now: datetime, kind: BackupKind) -> Self:
        """The label of a run that starts now (aware, any zone)."""
        return cls(now.astimezone(UTC).replace(microsecond=0), kind)

    @classmethod
    def parse(cls, text: str) -> Self:
        match = _SHAPE.match(text)
        try:
            if match is None or match[1] < "1970":
                raise ValueError
            moment = datetime(*(int(part) for part in match.groups()[:6]), tzinfo=UTC)  # type: ignore[misc, arg-type]
        except ValueError:
            raise ValueInvalid(
                f"'{text}' is no backup label", hint="A label looks like 20261120T153127Z-full.", value=text
            ) from None
        return cls(moment, BackupKind(match[7]))

    @classmethod
    def from_number(cls, number: int) -> Self:
        seconds, code = number >> 4, number & 15
        if not 0 <= number < 1 << 64 or code >= len(_KINDS):
            raise ValueInvalid(f"{number} is no label number")
        try:
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
        except OverflowError:
            raise ValueInvalid(f"{number} is no label number: its year has more than four digits") from None
        return cls(moment, _KINDS[code])

    @property
    def number(self) -> int:
        """`unix_seconds << 4 | kind`, as u64 in binary objects."""
        return int(self.moment.timestamp()) << 4 | self.kind.code

    def next_free(self, after: "BackupLabel | None") -> "BackupLabel":
        """This label, or, where `after` is not older, the same kind one second after it."""
        if after is None or self.moment > after.moment:
            return self
        return BackupLabel(after.moment + timedelta(seconds=1), self.kind)

    def __str__(self) -> str:
        return f"{self.moment:%Y%m%dT%H%M%SZ}-{self.kind}"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, BackupLabel):
            return NotImplemented
        return self.number < other.number
