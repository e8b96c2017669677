"""Owns recovery targets: what a recovery shall stop at, and how a person writes it (`--at`)."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Literal

from pgrecall.domain.humanize import format_time, parse_duration
from pgrecall.domain.lsn import Lsn
from pgrecall.errors import TimeAmbiguous, ValueInvalid

TimelineChoice = int | Literal["latest", "current"]

_AGO = re.compile(r"(.+?)[-\s]ago\Z", re.IGNORECASE)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)"
    r"(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)\s*(Z|UTC|[+-]\d\d(?::?\d\d)?|[A-Za-z_]+(?:/[A-Za-z0-9_+-]+)+)?)?\Z",
    re.ASCII | re.IGNORECASE,
)
_PATH = re.compile(r"(?:/|\.{1,2}/|~)")
_FIRST_NORMAL_XID = 3
_MAX_NAME_BYTES = 63


@dataclass(frozen=True, slots=True)
class AtTime:
    moment: datetime

    def __post_init__(self) -> None:
        assert self.moment.tzinfo is not None, "a target without a zone is no moment"

    def __str__(self) -> str:
        return format_time(self.moment)


@dataclass(frozen=True, slots=True)
class AtLsn:
    lsn: Lsn

    def __str__(self) -> str:
        return f"lsn:{self.lsn}"


@dataclass(frozen=True, slots=True)
class AtXid:
    xid: int

    def __str__(self) -> str:
        return f"xid:{self.xid}"


@dataclass(frozen=True, slots=True)
class AtRestorePoint:
    name: str

    def __str__(self) -> str:
        return f"name:{self.name}"


@dataclass(frozen=True, slots=True)
class Immediate:
    """As soon as the backup is consistent."""

    def __str__(self) -> str:
        return "immediate"


@dataclass(frozen=True, slots=True)
class EndOfArchive:
    def __str__(self) -> str:
        return "latest"


RecoveryTarget = AtTime | AtLsn | AtXid | AtRestorePoint | Immediate | EndOfArchive


@dataclass(frozen=True, slots=True)
class RecoveryRequest:
    target: RecoveryTarget = EndOfArchive()
    inclusive: bool = True
    timeline: TimelineChoice = "latest"


def parse_target(text: str, *, now: datetime, zone: tzinfo) -> RecoveryTarget:
    """Read `--at`. `zone` is the server's: it never completes a zoneless time, only the lines that we offer then."""
    text = text.strip()
    kind, colon, value = text.partition(":")
    match kind.lower() + colon:
        case "latest":
            return EndOfArchive()
        case "immediate":
            return Immediate()
        case "lsn:":
            return AtLsn(Lsn.parse(value.strip()))
        case "xid:":
            return AtXid(_parse_xid(value.strip()))
        case "name:":
            return AtRestorePoint(_parse_name(value))
    if ago := _AGO.match(text):
        return AtTime(now - parse_duration(ago[1]))
    if _PATH.match(text):
        raise ValueInvalid(f"'{text}' is a place, not a moment", hint=f"--to {text}", value=text)
    return AtTime(parse_moment(text, zone=zone))


def parse_timeline(text: str) -> TimelineChoice:
    if text in ("latest", "current"):
        return "latest" if text == "latest" else "current"
    if text.isascii() and text.isdigit() and 0 < int(text) < 1 << 32:
        return int(text)
    raise ValueInvalid(f"'{text}' is no timeline", hint="Write a number, latest or current.", value=text)


def parse_moment(text: str, *, zone: tzinfo) -> datetime:
    """An aware moment. TimeAmbiguous, with two ready texts, if the zone is missing or does not decide."""
    match = _TIME.match(text.strip())
    if match is None:
        raise ValueInvalid(
            f"'{text}' is no recovery target",
            hint='Write latest, "2026-11-20 14:05:00+01:00", 20m-ago, lsn:3/5A000028, xid:7341, name:before_deploy '
            "or immediate.",
            value=text,
        )
    day, clock, suffix = match[1], match[2] or "00:00", match[3]
    try:
        local = datetime.fromisoformat(f"{day} {_six_digits(clock)}")
        if suffix and "/" not in suffix:
            return datetime.fromisoformat(f"{local.isoformat()}{_offset(suffix)}")
    except ValueError as problem:
        raise ValueInvalid(f"'{text}' is no date: {problem}", value=text) from None
    try:
        return _in_zone(text, local, _named_zone(suffix) if suffix else zone, is_named=bool(suffix))
    except OverflowError:
        raise ValueInvalid(f"'{text}' is too far away", value=text) from None


def _in_zone(text: str, local: datetime, zone: tzinfo, *, is_named: bool) -> datetime:
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    name = _zone_name(zone)
    if first.utcoffset() != second.utcoffset():
        if _is_real(first):
            raise _ambiguous(text, f"came twice in {name}", (first, "first"), (second, "second"), is_named)
        # In the gap fold 0 counts with the offset before it, fold 1 with the one after it.
        choices = (_settled(first), "clock not yet moved"), (_settled(second), "clock moved before")
        raise _ambiguous(text, f"never came in {name}: the clocks skipped it", *choices, is_named)
    if is_named:
        return first
    raise _ambiguous(text, None, (first, name), (local.replace(tzinfo=UTC), "UTC"), is_named)


def _ambiguous(
    text: str, reason: str | None, one: tuple[datetime, str], other: tuple[datetime, str], is_named: bool
) -> TimeAmbiguous:
    parts = [part for part in (None if is_named else "has no zone", reason) if part]
    choices = [format_time(moment, moment.tzinfo or UTC) for moment, _ in (one, other)]
    hint = f'"{choices[0]}" ({one[1]}) or "{choices[1]}" ({other[1]})'
    return TimeAmbiguous(f'"{text}" {" and ".join(parts)}', hint=hint, value=text, choices=choices)


def _is_real(moment: datetime) -> bool:
    return _settled(moment).replace(tzinfo=None) == moment.replace(tzinfo=None)


def _settled(moment: datetime) -> datetime:
    return moment.astimezone(UTC).astimezone(moment.tzinfo)


def _zone_name(zone: tzinfo) -> str:
    return str(getattr(zone, "key", None) or zone)


def _named_zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError below
        raise ValueInvalid(f"'{name}' is no time zone", value=name) from None
    except KeyError:
        raise ValueInvalid(
            f"'{name}' is no time zone known here", hint="Write an offset, such as +01:00.", value=name
        ) from None


def _six_digits(clock: str) -> str:
    whole, dot, fraction = clock.partition(".")
    return f"{whole}.{fraction:0<6}" if dot else whole


def _offset(suffix: str) -> str:
    if suffix.upper() in ("Z", "UTC"):
        return "+00:00"
    digits = suffix[1:].replace(":", "")
    return f"{suffix[0]}{digits[:2]}:{digits[2:] or '00'}"


def _parse_xid(text: str) -> int:
    if not (text.isascii() and text.isdigit() and _FIRST_NORMAL_XID <= int(text) < 1 << 64):
        raise ValueInvalid(f"'{text}' is no transaction id", hint="xid:N with N from 3 on.", value=text)
    return int(text)


def _parse_name(text: str) -> str:
    length = len(text.encode())
    if not 0 < length <= _MAX_NAME_BYTES or "\0" in text:
        raise ValueInvalid(
            f"a restore point's name has 1 to {_MAX_NAME_BYTES} bytes, '{text}' has {length}", value=text
        )
    return text
