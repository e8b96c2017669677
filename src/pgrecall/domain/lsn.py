"""Owns the log sequence number: a byte position in the write-ahead log, written as PostgreSQL writes it."""

import re
from typing import Self, overload

from pgrecall.errors import ValueInvalid

_SHAPE = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}\Z")
_TOP = 1 << 64


class Lsn(int):
    """A position in bytes, 0 ≤ lsn < 2^64. `0/0` is PostgreSQL's "invalid": no WAL lies there."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        if not 0 <= value < _TOP:
            raise ValueInvalid(f"{value} is no WAL position: positions are 0 to 2^64-1")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        if not _SHAPE.match(text):
            raise ValueInvalid(f"'{text}' is no WAL position", hint="A position looks like 3/5A000028.", value=text)
        high, low = text.split("/")
        return super().__new__(cls, int(high, 16) << 32 | int(low, 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn('{self}')"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec) if not spec or spec[-1] in "s<>^0123456789" else format(int(self), spec)

    def __add__(self, count: int, /) -> "Lsn":
        return Lsn(int(self) + count)

    @overload
    def __sub__(self, other: "Lsn", /) -> int: ...
    @overload
    def __sub__(self, other: int, /) -> int: ...
    def __sub__(self, other: int, /) -> int:
        """Bytes between two positions. Subtracting a count gives an int too: wrap it in Lsn() again."""
        return int(self) - int(other)
