"""Owns how sizes, durations and moments are written for people, and read from them."""

import re
from datetime import UTC, datetime, timedelta, tzinfo

from pgrecall.errors import ValueInvalid

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtpe", 1):
    _UNITS[_letter] = _UNITS[f"{_letter}ib"] = 1024**_power
    _UNITS[f"{_letter}b"] = 1000**_power

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([a-z]*)\Z", re.ASCII | re.IGNORECASE)
_DURATION_PART = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|min|m|h|d|w)", re.ASCII | re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def format_bytes(count: int) -> str:
    """`212 MiB`, `41.0 GiB`, `9.8 MiB`: one decimal from GiB on and below 10 MiB."""
    if abs(count) < 1024:
        return f"{count} B"
    value, power = float(count), 0
    while abs(value) >= 1023.5 and power < len(_BINARY) - 1:
        value /= 1024
        power += 1
    decimals = 1 if power >= 3 or (power == 2 and abs(value) < 9.95) else 0
    return f"{value:.{decimals}f} {_BINARY[power]}"


def format_duration(seconds: float) -> str:
    """`0:38`, `4:10`, `1:02:03`, `2 d 3:04:05`: rounded to whole seconds."""
    whole = round(abs(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return ("-" if seconds < 0 and whole else "") + (f"{days} d " if days else "") + text


def format_time(moment: datetime, zone: tzinfo = UTC) -> str:
    """`2026-11-20 14:05:00+01:00`: always with its zone, fractions only where there are some."""
    assert moment.tzinfo is not None, "a moment without a zone is no moment"
    return moment.astimezone(zone).isoformat(sep=" ")


def parse_bytes(text: str) -> int:
    """`300MB` (decimal), `1GiB`, `64k`, `1024` (binary where PostgreSQL and people mean it: a letter alone)."""
    match = _SIZE.match(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueInvalid(f"'{text}' is no size", hint='Write it like "300MB" or "1GiB".', value=text)
    whole, _, fraction = match[1].partition(".")
    scaled = int(whole + fraction) * unit
    return scaled // int("1" + "0" * len(fraction))


def parse_duration(text: str) -> timedelta:
    """`30s`, `10m`, `1h30m`, `30d`, `2w`, `500ms`."""
    compact = text.strip()
    parts = _DURATION_PART.findall(compact)
    if not parts or _DURATION_PART.sub("", compact).strip():
        raise ValueInvalid(f"'{text}' is no duration", hint='Write it like "30s", "10m", "1h30m" or "30d".', value=text)
    try:
        return timedelta(seconds=sum(float(count) * _SECONDS[unit.lower()] for count, unit in parts))
    except OverflowError:
        raise ValueInvalid(f"'{text}' is too long a duration", value=text) from None
