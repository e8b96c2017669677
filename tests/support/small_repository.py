"""A small repository with an object of every type, in memory: what a damage campaign needs."""

import random
from dataclasses import dataclass, replace
from datetime import timedelta

from pgrecall.clock import ManualClock
from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History, HistoryEntry
from pgrecall.domain.wal import WalSegment, history_name
from pgrecall.postgres.walscan import scan_segment
from pgrecall.repository.catalog import Catalog
from pgrecall.repository.cluster import ClusterStore, SystemIdentity
from pgrecall.repository.commit import CommitDetails
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import bad_mark_name, owner_name, wal_name
from pgrecall.repository.manifest import BackupFacts, Boundary
from pgrecall.repository.repository import CreatedRepository, HostKey, Repository, RootKey
from pgrecall.services.archive.segment import build_segment
from pgrecall.services.backup.committing import make_commit
from tests.support.memory import MemoryStorage
from tests.support.tiny_engine import FIRST, PAGE, TinyEngine, Tree, facts
from tests.support.walbuilder import SYSTEM, WalBuilder

SEGMENT = 1 << 20
START = 0x3_0000_0000
TOKEN = "ab" * 32
Objects = dict[str, bytes]


@dataclass(frozen=True)
class SmallRepository:
    """objects: every stored object by key; trees: what each backup should give back."""

    objects: Objects
    host_key: HostKey
    root: RootKey | None
    secrets: tuple[str, ...]
    trees: dict[BackupLabel, Tree]

    def storage(self) -> MemoryStorage:
        """A copy to spoil."""
        made = MemoryStorage()
        made.objects = dict(self.objects)
        return made

    def store(self, storage: MemoryStorage) -> ClusterStore:
        return ClusterStore.from_host_key(storage, self.host_key)


def build(*, sealed: bool = True, seed: int = 1) -> SmallRepository:
    """Three backups of one tree that changes (each compares with the one before, the third knows no digests), WAL of
    two timelines, a fork, and a bad mark for a pack of a run that was killed."""
    clock = ManualClock(FIRST)
    storage = MemoryStorage()
    created: CreatedRepository = Repository.create(storage, sealed=sealed, clock=clock)
    system = SystemIdentity(SYSTEM, 180001, clock.now())
    host_key = created.repository.add_cluster("main", created.root, systems=[system])
    store = ClusterStore.from_host_key(storage, host_key)
    _archive(store)
    dice = random.Random(seed)
    trees: dict[BackupLabel, Tree] = {}
    tree: dict[bytes, bytes] = {
        b"PG_VERSION": b"18\n",
        b"global/pg_control": dice.randbytes(PAGE),
        b"base/5/1259": dice.randbytes(3 * PAGE),
        b"base/5/1259_fsm": b"",
        b"base/5/16384": dice.randbytes(20 * PAGE),
        b"base/5/16400": dice.randbytes(160 * PAGE),
        b"base/5/zeros": bytes(40 * PAGE),
    }
    parent: BackupLabel | None = None
    for number, kind in enumerate((BackupKind.FULL, BackupKind.INCR, BackupKind.INCR)):
        old = dict(tree)
        if number:
            tree[b"base/5/1259"] = dice.randbytes(4 * PAGE)
            tree[b"base/5/16400"] = _with_changed_pages(tree[b"base/5/16400"], dice)
        label = _back_up(store, kind, tree, parent, old, know_digests=number != 2)
        trees[label] = dict(tree)
        parent = label
    _killed_run(store)
    secrets = tuple(each for each in (created.identity, created.passphrase) if each)
    return SmallRepository(dict(storage.objects), host_key, created.root, secrets, trees)


def _with_changed_pages(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    for page in (3, 4, 70):
        changed[page * PAGE : (page + 1) * PAGE] = dice.randbytes(PAGE)
    return bytes(changed)


def _back_up(
    store: ClusterStore, kind: BackupKind, tree: Tree, parent: BackupLabel | None, old: Tree, *, know_digests: bool
) -> BackupLabel:
    catalog = Catalog(store)
    parents = [parent] if parent else []
    label = store.claim_label(kind, FIRST + timedelta(hours=len(catalog.backups())), "db1", b"token", parents=parents)
    engine = TinyEngine(store, target=400_000, know_digests=know_digests, describe=describe)
    made = engine.back_up(label, tree, parent, old if parent else None)
    catalog.commit(
        make_commit(made.manifest, made.hash, made.live, made.stored, catalog), CommitDetails(host="db1", took=7)
    )
    return label


def describe(run: BackupLabel, parent: BackupLabel | None) -> BackupFacts:
    """From the middle of the first segment to the middle of the second."""
    plain = facts(run, parent)
    cluster = replace(plain.cluster, system_identifier=SYSTEM, wal_segment_size=SEGMENT)
    names = [WalSegment(1, START // SEGMENT + number).name(SEGMENT) for number in (0, 1)]
    start, stop = (
        Boundary(lsn=Lsn(START + place), timeline=1, time=run.moment, wal=name, archived=number == 1)
        for number, (place, name) in enumerate(zip((SEGMENT // 2, 3 * SEGMENT // 2), names, strict=True))
    )
    return replace(plain, cluster=cluster, start=start, stop=stop)


def _killed_run(store: ClusterStore) -> None:
    """A claim and a pack of a run that never ended; somebody found the pack damaged, so that it carries a mark."""
    label = store.claim_label(BackupKind.INCR, FIRST + timedelta(hours=9), "db1", b"token")
    clear = {"at": "2026-11-20T10:00:00Z", "reason": "verify: damaged", "chunks": []}
    store.put(ObjectType.BAD_MARK, bad_mark_name(label, 1), clear=clear)


def wal_segments(count: int) -> list[bytes]:
    """Segments that follow one another, every page full."""
    made, last = [], START - 0x100
    for number in range(count):
        wal = WalBuilder(start=START + number * SEGMENT, page_size=PAGE, segment_size=SEGMENT, last=last)
        for _ in range(SEGMENT // PAGE):
            wal.fill_page()
        last = wal.last
        made.append(wal.take(SEGMENT // PAGE))
    return made


def _archive(store: ClusterStore) -> None:
    segments = wal_segments(4)
    switch = Lsn(START + 3 * SEGMENT + SEGMENT // 2)
    for number, raw in enumerate(segments):
        _put_segment(store, raw, number, timeline=1)
    _put_segment(store, segments[3], 3, timeline=2)
    _put_segment(store, segments[2], 2, timeline=1, fork="cdcdcdcd")
    history = History(2, (HistoryEntry(1, switch, "no recovery target specified"),)).to_text().encode()
    name = wal_name(SYSTEM, history_name(2))
    store.put(ObjectType.HISTORY, name, clear={"timeline": 2}, frames=[history])
    for timeline in (1, 2):
        clear = {"token_hash": TOKEN, "host": "db1", "at": "2026-11-20T01:00:00+00:00"}
        store.put(ObjectType.OWNER, owner_name(SYSTEM, timeline), clear=clear)


def _put_segment(store: ClusterStore, raw: bytes, number: int, *, timeline: int, fork: str | None = None) -> None:
    segment = WalSegment(timeline, START // SEGMENT + number)
    file = segment.name(SEGMENT)
    name = wal_name(SYSTEM, file, fork=fork)
    found = scan_segment(raw, segment_start=segment.start(SEGMENT))
    data, _ = build_segment(
        store.scope, name, raw, file=file, timeline=timeline, system_identifier=SYSTEM, facts=found, writer=TOKEN[:8]
    )
    store.put_built(name, data)
