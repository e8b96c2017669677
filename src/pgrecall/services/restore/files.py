"""The bytes of the backup's files, put in their places by several threads in bounded memory, zeros left as holes."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pgrecall.observe.reporter import Reporter
from pgrecall.postgres.conffile import AUTO_CONF
from pgrecall.repository.chunks import ChunkReader, Part
from pgrecall.repository.columns import DATA, NODE_SIZE
from pgrecall.repository.extents import Extents
from pgrecall.repository.fileblock import StoredFile
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.node import Node
from pgrecall.repository.paths import OUTSIDE
from pgrecall.services.crew import in_parallel
from pgrecall.services.restore.durable import begin_writing
from pgrecall.services.restore.problems import writing
from pgrecall.services.restore.tree import RestoredTree, refuse_twice, write_all

CONTROL_FILE = b"global/pg_control"
SETTINGS_FILE = b"pgrecall-recovery.json"
MARKER = b"pgrecall-restore-unfinished"
BATCH_BYTES, BATCH_FILES = 8 * 1024 * 1024, 256
BUFFER_BYTES = NODE_SIZE
"""Of each worker; its chunk reader holds 8 MiB more."""

# Written by the restore itself, or poison in a restored directory whatever a backup says.
NEVER_RESTORED = frozenset(
    {
        CONTROL_FILE,
        SETTINGS_FILE,
        MARKER,
        b"backup_label",
        b"backup_label.old",
        b"tablespace_map",
        b"tablespace_map.old",
        b"recovery.signal",
        b"standby.signal",
        b"recovery.conf",
        b"postmaster.pid",
        b"postmaster.opts",
        os.fsencode(AUTO_CONF) + b".tmp",
    }
)


class SmallFiles(NamedTuple):
    """Files of one directory, each of at most 1 MiB, BATCH_BYTES and BATCH_FILES together."""

    directory: bytes
    files: list[StoredFile]


Unit = SmallFiles | Node


@dataclass(slots=True)
class Restored:
    """What was written: counts for the report."""

    files: int = 0
    bytes: int = 0


def restore_files(reader: ManifestReader, tree: RestoredTree, *, jobs: int, reporter: Reporter) -> Restored:
    """Write every file of the backup but NEVER_RESTORED and those from outside; directories are there already.

    Raise ObjectDamaged, StorageError, DestinationFull, DestinationFailed; whatever is raised first stops the others.
    """
    done = Restored()
    lock = threading.Lock()

    def count(files: int, size: int) -> None:
        with lock:
            done.files += files
            done.bytes += size
        reporter.advance(size)

    def worker(units: Iterator[Unit]) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        chunks = reader.chunk_reader()
        for unit in units:
            if isinstance(unit, Node):
                _write_node(unit, tree, chunks, buffer)
                count(0, unit.length)
            else:
                _write_small(unit, tree, chunks, buffer)
                count(len(unit.files), sum(file.entry.size for file in unit.files))

    in_parallel(_units(reader, tree, lambda: count(1, 0)), worker, jobs)
    return done


def read_small(reader: ManifestReader, file: StoredFile) -> bytes:
    """The content of one small file (pg_control, a configuration file) in memory."""
    assert file.extents is not None, "not a small file"
    assert file.ranges is not None, "not a small file"
    content = bytearray(file.entry.size)
    if content:
        reader.chunk_reader().assemble(file.extents, file.ranges, file.path, memoryview(content))
    return bytes(content)


def _units(reader: ManifestReader, tree: RestoredTree, large_made: Callable[[], None]) -> Iterator[Unit]:
    """All work, in the order in which it lies in packs; large files are created, at their full size, on the way."""
    for directory in reader.directories():
        if directory.path == OUTSIDE:
            continue
        batch: list[StoredFile] = []
        size = 0
        large: list[StoredFile] = []
        for file in reader.files(directory.path):
            if file.path in NEVER_RESTORED or directory.path.split(b"/")[0] == b"pg_wal":
                continue
            if file.node_list is not None:
                large.append(file)
                continue
            if batch and (size + file.entry.size > BATCH_BYTES or len(batch) == BATCH_FILES):
                yield SmallFiles(directory.path, batch)
                batch, size = [], 0
            batch.append(file)
            size += file.entry.size
        if batch:
            yield SmallFiles(directory.path, batch)
        for file, nodes in zip(large, reader.node_lists(large), strict=True):
            _create_large(file, tree)
            large_made()
            yield from reader.nodes(nodes)


def _create_large(file: StoredFile, tree: RestoredTree) -> None:
    with writing(str(tree.root)), tree.directory(file.directory) as directory:
        try:
            with tree.new_file(directory, file.entry.name, file.entry.mode, _owner(file, tree)) as fd:
                os.ftruncate(fd, file.entry.size)
        except FileExistsError:
            raise refuse_twice(file.path) from None


def _write_node(node: Node, tree: RestoredTree, chunks: ChunkReader, buffer: memoryview) -> None:
    out = buffer[: node.length]
    chunks.assemble(node.extents, node.ranges, node.path, out, node.offset)
    with writing(str(tree.root)), tree.file(node.path) as fd:
        for start, stop in data_spans(node.extents):
            write_all(fd, out[start:stop], node.offset + start)
        begin_writing(fd, node.offset, node.length)


def _write_small(unit: SmallFiles, tree: RestoredTree, chunks: ChunkReader, buffer: memoryview) -> None:
    parts: list[Part] = []
    outs: list[memoryview] = []
    at = 0
    for file in unit.files:
        assert file.extents is not None, "not a small file"
        assert file.ranges is not None, "not a small file"
        outs.append(buffer[at : at + file.entry.size])
        at += file.entry.size
        if file.entry.size:
            parts.append(Part(file.path, file.extents, file.ranges, outs[-1]))
    chunks.assemble_many(parts)
    with writing(str(tree.root)), tree.directory(unit.directory) as directory:
        for file, out in zip(unit.files, outs, strict=True):
            try:
                with tree.new_file(directory, file.entry.name, file.entry.mode, _owner(file, tree)) as fd:
                    _write_content(fd, file, out)
            except FileExistsError:
                raise refuse_twice(file.path) from None


def _write_content(fd: int, file: StoredFile, content: memoryview) -> None:
    assert file.extents is not None, "not a small file"
    if not len(content):
        return
    spans = data_spans(file.extents)
    if not spans or spans[-1][1] < len(content):
        os.ftruncate(fd, len(content))
    for start, stop in spans:
        write_all(fd, content[start:stop], start)


def data_spans(extents: Extents) -> list[tuple[int, int]]:
    """Where data lies in a span, neighbours joined; what is between is zeros."""
    rows = extents.rows[extents.rows["kind"] == DATA]
    if not len(rows):
        return []
    starts = rows["start"].astype(np.int64)
    stops = starts + rows["length"]
    first = np.concatenate(([True], starts[1:] != stops[:-1]))
    last = np.concatenate((first[1:], [True]))
    return list(zip(starts[first].tolist(), stops[last].tolist(), strict=True))


def _owner(file: StoredFile, tree: RestoredTree) -> tuple[int, int] | None:
    return tree.ownership.of(file.entry.owner, file.entry.group)
