"""Owns the choice of the parent: which earlier backup this run compares with, and how far page LSNs can be trusted.

Pure rules: a wrong parent, or a trusted LSN that proves nothing, restores wrong rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pgrecall.domain.label import BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History


@dataclass(frozen=True, slots=True)
class Candidate:
    """An earlier backup, as far as the choice needs it."""

    label: BackupLabel
    complete: bool
    system_identifier: int
    timeline: int
    stop_lsn: Lsn


@dataclass(frozen=True, slots=True)
class ParentChoice:
    parent: BackupLabel | None
    reasons: tuple[str, ...]
    """Why this one, and why none of the newer ones."""


def choose_parent(
    candidates: Sequence[Candidate], *, system_identifier: int, history: History, start_lsn: Lsn
) -> ParentChoice:
    """The newest backup whose pages all belong to our own past.

    candidates come oldest first; history is that of the timeline on which the new backup starts.
    """
    reasons: list[str] = []
    for candidate in reversed(candidates):
        refusal = _why_not(candidate, system_identifier=system_identifier, history=history, start_lsn=start_lsn)
        if refusal is None:
            return ParentChoice(candidate.label, (*reasons, f"{candidate.label} is the newest usable backup"))
        reasons.append(f"{candidate.label} {refusal}")
    return ParentChoice(None, tuple(reasons) or ("there is no earlier backup",))


def _why_not(candidate: Candidate, *, system_identifier: int, history: History, start_lsn: Lsn) -> str | None:
    if not candidate.complete:
        return "is not complete"
    if candidate.system_identifier != system_identifier:
        return f"is of system {candidate.system_identifier}, this is {system_identifier}"
    if candidate.stop_lsn > start_lsn:
        return f"ends at {candidate.stop_lsn}, after our start at {start_lsn}"
    if candidate.timeline == history.timeline:
        return None
    switch = history.switch_point(candidate.timeline)
    if switch is None:
        return f"is on timeline {candidate.timeline}, which is not in the past of timeline {history.timeline}"
    if candidate.stop_lsn > switch:
        return f"ends at {candidate.stop_lsn}, after our history left timeline {candidate.timeline} at {switch}"
    return None


@dataclass(frozen=True, slots=True)
class Trust:
    """Whether a page's old LSN proves that the page is unchanged since the parent's start."""

    page_lsn: bool
    reason: str


def judge_trust(*, same_server: bool, difference: str | None, checksums_then: bool, checksums_now: bool) -> Trust:
    """LSNs are trusted only over one uninterrupted run of one server with page checksums; else content decides.

    difference names what makes this another server (identity of rule 5), None when same_server.
    """
    if not same_server:
        return Trust(False, f"content compared, page LSNs not trusted: {difference}")
    if not (checksums_then and checksums_now):
        return Trust(False, "content compared, page LSNs not trusted: page checksums were not on all the time")
    return Trust(True, "page LSNs show what changed inside a range")
