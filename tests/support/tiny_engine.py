"""The least that can be called a backup engine: bytes in, manifest out, page increments against a parent.

The real engine reads disks and asks pages for their LSN; this one is told the old bytes and compares.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import NODE_SIZE, RANGE_SIZE, SMALL_FILE, ChunkRef, nodes_in
from pgrecall.repository.directory_writer import DirectoryFacts
from pgrecall.repository.extents import Extents, Piece, Ranges
from pgrecall.repository.fileblock import FileEntry, StoredFile
from pgrecall.repository.manifest import BackupFacts, Boundary, ClusterFacts, SourceServer
from pgrecall.repository.manifest_reader import ManifestReader, node_span
from pgrecall.repository.manifest_writer import ManifestWriter, WrittenManifest
from pgrecall.repository.node import Node, NodeList, NodeListBuilder
from pgrecall.repository.pack import PackBuilder, PackNumbers
from pgrecall.repository.paths import split
from pgrecall.repository.secrets import Keys
from tests.support.memory import MemoryStorage

PAGE = 8192
FIRST = datetime(2026, 11, 20, 1, 0, 3, tzinfo=UTC)
Tree = Mapping[bytes, bytes]


def make_store(storage: MemoryStorage | None = None, *, sealed: bool = True) -> ClusterStore:
    cluster = bytes(range(16, 32))
    keys = Keys.of_sealed(1, b"d" * 32, b"i" * 32) if sealed else Keys.of_unsealed(cluster, b"m" * 32)
    return ClusterStore(storage or MemoryStorage(), bytes(range(16)), cluster, "main", keys)


def label(number: int, kind: BackupKind = BackupKind.FULL) -> BackupLabel:
    return BackupLabel(FIRST + timedelta(hours=number), kind)


def facts(run: BackupLabel, parent: BackupLabel | None = None) -> BackupFacts:
    point = Boundary(lsn=Lsn(0x3000028), timeline=1, time=run.moment, wal="000000010000000000000003")
    return BackupFacts(
        label=run,
        parent=parent,
        cluster=ClusterFacts(
            system_identifier=7_500_000_000_000_000_001,
            postgres_version="16.4",
            version_num=160004,
            control_version=1300,
            catalog_version=202307071,
            page_size=PAGE,
            relation_segment_pages=131072,
            wal_page_size=8192,
            wal_segment_size=16 << 20,
            checksums=True,
            wal_log_hints=False,
            wal_level="replica",
            max_connections=100,
            max_worker_processes=8,
            max_wal_senders=10,
            max_prepared_transactions=0,
            max_locks_per_transaction=64,
            other={"cluster_name": "main"},
        ),
        server=SourceServer(
            host="db1",
            data_directory="/var/lib/pg",
            device=1 << 60,
            inode=7,
            postmaster_start=run.moment,
            checksum_version=1,
        ),
        start=point,
        stop=point,
        backup_label=b"START WAL LOCATION: 0/3000028\n",
        tablespace_map=b"",
    )


@dataclass
class TinyEngine:
    """Backs up trees of bytes (path → content) into one cluster."""

    store: ClusterStore
    target: int = 1 << 20
    know_digests: bool = True
    describe: Callable[[BackupLabel, BackupLabel | None], BackupFacts] = facts
    written: list[WrittenManifest] = field(default_factory=list)

    def back_up(
        self, run: BackupLabel, tree: Tree, parent: BackupLabel | None = None, old: Tree | None = None
    ) -> WrittenManifest:
        """`old` is what parent holds."""
        reader = ManifestReader.open(self.store, parent) if parent else None
        numbers = PackNumbers()
        data = PackBuilder(self.store, run, numbers, target=self.target)
        maps = ManifestWriter(self.store, run, numbers, parent=reader.manifest if reader else None, target=self.target)
        for path in sorted(_directories(tree)):
            self._directory(path, tree, old or {}, _Run(self, reader, data, maps))
        data.close()
        made = maps.finish(self.describe(run, parent), data.records)
        self.written.append(made)
        return made

    def _directory(self, path: bytes, tree: Tree, old: Tree, run: "_Run") -> None:
        owner = run.maps.principal("postgres")
        directory = run.maps.directory(DirectoryFacts(path, 0o700, owner, owner))
        index = run.parent.index(path) if run.parent else None
        # Last name first: files finish in any order.
        for each in sorted((each for each in tree if split(each)[0] == path), reverse=True):
            name = split(each)[1]
            content = tree[each]
            entry = FileEntry(name, len(content), 0o600, owner, owner, 1, 2, 3)
            before = index.get(name) if index else None
            if len(content) <= SMALL_FILE:
                base = before.extents if before else None
                directory.add_small(entry, run.ranges(content), run.extents(content, base, old.get(each, b"")))
            else:
                nodes = run.nodes(each, content, before, old.get(each, b""))
                directory.add_large(entry, nodes, before.node_list if before else None)
        run.maps.finish_directory(directory)


@dataclass
class _Run:
    engine: TinyEngine
    parent: ManifestReader | None
    data: PackBuilder
    maps: ManifestWriter

    def ranges(self, content: bytes) -> Ranges:
        keys = self.engine.store.scope.keys
        spans = (content[at : at + RANGE_SIZE] for at in range(0, len(content), RANGE_SIZE))
        return Ranges.of(keys.chunk_id(span)[:16] if self.engine.know_digests else None for span in spans)

    def extents(self, content: bytes, base: Extents | None, old: bytes) -> Extents:
        if base is None:
            spans = [(at, content[at : at + RANGE_SIZE]) for at in range(0, len(content), RANGE_SIZE)]
            return Extents.of([(at, len(span), self.chunk(span), 0) for at, span in spans])
        pages = [at for at in range(0, len(content), PAGE) if content[at : at + PAGE] != old[at : at + PAGE]]
        changes: list[Piece] = []
        for first in range(0, len(pages), 16):
            group = [(at, content[at : at + PAGE]) for at in pages[first : first + 16]]
            chunk = self.chunk(b"".join(page for _, page in group))
            changes += [(at, len(page), chunk, place * PAGE) for place, (at, page) in enumerate(group)]
        return base.truncate(len(content)).overlay(changes)

    def nodes(self, path: bytes, content: bytes, before: StoredFile | None, old: bytes) -> NodeList:
        builder = NodeListBuilder(path)
        stored = self.parent.node_list(before) if self.parent and before and before.node_list else None
        for index in range(nodes_in(len(content))):
            start, length = node_span(index, len(content))
            span, before_span = content[start : start + length], old[start : start + NODE_SIZE]
            known = stored.node(index) if stored and index < len(stored) else None
            if stored and known and span == before_span:
                builder.keep(index, stored)
                continue
            base = next(self.parent.nodes(stored, [index])).extents if self.parent and stored and known else None
            extents = self.extents(span, base, before_span)
            pointer = self.maps.put_node(Node(path, start, length, self.ranges(span), extents), known)
            builder.set(index, pointer, extents.packs())
        return builder.build(len(content))

    def chunk(self, raw: bytes) -> ChunkRef | None:
        return self.data.add(raw) if raw.strip(b"\0") else None


def _directories(tree: Tree) -> set[bytes]:
    """Every directory that any file lies in, however deep."""
    found = {b""}
    for path in tree:
        while path := split(path)[0]:
            found.add(path)
    return found


def restore(reader: ManifestReader) -> dict[bytes, bytes]:
    """Every file of a backup, assembled and proven."""
    chunks = reader.chunk_reader()
    tree: dict[bytes, bytes] = {}
    for file in reader.all_files():
        out = bytearray(b"?" * file.entry.size)
        if file.ranges is not None and file.extents is not None:
            chunks.assemble(file.extents, file.ranges, file.path, memoryview(out))
        else:
            for node in reader.nodes(reader.node_list(file)):
                view = memoryview(out)[node.offset : node.offset + node.length]
                chunks.assemble(node.extents, node.ranges, file.path, view, node.offset)
        tree[file.path] = bytes(out)
    return tree
