"""Owns what one worker does with a unit: open, read, check pages, store what is new."""

import os
from dataclasses import dataclass
from pathlib import Path

from pgrecall.clock import Clock
from pgrecall.domain.lsn import Lsn
from pgrecall.observe.reporter import Reporter
from pgrecall.postgres.filestat import birth_ns
from pgrecall.postgres.listing import FileItem, FileKind, join
from pgrecall.postgres.page import CHANGED
from pgrecall.postgres.relation import RelationFile, parse_relation_path
from pgrecall.repository.columns import NODE_SIZE, SMALL_FILE, PackRef
from pgrecall.repository.directory_writer import DirectoryWriter
from pgrecall.repository.fileblock import FileEntry
from pgrecall.repository.manifest_reader import DirectoryIndex
from pgrecall.repository.manifest_writer import ManifestWriter
from pgrecall.repository.node import Node, NodeList, NodeListBuilder
from pgrecall.repository.pack import PackBuilder
from pgrecall.services.backup.damage import SuspectPages
from pgrecall.services.backup.earlier import EarlierFiles, is_same_file
from pgrecall.services.backup.parent import Trust
from pgrecall.services.backup.principals import Principals
from pgrecall.services.backup.reading import Flags, PageReader, open_data_file, read_filenode_map_again, read_fully
from pgrecall.services.backup.spans import KnownContents, OpenSpan, ParentSpan, SpanStore
from pgrecall.services.backup.units import BatchUnit, LargeFile, NodeUnit, Unit

BATCH_SPACE = NODE_SIZE


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """What is the same for every unit of a run."""

    pgdata: Path
    id_key: bytes
    page_size: int
    relation_segment_pages: int
    checksums: bool
    parent_start: Lsn
    """Pages with this LSN or a newer one may have changed since the parent."""
    trust: Trust
    bad_packs: frozenset[PackRef]


@dataclass(frozen=True, slots=True)
class Shared:
    """What all workers of a run share."""

    facts: CopyFacts
    manifest: ManifestWriter
    principals: Principals
    earlier: EarlierFiles | None
    suspects: SuspectPages
    known: KnownContents
    reporter: Reporter
    clock: Clock


class Worker:
    """One thread's work: it owns a pack, 16 MiB of memory to read into, and nothing else."""

    def __init__(self, shared: Shared, builder: PackBuilder) -> None:
        facts = shared.facts
        self._shared = shared
        self._facts = facts
        self.builder = builder
        self._memory = memoryview(bytearray(BATCH_SPACE))
        self._store = SpanStore(
            builder, facts.id_key, page_size=facts.page_size, bad_packs=facts.bad_packs, known=shared.known
        )
        self._pages = PageReader(
            page_size=facts.page_size,
            relation_segment_pages=facts.relation_segment_pages,
            checksums=facts.checksums,
            since=facts.parent_start,
            suspects=shared.suspects,
            clock=shared.clock,
        )
        self.counts = self._store.counts
        self.vanished = 0

    def do(self, unit: Unit, index: DirectoryIndex | None) -> None:
        """index: the parent's files of the unit's directory."""
        if isinstance(unit, NodeUnit):
            self._node(unit, index)
        else:
            self._batch(unit, index)

    # large files ----------------------------------------------------------------------------------------------------
    def _node(self, unit: NodeUnit, index: DirectoryIndex | None) -> None:
        file = unit.file
        fd = None if file.vanished else self._open(file.path, file.item)
        if fd is None:
            file.vanished = True
        else:
            try:
                self._store_node(unit, fd, index)
            finally:
                os.close(fd)
        self._shared.reporter.advance(unit.length)
        with file.lock:
            file.left -= 1
            last = file.left == 0
        if last:
            self._finish_large(file)

    def _store_node(self, unit: NodeUnit, fd: int, index: DirectoryIndex | None) -> None:
        file = unit.file
        earlier = self._shared.earlier
        parent = None
        with file.lock:
            if file.entry is None:
                file.entry = self._entry(fd, file.item, file.item.size)
            if earlier is not None and index is not None:
                earlier.look_up(file, index)
                parent = earlier.node_span(file, unit.index)
        data = self._memory[: unit.length]
        relation = parse_relation_path(file.path) if _is_relation(file.item) else None
        flags = self._read(fd, data, unit.offset, file.path, relation)
        span = self._span(data, parent, file.parent_entry, file.entry, file.path, unit.offset, relation, flags)
        self._store.flush()
        result = span.result()
        with file.lock:
            if result.unchanged and file.parent_list is not None and self._is_sound(file.parent_list, unit.index):
                file.nodes.keep(unit.index, file.parent_list)
                return
        node = Node(file.path, unit.offset, unit.length, result.ranges, result.extents)
        pointer = self._shared.manifest.put_node(node)
        with file.lock:
            file.nodes.set(unit.index, pointer, result.extents.packs())

    def _is_sound(self, nodes: NodeList, index: int) -> bool:
        """Whether a node of the parent lies in a pack that nobody found damaged."""
        return nodes.node(index).pack_ref not in self._facts.bad_packs

    def _finish_large(self, file: LargeFile) -> None:
        if file.vanished:
            self.vanished += 1
            return
        assert file.entry is not None
        file.writer.add_large(file.entry, file.nodes.build(file.item.size), file.parent_pointer)

    # small files ----------------------------------------------------------------------------------------------------
    def _batch(self, unit: BatchUnit, index: DirectoryIndex | None) -> None:
        used = 0
        done: list[tuple[FileEntry, OpenSpan]] = []
        for item in unit.items:
            if used + SMALL_FILE > len(self._memory):
                self._finish_batch(unit, done)
                used, done = 0, []
            path = join(unit.writer.facts.path, item.name)
            fd = self._open(path, item)
            if fd is None:
                self.vanished += 1
            else:
                try:
                    entry, span = self._small(fd, path, item, used, index)
                finally:
                    os.close(fd)
                done.append((entry, span))
                used += entry.size
            self._shared.reporter.advance(item.size)
        self._finish_batch(unit, done)

    def _finish_batch(self, unit: BatchUnit, done: list[tuple[FileEntry, OpenSpan]]) -> None:
        self._store.flush()
        for entry, span in done:
            result = span.result()
            unit.writer.add_small(entry, result.ranges, result.extents)

    def _small(
        self, fd: int, path: bytes, item: FileItem, used: int, index: DirectoryIndex | None
    ) -> tuple[FileEntry, OpenSpan]:
        """A file that has grown beyond 1 MiB since it was listed is taken as far as it was listed."""
        size = os.fstat(fd).st_size
        limit = size if size <= SMALL_FILE else item.size
        data = self._memory[used : used + limit]
        relation = parse_relation_path(path) if _is_relation(item) else None
        length = read_fully(fd, data, 0, path)
        if item.kind is FileKind.FILENODE_MAP:
            length = read_filenode_map_again(fd, data, length, path, self._shared.clock)
        data = data[:length]
        flags = None
        if relation is not None:
            flags = self._pages.flags_of(fd, data, 0, path=path, relation=relation)
        entry = self._entry(fd, item, length)
        stored = index.get(item.name) if index is not None else None
        parent = None
        if stored is not None and self._shared.earlier is not None:
            parent = self._shared.earlier.small_file_span(stored)
        earlier_entry = stored.entry if stored is not None else None
        return entry, self._span(data, parent, earlier_entry, entry, path, 0, relation, flags)

    def store_bytes(self, writer: DirectoryWriter, item: FileItem, content: bytes) -> None:
        """A file whose content was read by other means; always stored whole."""
        entry = self._file_entry(item, len(content), 0)
        if len(content) > SMALL_FILE:
            writer.add_large(entry, self._nodes_of(join(writer.facts.path, item.name), content))
            return
        span = self._store.store_whole(memoryview(content))
        self._store.flush()
        result = span.result()
        writer.add_small(entry, result.ranges, result.extents)

    def _nodes_of(self, path: bytes, content: bytes) -> NodeList:
        nodes = NodeListBuilder(path)
        for index, offset in enumerate(range(0, len(content), NODE_SIZE)):
            data = memoryview(content)[offset : offset + NODE_SIZE]
            span = self._store.store_whole(data)
            self._store.flush()
            result = span.result()
            node = Node(path, offset, len(data), result.ranges, result.extents)
            nodes.set(index, self._shared.manifest.put_node(node), result.extents.packs())
        return nodes.build(len(content))

    # both -----------------------------------------------------------------------------------------------------------
    def _open(self, path: bytes, item: FileItem) -> int | None:
        return open_data_file(self._facts.pgdata, path, follow=item.kind is FileKind.LINKED)

    def _read(self, fd: int, data: memoryview, offset: int, path: bytes, relation: RelationFile | None) -> Flags | None:
        """Fill data; what was cut off since the listing becomes zeros, which replay cuts off again."""
        length = read_fully(fd, data, offset, path)
        if length < len(data):
            data[length:] = bytes(len(data) - length)
        if relation is None:
            return None
        return self._pages.flags_of(fd, data, offset, path=path, relation=relation)

    def _span(
        self,
        data: memoryview,
        parent: ParentSpan | None,
        earlier: FileEntry | None,
        entry: FileEntry,
        path: bytes,
        offset: int,
        relation: RelationFile | None,
        flags: Flags | None,
    ) -> OpenSpan:
        if parent is None or earlier is None:
            return self._store.store_whole(data)
        trusted = (
            self._facts.trust.page_lsn
            and relation is not None
            and relation.page_increments
            and is_same_file(earlier, inode=entry.inode, birth=entry.birth)
        )
        if trusted and flags is not None and relation is not None and relation.segment == 0 and offset == 0:
            # SP-GiST writes its metapage, block 0, without WAL and a new LSN (spgutils.c: SpGistUpdateMetaPage).
            flags[:1] |= CHANGED
        return self._store.store_changed(
            data, parent, path=os.fsdecode(path), offset=offset, flags=flags if trusted else None
        )

    def _entry(self, fd: int, item: FileItem, size: int) -> FileEntry:
        return self._file_entry(item, size, birth_ns(fd))

    def _file_entry(self, item: FileItem, size: int, birth: int) -> FileEntry:
        principals = self._shared.principals
        return FileEntry(
            item.name,
            size,
            item.mode,
            principals.user(item.uid),
            principals.group(item.gid),
            item.mtime_ns,
            birth,
            item.inode,
        )


def _is_relation(item: FileItem) -> bool:
    return item.kind in (FileKind.RELATION_MAIN, FileKind.RELATION_OTHER)
