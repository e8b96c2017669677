"""Times as people here read them: which zone this terminal lives in, and short forms of a moment in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LOCALTIME = Path("/etc/localtime")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Zone:
    """A zone and the moment of this call, for texts relative to it."""

    zone: tzinfo
    name: str
    now: datetime

    @classmethod
    def of(cls, environ: Mapping[str, str], now: datetime) -> Zone:
        """The zone of TZ, else of /etc/localtime, else UTC."""
        name = environ.get("TZ", "").removeprefix(":")
        if not name and LOCALTIME.is_symlink():
            name = str(LOCALTIME.readlink()).partition("zoneinfo/")[2]
        try:
            return cls(ZoneInfo(name), name, now) if name else cls(UTC, "UTC", now)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return cls(UTC, "UTC", now)

    def title(self) -> str:
        """`times in Europe/Berlin (+01:00)`"""
        offset = self.now.astimezone(self.zone).isoformat()[-6:]
        return f"times in {self.name}" if self.name == "UTC" else f"times in {self.name} ({offset})"

    def short(self, moment: datetime) -> str:
        """`20 Nov 02:00:41`; with the year when it is another one."""
        here, now = moment.astimezone(self.zone), self.now.astimezone(self.zone)
        year = "" if here.year == now.year else f" {here.year}"
        return f"{here.day} {MONTHS[here.month - 1]}{year} {here:%H:%M:%S}"

    def full(self, moment: datetime) -> str:
        """`2026-11-20 02:00:41+01:00`, without fractions."""
        return moment.astimezone(self.zone).replace(microsecond=0).isoformat(sep=" ")

    def ago(self, moment: datetime) -> str:
        """`7 s ago`, `13 h ago`"""
        return f"{rough(max((self.now - moment).total_seconds(), 0))} ago"


def rough(seconds: float) -> str:
    """A duration in its largest sensible unit: `7 s`, `89 min`, `13 h`, `12 d`."""
    for limit, unit, divisor in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{int(seconds / divisor)} {unit}"
    return f"{int(seconds / 86400)} d"
