"""Owns reading typed fields out of untrusted JSON: the right type, within bounds, or ObjectDamaged."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.errors import ObjectDamaged, ValueInvalid

U16, U32, U53, U64 = (1 << 16) - 1, (1 << 32) - 1, 1 << 53, (1 << 64) - 1

T = TypeVar("T")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,19})\Z", re.ASCII)
_HEX = re.compile(r"([0-9a-f]{2})*\Z", re.ASCII)


class Fields:
    """One JSON object; `what` says for people where it stands. Fields that are not asked for are ignored."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, Mapping):
            raise ObjectDamaged(f"{what} should be an object")
        self._value: Mapping[str, Any] = value
        self.what = what

    def damaged(self, name: str, should: str) -> ObjectDamaged:
        return ObjectDamaged(f"{self.what}: '{name}' should be {should}, not {self._value.get(name)!r:.80}")

    def rest(self, known: frozenset[str]) -> dict[str, Any]:
        """The fields not among known."""
        return {name: value for name, value in self._value.items() if name not in known}

    def text(self, name: str) -> str:
        value = self._value.get(name)
        if not isinstance(value, str):
            raise self.damaged(name, "a text")
        return value

    def integer(self, name: str, low: int = 0, high: int = U53) -> int:
        value = self._value.get(name)
        if type(value) is not int or not low <= value <= high:
            raise self.damaged(name, f"a whole number from {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        value = self._value.get(name)
        if not isinstance(value, bool):
            raise self.damaged(name, "true or false")
        return value

    def one_of(self, name: str, *choices: str) -> str:
        value = self.text(name)
        if value not in choices:
            raise self.damaged(name, "one of " + ", ".join(choices))
        return value

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        """None for null or a missing field, else what read (a method of this object) makes of it."""
        return None if self._value.get(name) is None else read(name)

    def object(self, name: str) -> "Fields":
        return Fields(self._value.get(name), f"{self.what}: '{name}'")

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self._value.get(name)
        if not isinstance(value, Mapping):
            raise self.damaged(name, "an object")
        return value

    def list(self, name: str) -> list[Any]:
        value = self._value.get(name)
        if not isinstance(value, list):
            raise self.damaged(name, "a list")
        return value

    def objects(self, name: str) -> "Iterator[Fields]":
        for index, value in enumerate(self.list(name)):
            yield Fields(value, f"{self.what}: {name}[{index}]")

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.list(name)
        if not all(isinstance(value, str) for value in values):
            raise self.damaged(name, "a list of texts")
        return tuple(values)

    def hex(self, name: str, length: int) -> bytes:
        return unhex(self.text(name), length, f"{self.what}: '{name}'")

    def base64(self, name: str) -> bytes:
        text = self.text(name)
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            data = None
        if data is None or base64.b64encode(data).decode() != text:
            raise self.damaged(name, "base64")
        return data

    def decimal(self, name: str) -> int:
        """An unsigned 64-bit number written as text, since JSON's numbers end at 2^53."""
        text = self.text(name)
        if not _DECIMAL.match(text) or int(text) > U64:
            raise self.damaged(name, "a decimal number in quotes")
        return int(text)

    def lsn(self, name: str) -> Lsn:
        text = self.text(name)
        try:
            lsn = Lsn.parse(text)
        except ValueInvalid:
            raise self.damaged(name, "an LSN") from None
        return lsn

    def label(self, name: str) -> BackupLabel:
        try:
            return BackupLabel.parse(self.text(name))
        except ValueInvalid:
            raise self.damaged(name, "a backup label") from None

    def kind(self, name: str) -> BackupKind:
        return BackupKind(self.one_of(name, *BackupKind))

    def time(self, name: str) -> datetime:
        """RFC 3339 in UTC, written `2026-11-20T15:31:27Z` or with microseconds."""
        text = self.text(name)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise self.damaged(name, "a time") from None
        if not text.endswith("Z") or moment.tzinfo is None:
            raise self.damaged(name, "a time in UTC that ends in Z")
        return moment.astimezone(UTC)


def unhex(text: str, length: int, what: str) -> bytes:
    if len(text) != 2 * length or not _HEX.match(text):
        raise ObjectDamaged(f"{what} should be {2 * length} hexadecimal digits, not {text[:80]!r}")
    return bytes.fromhex(text)


def time_text(moment: datetime) -> str:
    """The inverse of `Fields.time`."""
    assert moment.tzinfo is not None, "a moment without zone"
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()
