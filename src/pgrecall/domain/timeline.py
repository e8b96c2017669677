"""Owns timelines: histories, what lies on the way to a timeline, and which file brings which segment."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.wal import WalSegment
from pgrecall.errors import ValueInvalid

_LINE = re.compile(r"\s*(\d{1,10})\s+([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})(?:\s+(.*))?\Z", re.ASCII | re.DOTALL)


class HistoryEntry(NamedTuple):
    """The history left `timeline` at `switch`: the first position that is no longer of it."""

    timeline: int
    switch: Lsn
    reason: str = ""


class TimelineRange(NamedTuple):
    """The part `[begin, end)` of a timeline that a history uses; end None = open."""

    timeline: int
    begin: Lsn
    end: Lsn | None


@dataclass(frozen=True)
class History:
    """The ancestors of a timeline, oldest first: what a `.history` file says (PostgreSQL: access/transam/timeline.c).

    Switch positions need not grow: recovery to timeline 2 that stops before 2 began writes "1 at X, 2 at Z", Z < X.
    As in tliOfPointInHistory, the newest timeline that began at or before a position owns it.
    """

    timeline: int
    entries: tuple[HistoryEntry, ...] = ()

    @classmethod
    def root(cls, timeline: int) -> Self:
        """A timeline without ancestors: timeline 1 of a new cluster, or the first one that is known."""
        return cls(timeline, ())

    @classmethod
    def parse(cls, text: str, timeline: int) -> Self:
        """As readTimeLineHistory: blank lines and comments are skipped, timelines grow and end below the file's own."""
        entries: list[HistoryEntry] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.match(line)
            if match is None:
                raise ValueInvalid(
                    f"line {number} of the history of timeline {timeline} cannot be read: '{line[:100]}'"
                )
            ancestor = int(match[1])
            if not (entries[-1].timeline if entries else 0) < ancestor < timeline:
                raise ValueInvalid(
                    f"line {number} of the history of timeline {timeline} names timeline {ancestor} out of order"
                )
            entries.append(HistoryEntry(ancestor, Lsn(int(match[2], 16) << 32 | int(match[3], 16)), match[4] or ""))
        return cls(timeline, tuple(entries))

    def to_text(self) -> str:
        return "".join(f"{entry.timeline}\t{entry.switch}\t{entry.reason}\n" for entry in self.entries)

    @cached_property
    def ranges(self) -> tuple[TimelineRange, ...]:
        """The parts that are used, oldest first, without holes; a timeline left before it began is not among them."""
        found: list[TimelineRange] = []
        end: Lsn | None = None
        for index in range(len(self.entries), -1, -1):
            timeline = self.entries[index].timeline if index < len(self.entries) else self.timeline
            begin = self.entries[index - 1].switch if index else Lsn(0)
            if end is None or begin < end:
                found.append(TimelineRange(timeline, begin, end))
                end = begin
        return tuple(reversed(found))

    def path(self) -> list[int]:
        """All timelines of the history, oldest first, its own last."""
        return [*(entry.timeline for entry in self.entries), self.timeline]

    def switch_point(self, timeline: int) -> Lsn | None:
        """Where this history leaves that timeline; None for its own (never left) and for one it never was on."""
        for index, entry in enumerate(self.entries):
            if entry.timeline == timeline:
                return min(later.switch for later in self.entries[index:])
        return None

    def timeline_at(self, lsn: int) -> int:
        """The timeline that the byte at lsn belongs to."""
        return next(part.timeline for part in reversed(self.ranges) if part.begin <= lsn)

    def contains(self, timeline: int, lsn: int) -> bool:
        """Whether a server on `timeline` that had written everything before lsn is on this history.

        True at the switch position itself: nothing of the abandoned branch has been written there yet.
        """
        if timeline not in self.path():
            return False
        switch = self.switch_point(timeline)
        begin = next((part.begin for part in self.ranges if part.timeline == timeline), None)
        if begin is None:
            return False
        return begin <= lsn and (switch is None or lsn <= switch)

    def segment(self, number: int, size: int) -> WalSegment:
        """The file that recovery along this history must read for a segment number (XLogFileReadAnyTLI).

        The segment that holds a switch comes from the child, which begins it with a copy of the parent's part.
        """
        return next(WalSegment(part.timeline, number) for part in reversed(self.ranges) if part.begin // size <= number)

    def segments(self, start_timeline: int, start: Lsn, stop: Lsn, size: int) -> list[WalSegment]:
        """The files that bring `[start, stop)`, in order, for a start that lies on start_timeline."""
        assert start <= stop, f"a range runs forward, not from {start} to {stop}"
        if not self.contains(start_timeline, start):
            raise ValueInvalid(f"{start} on timeline {start_timeline} is not on the way to timeline {self.timeline}")
        return [self.segment(number, size) for number in range(start // size, (stop - 1) // size + 1)]

    def is_before(self, other: "History") -> bool:
        """Whether the other history passes through this timeline as this history describes it."""
        if other.timeline == self.timeline:
            return _places(other.entries) == _places(self.entries)
        upto = [index for index, entry in enumerate(other.entries) if entry.timeline == self.timeline]
        return bool(upto) and _places(other.entries[: upto[0]]) == _places(self.entries)


def _places(entries: tuple[HistoryEntry, ...]) -> list[tuple[int, Lsn]]:
    return [(entry.timeline, entry.switch) for entry in entries]
