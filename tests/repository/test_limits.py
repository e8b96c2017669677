"""Sizes at the edge of what the format describes: they work, or are refused with a name before anything is lost."""

import numpy as np
import pytest

from pgrecall.errors import Refused
from pgrecall.repository.columns import MAP_CHUNK_MAX, NODE_SIZE, PACK, ChunkRef, pointer_rows
from pgrecall.repository.directory_writer import DirectoryFacts
from pgrecall.repository.fileblock import FileEntry
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.manifest_writer import ManifestWriter
from pgrecall.repository.node import NodeList
from pgrecall.repository.pack import PackNumbers
from tests.support.tiny_engine import facts, label, make_store

FULL = label(0)


def test_the_node_list_of_a_file_of_two_tebibytes_is_written_and_read() -> None:
    """PostgreSQL can be built with segments of any size; a list of such a file is larger than other map chunks."""
    size, packs = 2 << 40, 2
    nodes = size // NODE_SIZE
    pointers = np.repeat(pointer_rows([ChunkRef(FULL.number, 9, 0, 96, 900, 3000, bytes(16))]), nodes)
    rows = np.zeros(nodes * packs, PACK)
    rows["run"], rows["pack"] = FULL.number, np.arange(1, nodes * packs + 1)
    made = NodeList(b"1", size, pointers, np.full(nodes, packs, np.uint32), rows)
    assert len(made.encode()) > MAP_CHUNK_MAX
    store = make_store()
    writer = ManifestWriter(store, FULL, PackNumbers())
    owner = writer.principal("postgres")
    directory = writer.directory(DirectoryFacts(b"", 0o700, owner, owner))
    directory.add_large(FileEntry(b"1", size, 0o600, owner, owner, 1, 2, 3), made)
    writer.finish_directory(directory)
    writer.finish(facts(FULL), [])
    reader = ManifestReader.open(store, FULL)
    found = reader.find(b"1")
    assert found is not None
    assert len(reader.node_list(found)) == nodes


def test_more_than_the_format_can_describe_is_refused_with_its_name() -> None:
    writer = ManifestWriter(make_store(), FULL, PackNumbers())
    for number in range(1 << 16):
        writer.principal(f"user {number}")
    with pytest.raises(Refused, match="one more"):
        writer.principal("one more")
    size = 1 << 40
    nodes = size // NODE_SIZE
    pointers = np.repeat(pointer_rows([ChunkRef(FULL.number, 9, 0, 96, 900, 3000, bytes(16))]), nodes)
    counts = np.full(nodes, 100, np.uint32)
    fragmented = NodeList(b"1", size, pointers, counts, np.zeros(nodes * 100, PACK))
    directory = writer.directory(DirectoryFacts(b"", 0o700, 0, 0))
    with pytest.raises(Refused, match="fragmented"):
        directory.add_large(FileEntry(b"1", size, 0o600, 0, 0, 1, 2, 3), fragmented)
