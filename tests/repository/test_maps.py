"""Extents, ranges, nodes, lists, blocks and run tables: what they say, and what they refuse."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.errors import ObjectDamaged
from pgrecall.repository.columns import NODE_SIZE, RANGE_SIZE, ChunkRef, PackRef
from pgrecall.repository.extents import Extents, Piece, Ranges
from pgrecall.repository.fileblock import FileBlock
from pgrecall.repository.node import Node, NodeList, NodeListBuilder, check_node_place
from pgrecall.repository.runtable import RunTable
from tests.support.map_samples import ID, RUN, block, chunk, node, node_list, run_table

Byte = tuple[int, int] | None


def flatten(extents: Extents) -> list[Byte]:
    """Byte by byte: which chunk's which place, None for zeros."""
    found: list[Byte] = []
    for row in extents.rows.tolist():
        start, length, _, _, number, _, _, _, place, kind, _ = row
        assert start == len(found)
        found += [(number, place + at) if kind == 1 else None for at in range(length)]
    return found


@st.composite
def spans(draw: st.DrawFn, start: int = 0, whole: bool = True) -> list[Piece]:
    """Pieces that follow one another, or leave holes."""
    made: list[Piece] = []
    for number in range(draw(st.integers(0, 6))):
        start += 0 if whole else draw(st.integers(0, 5))
        length = draw(st.integers(1, 9))
        data: ChunkRef | None = chunk(draw(st.integers(0, 2)) + 10 * number, 40) if draw(st.booleans()) else None
        made.append((start, length, data, draw(st.integers(0, 40 - length)) if data else 0))
        start += length
    return made


@given(base=spans(), changes=spans(whole=False))
def test_an_overlay_holds_the_changes_and_below_them_what_was_there(base: list[Piece], changes: list[Piece]) -> None:
    below = Extents.of(base)
    expected = flatten(below)
    for start, length, data, place in changes:
        if start > len(expected):
            return  # would leave a hole
        expected[start : start + length] = [(data.chunk, place + at) if data else None for at in range(length)]
    above = below.overlay(changes)
    above.check(len(expected), "overlay")
    assert flatten(above) == expected


@given(base=spans(), start=st.integers(0, 60), length=st.integers(0, 60))
def test_a_slice_is_the_same_bytes_from_zero_on(base: list[Piece], start: int, length: int) -> None:
    extents = Extents.of(base)
    assert flatten(extents.slice(start, length)) == flatten(extents)[start : start + length]


@given(parts=st.lists(spans(), max_size=4))
def test_joined_parts_follow_one_another(parts: list[list[Piece]]) -> None:
    extents = [Extents.of(each) for each in parts]
    assert flatten(Extents.concat(extents)) == [byte for each in extents for byte in flatten(each)]


def test_neighbouring_pages_of_one_chunk_and_zeros_beside_zeros_become_one_extent() -> None:
    pages: list[Piece] = [(at * 10, 10, chunk(1, 40), at * 10) for at in range(4)]
    assert len(Extents.zeros(80).overlay(pages)) == 2
    assert len(Extents.zeros(20).overlay([(20, 20, None, 0)])) == 1


def test_extents_name_the_packs_that_they_need() -> None:
    assert node().extents.packs() == {PackRef(RUN, 1), PackRef(RUN, 2)}
    assert Extents.zeros(7).packs() == set()


def test_ranges_tell_known_digests_from_unknown_ones() -> None:
    ranges = Ranges.of([ID, None])
    assert ranges.digests() == [ID, None]
    assert (ranges.digest(0), ranges.digest(1)) == (ID, None)
    assert Ranges.concat([ranges, Ranges.unknown(1)]).digests() == [ID, None, None]


def test_every_map_chunk_reads_back_as_it_was_written() -> None:
    again = Node.decode(node().encode())
    assert (again.path, again.length, again.ranges, again.extents) == (
        node().path,
        node().length,
        node().ranges,
        node().extents,
    )
    nodes = NodeList.decode(node_list().encode())
    assert (nodes.path, nodes.size, nodes.nodes()) == (node_list().path, node_list().size, node_list().nodes())
    assert [nodes.packs_of(index) for index in (0, 1)] == [
        {PackRef(RUN, 1), PackRef(RUN, 2)},
        {PackRef(RUN, 1), PackRef(RUN, 3)},
    ]
    assert nodes.packs() == {PackRef(RUN, each) for each in (1, 2, 3, 9)}
    files = FileBlock.decode(block().encode())
    assert files.encode() == block().encode()
    table = RunTable.decode(run_table().encode())
    assert [each.seq for each in table.packs()] == [1, 2, 3]
    assert table.find(2) == run_table().find(2) and table.find(4) is None


def test_a_block_gives_its_files_in_order_and_by_name() -> None:
    files = list(block())
    assert [each.entry.name for each in files] == [b"1259", b"1259_fsm", b"PG_VERSION", b"large"]
    assert files[0].path == b"base/5/1259"
    assert [each.entry.size for each in files] == [RANGE_SIZE + 10, 0, RANGE_SIZE + 10, 1 << 30]
    for index, file in enumerate(files):
        assert block().find(file.entry.name) == index
        again = block().file(index)
        assert (again.entry, again.extents, again.node_list) == (file.entry, file.extents, file.node_list)
    assert block().find(b"1260") is None
    assert files[3].node_list == chunk(7, 2000, pack=4) and files[3].extents is None


def test_a_shrunken_file_keeps_only_the_nodes_that_it_still_has() -> None:
    builder = NodeListBuilder(b"x")
    parent = node_list(size=3 * NODE_SIZE)
    for index in range(3):
        builder.keep(index, parent)
    shrunken = builder.build(NODE_SIZE + 1)
    assert shrunken.nodes() == parent.nodes()[:2]
    assert shrunken.packs_of(1) == parent.packs_of(1)


def test_a_node_in_another_files_place_is_refused() -> None:
    with pytest.raises(ObjectDamaged, match="node 0 of base/5/999 should describe"):
        check_node_place(node(), b"base/5/999", 0, node().length)


def spoil(rows: np.ndarray[Any, Any], column: str, value: int, index: int = 0) -> np.ndarray[Any, Any]:
    copy = rows.copy()
    copy[column][index] = value
    return copy


@pytest.mark.parametrize(
    ("column", "index", "value", "complaint"),
    [
        ("start", 1, RANGE_SIZE + 1, "leave a hole"),
        ("start", 0, 1, "leave a hole"),
        ("length", 4, 5, "cover"),
        ("length", 0, 0, "empty extent"),
        ("place", 0, 1, "beyond its chunk"),
        ("place", 2, 2**32 - 1, "beyond its chunk"),
        ("kind", 0, 3, "unknown kind"),
        ("kind", 0, 2, "zeros names a chunk"),
        ("raw", 0, RANGE_SIZE + 1, "exceeds"),
        ("stored", 0, 2**32 - 1, "more bytes"),
        ("pack", 0, 0, "leads nowhere"),
        ("pack", 0, 100_000_000, "leads nowhere"),
        ("stored", 0, 0, "leads nowhere"),
        ("run", 1, 5, "zeros names a chunk"),
    ],
)
def test_a_node_with_impossible_extents_is_refused(column: str, index: int, value: int, complaint: str) -> None:
    bad = Extents(spoil(node().extents.rows, column, value, index))
    with pytest.raises(ObjectDamaged, match=complaint):
        Node.decode(_encode_unchecked(replace(node(), extents=bad)))


def _encode_unchecked(changed: Node) -> bytes:
    """The bytes of a node whose extents a writer would refuse."""
    right = node().encode()
    old = b"".join(_column(node().extents.rows[name]) for name in node().extents.rows.dtype.names or ())
    new = b"".join(_column(changed.extents.rows[name]) for name in changed.extents.rows.dtype.names or ())
    assert right.endswith(old)
    return right.removesuffix(old) + new


def _column(values: np.ndarray[Any, Any]) -> bytes:
    data = values.tobytes()
    return data + bytes(-len(data) % 8)


@pytest.mark.parametrize(
    ("names", "directory"),
    [
        ([b"b", b"a", b"c"], b"base"),
        ([b"a", b"a", b"c"], b"base"),
        ([b".", b"a", b"c"], b"base"),
        ([b"..", b"a", b"c"], b"base"),
        ([b"a", b"b/c", b"d"], b"base"),
        ([b"a", b"b\0c", b"d"], b"base"),
        ([b"", b"a", b"c"], b"base"),
        ([b"a", b"b", b"c"], b"/etc"),
        ([b"a", b"b", b"c"], b"base/../.."),
        ([b"a", b"b", b"c"], b"base//5"),
        ([b"a", b"b", b"c"], b"\0outside/x"),
    ],
)
def test_a_block_with_hostile_names_is_refused(names: list[bytes], directory: bytes) -> None:
    with pytest.raises(ObjectDamaged):
        FileBlock.decode(block(names, directory).encode())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("storage", 3),
        ("storage", 2),
        ("size", 1 << 21),
        ("size", 0),
        ("size", (1 << 64) - 1),
        ("mode", 0o10000),
        ("ranges", 1),
        ("extents", 1),
        ("extents", 2**32 - 1),
        ("pointers", 1),
        ("name_end", 2**32 - 1),
    ],
)
def test_a_block_whose_columns_disagree_is_refused(column: str, value: int) -> None:
    bad = replace(block(), files=spoil(block().files, column, value))
    with pytest.raises(ObjectDamaged):
        FileBlock.decode(bad.encode())


def test_a_list_of_too_few_nodes_is_refused() -> None:
    data = bytearray(node_list().encode())
    data[8:16] = (5 * NODE_SIZE).to_bytes(8, "little")
    with pytest.raises(ObjectDamaged, match="2 nodes for a file of"):
        NodeList.decode(bytes(data))


def test_a_list_that_names_a_pack_that_cannot_be_is_refused() -> None:
    packs = spoil(node_list().pack_rows, "pack", 100_000_000)
    with pytest.raises(ObjectDamaged, match="leads nowhere"):
        NodeList.decode(replace(node_list(), pack_rows=packs).encode())


def test_padding_and_reserved_bytes_are_checked() -> None:
    data = bytearray(node().encode())
    assert data[32:48] == b"base/5/16384\0\0\0\0"
    data[47] = 1
    with pytest.raises(ObjectDamaged, match="padding"):
        Node.decode(bytes(data))
    table = bytearray(run_table().encode())
    table[20] = 1
    with pytest.raises(ObjectDamaged, match="reserved"):
        RunTable.decode(bytes(table))
