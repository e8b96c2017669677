"""Owns the one pass over all objects of a cluster: each is read once, checked for itself, and its facts are kept."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pgrecall.domain.window import StoredSegment
from pgrecall.errors import FormatUnknown, ObjectMissing, PgrecallError, StorageError
from pgrecall.observe.reporter import Reporter
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.header import ObjectType
from pgrecall.repository.keyring import RootKey
from pgrecall.services.crew import in_parallel
from pgrecall.services.verify.chunkfacts import ChunkFacts
from pgrecall.services.verify.memory import MemoryBudget
from pgrecall.services.verify.objects import Checked, check, kind_of, pack_of
from pgrecall.services.verify.report import Flaws, Kind
from pgrecall.storage.base import ObjectInfo

MEMORY_BYTES = 256 * 1024 * 1024
"""Of objects in memory at once, whatever the number of threads; one larger than that is read alone."""
MOST_FAILURES = 50
"""Objects in a row that the storage does not hand over: then it is the storage, not the objects."""
SAMPLED = frozenset({ObjectType.PACK, ObjectType.WAL})


@dataclass
class Swept:
    """What the pass saw. `names` is everything listed that is of this format, `sizes` of each."""

    sizes: dict[str, int] = field(default_factory=dict)
    chunks: ChunkFacts = field(default_factory=ChunkFacts)
    segments: dict[str, StoredSegment] = field(default_factory=dict)
    """Facts of whole segments, by name."""
    segment_sizes: dict[str, int] = field(default_factory=dict)
    """Raw size of each of these."""
    unsound: dict[str, str] = field(default_factory=dict)
    """Names of objects that are damaged or were not handed over, with the problem."""
    left_out: set[str] = field(default_factory=set)
    unopened: list[str] = field(default_factory=list)
    objects: int = 0
    bytes_read: int = 0

    def has(self, name: str) -> bool:
        return name in self.sizes

    def is_sound(self, name: str) -> bool:
        """Read and right, or left out by the sample."""
        return name in self.sizes and name not in self.unsound


def sweep(
    store: ClusterStore,
    listed: Sequence[ObjectInfo],
    findings: Flaws,
    *,
    chosen: Callable[[str, ObjectType], bool],
    root: RootKey | None,
    jobs: int,
    reporter: Reporter,
) -> Swept:
    """Read and check every listed object that `chosen` wants. Names are relative to the cluster."""
    swept = Swept()
    wanted: list[tuple[ObjectInfo, ObjectType]] = []
    for info in listed:
        kind = kind_of(info.key)
        if kind is None:
            findings.add(Kind.NOTE, info.key, "left alone: it belongs to a later version or to somebody else")
            continue
        swept.sizes[info.key] = info.size
        if chosen(info.key, kind):
            wanted.append((info, kind))
        else:
            swept.left_out.add(info.key)
    reporter.stage("read objects", sum(info.size for info, _ in wanted))
    pass_ = _Pass(store, swept, findings, root, reporter)
    in_parallel(iter(wanted), pass_.work, jobs)
    return swept


class _Pass:
    def __init__(
        self, store: ClusterStore, swept: Swept, findings: Flaws, root: RootKey | None, reporter: Reporter
    ) -> None:
        self._store = store
        self._swept = swept
        self._findings = findings
        self._root = root
        self._reporter = reporter
        self._memory = MemoryBudget(MEMORY_BYTES)
        self._lock = threading.Lock()
        self._failures = 0

    def work(self, units: Iterator[tuple[ObjectInfo, ObjectType]]) -> None:
        for info, kind in units:
            with self._memory.reserved(min(info.size, kind.max_size)):
                self._one(info, kind)
            self._reporter.advance(info.size)

    def _one(self, info: ObjectInfo, kind: ObjectType) -> None:
        try:
            self._note(self._check(info.key, kind), info.size)
        except FormatUnknown as error:
            self._finding(Kind.WARNING, info.key, error, unsound=False)
        except ObjectMissing:
            # Removed since it was listed; whoever needs it will miss it.
            with self._lock:
                self._swept.sizes.pop(info.key, None)
        except StorageError as error:
            self._finding(Kind.UNREADABLE, info.key, error)
            self._count_failure(error)
        except PgrecallError as error:
            self._check_again(info, kind, error)

    def _check(self, name: str, kind: ObjectType) -> Checked:
        data = self._store.storage.get(self._store.key(name), limit=kind.max_size)
        return check(self._store, name, kind, data, self._root)

    def _check_again(self, info: ObjectInfo, kind: ObjectType, error: PgrecallError) -> None:
        """Read it once more before the worst is said of it."""
        try:
            checked = self._check(info.key, kind)
        except PgrecallError:
            self._finding(Kind.DAMAGED, info.key, error)
            return
        self._note(checked, info.size)
        with self._lock:
            text = "was read wrongly once, then rightly: look after memory, cable, disk or network"
            self._findings.add(Kind.WARNING, info.key, text)

    def _note(self, checked: Checked, size: int) -> None:
        swept = self._swept
        with self._lock:
            self._failures = 0
            swept.objects += 1
            swept.bytes_read += size
            if checked.segment is not None:
                swept.segments[checked.name] = checked.segment
                swept.segment_sizes[checked.name] = checked.segment_size
            if not checked.opened:
                swept.unopened.append(checked.name)
        pack = pack_of(checked.name)
        if checked.pack is not None and pack is not None:
            swept.chunks.add(pack, checked.pack)

    def _finding(self, kind: Kind, name: str, error: PgrecallError, *, unsound: bool = True) -> None:
        with self._lock:
            self._swept.objects += 1
            self._swept.bytes_read += self._swept.sizes.get(name, 0)
            self._findings.add(kind, name, told(name, error))
            if unsound:
                self._swept.unsound[name] = error.message

    def _count_failure(self, error: StorageError) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise error


def told(name: str, error: PgrecallError) -> str:
    """The error's message without the name of the object that it begins with."""
    text = error.message.removeprefix(name).lstrip(" :")
    return text if text else error.message


def packs_in(names: Iterable[str]) -> Iterator[PackRef]:
    """The packs among names."""
    for name in names:
        if kind_of(name) is ObjectType.PACK and (pack := pack_of(name)) is not None:
            yield pack
