"""Owns cutting a listing into units of work: nodes (16 MiB) of large files, batches of small ones."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock

from pgrecall.postgres.listing import DirectoryItem, FileItem, join
from pgrecall.repository.columns import NODE_SIZE, SMALL_FILE, ChunkRef
from pgrecall.repository.directory_writer import DirectoryWriter
from pgrecall.repository.fileblock import FileEntry
from pgrecall.repository.node import NodeList, NodeListBuilder
from pgrecall.services.backup.spans import ParentSpan

BATCH_BYTES = 4 * 1024 * 1024
BATCH_FILES = 256


@dataclass(slots=True)
class LargeFile:
    """A file of more than 1 MiB while its nodes are read, by any worker in any order.

    Its size is the one listed: what is appended later is replayed from WAL, what is cut off meanwhile is zeros until
    replay cuts it, too.
    """

    writer: DirectoryWriter
    path: bytes
    item: FileItem
    nodes: NodeListBuilder
    left: int
    lock: Lock = field(default_factory=Lock)
    vanished: bool = False
    entry: FileEntry | None = None
    parent_looked_up: bool = False
    parent_entry: FileEntry | None = None
    parent_list: NodeList | None = None
    parent_pointer: ChunkRef | None = None
    parent_nodes: dict[int, ParentSpan] = field(default_factory=dict)
    parent_small: ParentSpan | None = None


@dataclass(frozen=True, slots=True)
class NodeUnit:
    file: LargeFile
    index: int

    @property
    def offset(self) -> int:
        return self.index * NODE_SIZE

    @property
    def length(self) -> int:
        return min(NODE_SIZE, self.file.item.size - self.offset)


@dataclass(frozen=True, slots=True)
class BatchUnit:
    writer: DirectoryWriter
    items: tuple[FileItem, ...]


Unit = NodeUnit | BatchUnit


def large_file(writer: DirectoryWriter, item: FileItem) -> LargeFile:
    path = join(writer.facts.path, item.name)
    return LargeFile(writer, path, item, NodeListBuilder(path), left=-(-item.size // NODE_SIZE))


def units_of(directory: DirectoryItem, writer: DirectoryWriter) -> Iterator[Unit]:
    """Small files first, in the order of their names: a restored server reads catalogs before it reads tables."""
    batch: list[FileItem] = []
    size = 0
    for item in directory.files:
        if item.size > SMALL_FILE:
            continue
        if batch and (len(batch) == BATCH_FILES or size + item.size > BATCH_BYTES):
            yield BatchUnit(writer, tuple(batch))
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield BatchUnit(writer, tuple(batch))
    for item in directory.files:
        if item.size > SMALL_FILE:
            file = large_file(writer, item)
            for index in range(file.left):
                yield NodeUnit(file, index)
