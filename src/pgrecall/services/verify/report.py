"""Owns what a verification says: findings by object, the backups and files they cost, and the sums."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pgrecall.domain.label import BackupLabel

MOST_FILES = 1000
"""Files named per finding; the rest is counted."""


class Kind(StrEnum):
    """How much a finding weighs."""

    DAMAGED = "damaged"
    """The object is not what was written."""
    MISSING = "missing"
    """Something that is there needs the object, and it is not there."""
    UNREADABLE = "unreadable"
    """The storage did not hand it over: nothing is known about it."""
    WARNING = "warning"
    """Worth looking at; costs no backup."""
    NOTE = "note"
    """Left alone."""


@dataclass(frozen=True, slots=True)
class LostFile:
    """A file of a backup that cannot be read; offset is the first place, None: all of it. A path that ends in `/`
    stands for every file in the directory."""

    backup: BackupLabel
    path: str
    offset: int | None
    problem: str


@dataclass(slots=True, kw_only=True)
class Flaw:
    """What is wrong with one object. `object` is its name in the cluster, or its key where it belongs to none."""

    kind: Kind
    object: str
    problem: str
    backups: tuple[BackupLabel, ...] = ()
    """Committed backups that need it."""
    files: list[LostFile] = field(default_factory=list)
    lost_files: int = 0
    """How many files that cannot be read because of it; `files` names the first ones."""
    marked: bool = False
    """It carries a bad mark now: the next backup stores its chunks anew."""

    def lose(self, file: LostFile) -> None:
        self.lost_files += 1
        if len(self.files) < MOST_FILES:
            self.files.append(file)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """One backup: `proven_bytes` of its files were assembled or are chunks whose content was hashed; of `unknown_bytes`
    no digest was ever stored; `unread_bytes` lie in objects that the sample left out."""

    label: BackupLabel
    readable: bool
    """Every file can be assembled and all WAL that it needs is there, as far as was looked."""
    files: int
    bytes: int
    proven_bytes: int
    unknown_bytes: int
    unread_bytes: int
    lost_files: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    cluster: str
    repository: str
    sealed: bool
    authentic: bool
    """MACs were checked; else objects are only known to be intact."""
    backup: BackupLabel | None
    """The only one that was looked at."""
    sample: float | None
    objects: int
    """Read and checked."""
    bytes_read: int
    left_out: int
    """Objects that the sample did not choose."""
    bytes_read_again: int
    """For maps, and for ranges that are no single chunk."""
    took: float
    unopened: tuple[str, ...]
    """Objects of which only the hash, or nothing, was checked, because no key for them was given."""
    findings: tuple[Flaw, ...]
    backups: tuple[BackupReport, ...]
    marked: tuple[str, ...]
    """Packs that got a bad mark now."""

    def of(self, *kinds: Kind) -> tuple[Flaw, ...]:
        return tuple(each for each in self.findings if each.kind in kinds)

    @property
    def verdict(self) -> Kind | None:
        """The weightiest thing that was found; None: all is well. A backup that cannot be read is damage, unless the
        storage did not hand over what it needs."""
        kinds = {each.kind for each in self.findings}
        found = next((kind for kind in (Kind.DAMAGED, Kind.MISSING, Kind.UNREADABLE) if kind in kinds), None)
        if found is None and not all(each.readable for each in self.backups):
            return Kind.DAMAGED
        return found or (Kind.WARNING if Kind.WARNING in kinds else None)


class Flaws:
    """Collects findings, one per object. For one thread."""

    def __init__(self) -> None:
        self._by_object: dict[str, Flaw] = {}

    def add(self, kind: Kind, name: str, problem: str, backups: Sequence[BackupLabel] = ()) -> Flaw:
        """The first problem of an object is told; one that weighs more takes its place, and backups add up."""
        found = self._by_object.get(name)
        if found is None:
            found = self._by_object[name] = Flaw(kind=kind, object=name, problem=problem)
        elif list(Kind).index(kind) < list(Kind).index(found.kind):
            found.kind, found.problem = kind, problem
        found.backups = tuple(sorted({*found.backups, *backups}))
        return found

    def get(self, name: str) -> Flaw | None:
        return self._by_object.get(name)

    def all(self) -> tuple[Flaw, ...]:
        """The weightiest first, then by object."""
        order = list(Kind)
        return tuple(sorted(self._by_object.values(), key=lambda each: (order.index(each.kind), each.object)))
