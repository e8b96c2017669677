"""Few requests for many chunks, and every pointer leads where it says."""

import os
from dataclasses import replace

import pytest

from pgrecall.errors import ObjectDamaged
from pgrecall.repository.columns import NODE_SIZE, RANGE_SIZE, PackRef, pointer_rows
from pgrecall.repository.extents import Extents, Ranges
from pgrecall.repository.fetch import GAP, LARGEST_GET, plan_gets, sort_by_place
from pgrecall.repository.manifest import DamagedPage
from pgrecall.repository.manifest_json import encode_manifest
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.manifest_writer import ManifestWriter
from pgrecall.repository.node import Node
from pgrecall.repository.pack import PackBuilder, PackNumbers
from pgrecall.repository.recovery import find_second_copy
from pgrecall.repository.runtable import RunTable
from tests.support.map_samples import RUN, chunk, node
from tests.support.tiny_engine import TinyEngine, facts, label, make_store

FULL = label(0)


def gets(*places: tuple[int, int, int]) -> list[tuple[int, int, int, list[int]]]:
    """(pack, offset, stored) of chunks → (pack, offset, length, places of chunks) of requests."""
    pointers = [
        chunk(number)._replace(pack=pack, offset=offset, stored=stored)
        for number, (pack, offset, stored) in enumerate(places)
    ]
    rows = pointer_rows(pointers)
    rows = rows[sort_by_place(rows)]
    return [(get.pack.pack, get.offset, get.length, [each.offset for each in get.chunks]) for get in plan_gets(rows)]


def test_neighbours_share_a_request_and_a_wide_gap_ends_it() -> None:
    assert gets((1, 300, 100), (1, 100, 100)) == [(1, 100, 300, [100, 300])]
    assert gets((1, 100, 100), (1, 200 + GAP, 100)) == [(1, 100, 200 + GAP, [100, 200 + GAP])]
    assert gets((1, 100, 100), (1, 201 + GAP, 100)) == [(1, 100, 100, [100]), (1, 201 + GAP, 100, [201 + GAP])]


def test_no_request_spans_packs_or_becomes_too_large() -> None:
    assert gets((1, 100, 100), (2, 200, 100)) == [(1, 100, 100, [100]), (2, 200, 100, [200])]
    many = gets(*((1, at, 100_000) for at in range(0, 3 * LARGEST_GET, 100_000)))
    assert all(length <= LARGEST_GET for _, _, length, _ in many) and len(many) == 4


def test_chunks_that_overlap_as_no_writer_puts_them_are_all_inside_their_request() -> None:
    assert gets((1, 100, 5000), (1, 200, 10)) == [(1, 100, 5000, [100, 200])]
    assert gets((1, 100, 5000), (1, 200, 10), (1, 5150, 10)) == [(1, 100, 5060, [100, 200, 5150])]


def test_a_chunk_wanted_many_times_is_read_once() -> None:
    rows = pointer_rows([chunk(1), chunk(0), chunk(1)])
    (get,) = plan_gets(rows[sort_by_place(rows)])
    assert [(each.chunk, each.last - each.first) for each in get.chunks] == [(0, 1), (1, 2)]
    assert get.pack == PackRef(RUN, 1)
    assert list(plan_gets(rows[:0])) == []


def test_a_range_pieced_together_is_proven_by_its_digest() -> None:
    store = make_store()
    builder = PackBuilder(store, FULL, numbers := PackNumbers())
    pages = builder.add(os.urandom(16384))
    builder.close()
    ManifestWriter(store, FULL, numbers).finish(facts(FULL), builder.records)
    reader = ManifestReader.open(store, FULL)
    extents = Extents.of([(0, 8192, None, 0), (8192, 8192, pages, 8192)])
    out = memoryview(bytearray(16384))
    with pytest.raises(ObjectDamaged, match="bytes 0 to 16384 are not what was backed up"):
        reader.chunk_reader().assemble(extents, Ranges.of([b"?" * 16]), b"a", out)
    right = store.scope.keys.chunk_id(out)[:16]
    reader.chunk_reader().assemble(extents, Ranges.of([right]), b"a", out)


def test_maps_written_before_data_still_leave_the_last_pack_the_highest_number() -> None:
    store, numbers = make_store(), PackNumbers()
    writer = ManifestWriter(store, FULL, numbers)
    place = writer.put_node(node())
    data = PackBuilder(store, FULL, numbers)
    data.add(b"x")
    data.close()
    made = writer.finish(facts(FULL), data.records)
    assert (place.pack, data.records[0].seq) == (1, 2)
    assert made.manifest.runs[-1].pack.seq == 3 and made.manifest.runs[-1].packs == 3
    assert place.pack_ref in made.live
    assert ManifestReader.open(store, FULL).maps.read(place) == node().encode()


def test_a_node_list_or_node_in_anothers_place_is_refused() -> None:
    store = make_store()
    one, two = os.urandom(8192) * 150, os.urandom(8192) * 150
    TinyEngine(store).back_up(FULL, {b"one": one, b"two": two})
    reader = ManifestReader.open(store, FULL)
    first, second = reader.files(b"")
    with pytest.raises(ObjectDamaged, match="the node list of one describes two"):
        reader.node_list(first._replace(node_list=second.node_list))
    nodes = reader.node_list(first)
    swapped = replace(nodes, pointers=reader.node_list(second).pointers)
    with pytest.raises(ObjectDamaged, match="node 0 of one should describe"):
        list(reader.nodes(swapped))


def test_another_runs_table_is_refused_and_its_packs_open_by_themselves() -> None:
    store = make_store()
    engine = TinyEngine(store)
    made = engine.back_up(FULL, {b"a": b"x"})
    other = label(5)
    builder = PackBuilder(store, FULL, lambda: 50)
    hole = builder.keyhole()
    table = builder.add(RunTable.of(other.number, []).encode())
    builder.close()
    wrong = replace(made.manifest, runs=(replace(made.manifest.runs[0], table=table, pack=hole),))
    reader = ManifestReader(store, wrong)
    with pytest.raises(ObjectDamaged, match="holds the table of"):
        reader.packs.table(FULL.number)
    assert reader.packs.opener(PackRef(FULL.number, 1)).name.endswith("/00000001"), "by the pack's own header"


def test_a_second_copy_that_names_another_place_than_its_own_is_passed_over() -> None:
    store = make_store()
    made = TinyEngine(store).back_up(FULL, {b"a": b"x"})
    forged = replace(made.manifest, damage=(DamagedPage(b"a", 0, "forged"),))
    builder = PackBuilder(store, FULL, lambda: 60)
    builder.append(node().encode())
    builder.append(RunTable.of(FULL.number, []).encode())
    builder.append(encode_manifest(forged))
    builder.close()
    assert find_second_copy(store, FULL) == made.manifest


def test_a_reader_of_maps_asks_once_for_neighbours_and_not_again_for_what_it_has() -> None:
    store = make_store()
    numbers = PackNumbers()
    writer = ManifestWriter(store, FULL, numbers)
    nodes = [Node(b"f", at * NODE_SIZE, RANGE_SIZE, Ranges.unknown(1), Extents.zeros(RANGE_SIZE)) for at in range(40)]
    places = [writer.put_node(each) for each in nodes]
    writer.finish(facts(FULL), [])
    maps = ManifestReader.open(store, FULL).maps
    reads = store.storage.reads  # type: ignore[attr-defined]
    reads.clear()
    assert maps.read_many(places) == [each.encode() for each in nodes]
    assert maps.read(places[3]) == nodes[3].encode()
    assert len(reads) == 1
