"""Manifests: written twice, sharing what did not change, read lazily, proven byte by byte."""

import os
from dataclasses import replace

import pytest

from pgrecall.domain.label import BackupKind
from pgrecall.errors import ObjectDamaged, ObjectMissing
from pgrecall.repository.chunks import Part
from pgrecall.repository.columns import NODE_SIZE, RANGE_SIZE, PackRef
from pgrecall.repository.extents import Extents, Ranges
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import manifest_name, pack_name
from pgrecall.repository.manifest import DirectoryEntry, Link, Manifest, Tablespace
from pgrecall.repository.manifest_json import decode_manifest, encode_manifest
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.map_writer import MapWriter
from pgrecall.repository.pack import PackBuilder, PackNumbers
from pgrecall.repository.recovery import find_second_copy, open_manifest
from tests.support.memory import MemoryStorage
from tests.support.tiny_engine import PAGE, TinyEngine, label, make_store, restore

FULL, INCR = label(0), label(1, BackupKind.INCR)
LARGE = b"base/5/16384"


def tree(pages: int = 2 * NODE_SIZE // PAGE + 3) -> dict[bytes, bytes]:
    """A file of three nodes, small files in two directories, an empty one."""
    block = os.urandom(PAGE)
    return {
        LARGE: b"".join(block[at:] + block[:at] for at in range(64)) * (pages // 64) + block * (pages % 64),
        b"base/5/1259": os.urandom(40_000),
        b"base/5/empty": b"",
        b"PG_VERSION": b"16\n",
    }


def with_page(content: bytes, page: int) -> bytes:
    return content[: page * PAGE] + os.urandom(PAGE) + content[(page + 1) * PAGE :]


def test_an_increment_stores_what_changed_and_shares_the_rest_of_the_map() -> None:
    storage = MemoryStorage()
    store = make_store(storage)
    engine = TinyEngine(store)
    old = tree()
    engine.back_up(FULL, old)
    new = old | {LARGE: with_page(old[LARGE], NODE_SIZE // PAGE + 5)}
    written = engine.back_up(INCR, new, FULL, old)
    before, after = (ManifestReader.open(store, each) for each in (FULL, INCR))
    one, two = (reader.find(LARGE) for reader in (before, after))
    assert one and two
    first, second = before.node_list(one).nodes(), after.node_list(two).nodes()
    assert (first[0], first[2]) == (second[0], second[2]) and first[1] != second[1]
    blocks = {each.path: each.blocks for each in before.directories()}
    assert [blocks[each.path] == each.blocks for each in after.directories()] == [True, True, False]
    assert written.stored < 40_000
    assert restore(after) == new and restore(before) == old


def test_an_increment_without_changes_shares_every_block() -> None:
    store = make_store()
    engine = TinyEngine(store)
    old = tree()
    engine.back_up(FULL, old)
    engine.back_up(INCR, old, FULL, old)
    before, after = (ManifestReader.open(store, each) for each in (FULL, INCR))
    assert before.directories() == after.directories()
    assert [each.run for each in after.manifest.runs] == [FULL, INCR]  # its own: the manifest's second copy is there
    assert after.manifest.runs[1].packs == 1
    assert restore(after) == old


def test_nothing_is_shared_with_a_pack_that_is_marked_bad() -> None:
    store = make_store()
    first = MapWriter(PackBuilder(store, FULL, PackNumbers()), store.scope.keys)
    place = first.put(b"map")
    again = MapWriter(PackBuilder(store, INCR, PackNumbers()), store.scope.keys, {place.pack_ref})
    assert again.put(b"map", (place,)).run == INCR.number
    assert MapWriter(PackBuilder(store, INCR, PackNumbers()), store.scope.keys).put(b"map", (place,)) == place


def test_a_lost_manifest_is_found_in_the_runs_last_pack_and_the_other_way_round() -> None:
    storage = MemoryStorage()
    store = make_store(storage)
    old = tree(200)
    made = TinyEngine(store).back_up(FULL, old)
    last = pack_name(FULL, made.packs[-1].seq)
    kept = dict(storage.objects)

    storage.delete(store.key(manifest_name(FULL)))
    reader, warning = open_manifest(store, FULL)
    assert reader.manifest == made.manifest
    assert warning and "second copy" in warning
    assert restore(reader) == old

    storage.objects.clear()
    storage.objects.update(kept)
    storage.delete(store.key(last))
    reader, warning = open_manifest(store, FULL)
    assert reader.manifest == made.manifest and warning is None

    storage.delete(store.key(manifest_name(FULL)))
    with pytest.raises(ObjectMissing):
        open_manifest(store, FULL)


def test_a_damaged_manifest_is_read_from_its_second_copy() -> None:
    storage = MemoryStorage()
    store = make_store(storage)
    made = TinyEngine(store).back_up(FULL, {b"PG_VERSION": b"16\n"})
    key = store.key(manifest_name(FULL))
    storage.objects[key] = storage.objects[key][:-1] + b"?"
    with pytest.raises(ObjectDamaged):
        ManifestReader.open(store, FULL)
    assert open_manifest(store, FULL)[0].manifest == made.manifest


def test_the_second_copy_lies_in_the_pack_with_the_highest_number_whatever_the_order_of_packs() -> None:
    store = make_store()
    made = TinyEngine(store, target=100_000).back_up(FULL, {b"a": os.urandom(900_000), b"b": os.urandom(900_000)})
    own = made.manifest.runs[-1]
    assert own.pack.seq == max(each.seq for each in made.packs) and own.packs == len(made.packs)
    assert find_second_copy(store, FULL) == made.manifest
    assert [each.seq for each in made.packs] == list(range(1, len(made.packs) + 1))
    assert find_second_copy(store, INCR) is None


def test_a_manifest_that_was_not_committed_is_refused() -> None:
    store = make_store()
    made = TinyEngine(store).back_up(FULL, {b"PG_VERSION": b"16\n"})
    assert ManifestReader.open(store, FULL, made.hash).manifest == made.manifest
    with pytest.raises(ObjectDamaged, match="not the one that was committed"):
        ManifestReader.open(store, FULL, b"?" * 32)


def test_files_are_found_by_path() -> None:
    store = make_store()
    TinyEngine(store).back_up(FULL, tree(200) | {f"many/{number}".encode(): b"%d" % number for number in range(3000)})
    reader = ManifestReader.open(store, FULL)
    index = reader.index(b"many")
    assert len(index) == 3000 and len(reader.manifest.directories[-1].blocks) > 2
    for number in (0, 1, 777, 2999):
        path = b"many/%d" % number
        found = reader.find(path)
        assert found and found.path == path and found.entry.size == len(b"%d" % number)
        again = index.get(b"%d" % number)
        assert again and again.entry == found.entry
    for path in (b"many/x", b"many/", b"nowhere/1", b"many", b"9"):
        assert reader.find(path) is None
    assert index.get(b"") is None and len(reader.index(b"nowhere")) == 0


def test_the_files_that_hang_on_a_pack_are_named() -> None:
    store = make_store()
    engine = TinyEngine(store)
    old = tree(200)
    engine.back_up(FULL, old)
    made = engine.back_up(INCR, old | {LARGE: with_page(old[LARGE], 7)}, FULL, old)
    reader = ManifestReader.open(store, INCR)
    data = PackRef(INCR.number, 1)
    assert data in made.live
    assert list(reader.files_on({data})) == [LARGE]
    assert set(reader.files_on({PackRef(FULL.number, 1)})) == {LARGE, b"base/5/1259", b"PG_VERSION"}


def test_restoring_a_file_asks_the_storage_seldom() -> None:
    storage = MemoryStorage()
    store = make_store(storage)
    TinyEngine(store, target=32 << 20).back_up(FULL, {LARGE: os.urandom(NODE_SIZE)})
    reader = ManifestReader.open(store, FULL)
    file = reader.find(LARGE)
    assert file
    node = next(reader.nodes(reader.node_list(file)))
    storage.reads.clear()
    out = memoryview(bytearray(node.length))
    reader.chunk_reader().assemble(node.extents, node.ranges, LARGE, out)
    gets = [length for _, length in storage.reads if length > 1000]
    assert len(gets) == 3  # of at most 8 MiB
    assert all(length <= 8 << 20 for length in gets)


def test_small_files_of_one_directory_come_in_one_request() -> None:
    storage = MemoryStorage()
    store = make_store(storage)
    files = {f"base/{number}".encode(): os.urandom(500) for number in range(50)}
    TinyEngine(store).back_up(FULL, files)
    reader = ManifestReader.open(store, FULL)
    chunks = reader.chunk_reader()
    parts = []
    for file in reader.files(b"base"):
        assert file.extents is not None and file.ranges is not None
        parts.append(Part(file.path, file.extents, file.ranges, memoryview(bytearray(file.entry.size))))
    storage.reads.clear()
    chunks.assemble_many(parts)
    assert {part.path: bytes(part.out) for part in parts} == files
    assert len(storage.reads) <= 2  # the run table, once, and the chunks


def test_damage_names_the_file_the_place_and_the_object() -> None:
    storage = MemoryStorage()
    store = make_store(storage)
    content = os.urandom(3 * RANGE_SIZE)
    TinyEngine(store).back_up(FULL, {b"base/5/1259": content})
    reader = ManifestReader.open(store, FULL)
    file = reader.find(b"base/5/1259")
    assert file and file.extents is not None
    offset = int(file.extents.rows["offset"][1])
    key = store.key(pack_name(FULL, 1))
    pack = bytearray(storage.objects[key])
    pack[offset + 50] ^= 1
    storage.objects[key] = bytes(pack)
    with pytest.raises(ObjectDamaged, match=r"base/5/1259: bytes 131072 to 262144 cannot be read") as caught:
        restore(ManifestReader.open(store, FULL))
    assert caught.value.facts["path"] == "base/5/1259"
    assert caught.value.facts["object"] == pack_name(FULL, 1)
    assert caught.value.facts["offset"] == RANGE_SIZE


def test_a_map_that_leads_to_intact_but_wrong_chunks_is_found_by_the_digest() -> None:
    store = make_store()
    content = os.urandom(2 * RANGE_SIZE)
    TinyEngine(store).back_up(FULL, {b"a": content})
    reader = ManifestReader.open(store, FULL)
    file = reader.find(b"a")
    assert file and file.extents is not None and file.ranges is not None
    rows = file.extents.rows[::-1].copy()
    rows["start"] = rows["start"][::-1]
    out = memoryview(bytearray(len(content)))
    with pytest.raises(ObjectDamaged, match="a: bytes 0 to 131072 are not what was backed up"):
        reader.chunk_reader().assemble(Extents(rows), file.ranges, b"a", out)
    reader.chunk_reader().assemble(Extents(rows), Ranges.unknown(2), b"a", out)
    assert out == content[RANGE_SIZE:] + content[:RANGE_SIZE]


def test_zeros_in_place_of_data_are_found_by_the_digest() -> None:
    store = make_store()
    digest = store.scope.keys.chunk_id(b"x" * RANGE_SIZE)[:16]
    zeros = store.scope.keys.chunk_id(bytes(RANGE_SIZE))[:16]
    TinyEngine(store).back_up(FULL, {})
    chunks = ManifestReader.open(store, FULL).chunk_reader()
    out = memoryview(bytearray(b"?" * 2 * RANGE_SIZE))
    chunks.assemble(Extents.zeros(2 * RANGE_SIZE), Ranges.of([zeros, zeros]), b"a", out)
    assert out == bytes(2 * RANGE_SIZE)
    with pytest.raises(ObjectDamaged, match="bytes 131072 to 262144"):
        chunks.assemble(Extents.zeros(2 * RANGE_SIZE), Ranges.of([zeros, digest]), b"a", out)


def test_extents_that_do_not_fit_are_refused_before_anything_is_read() -> None:
    storage = MemoryStorage()
    store = make_store(storage)
    TinyEngine(store).back_up(FULL, {b"a": b"abc"})
    reader = ManifestReader.open(store, FULL)
    file = reader.find(b"a")
    assert file and file.extents is not None and file.ranges is not None
    storage.reads.clear()
    with pytest.raises(ObjectDamaged, match="a: extents cover 3 bytes of 4"):
        reader.chunk_reader().assemble(file.extents, file.ranges, b"a", memoryview(bytearray(4)))
    bad = file.extents.rows.copy()
    bad["place"] = 2
    with pytest.raises(ObjectDamaged, match="a: an extent reaches beyond its chunk"):
        reader.chunk_reader().assemble(Extents(bad), file.ranges, b"a", memoryview(bytearray(3)))
    with pytest.raises(ObjectDamaged, match="a: 2 ranges for 3 bytes"):
        reader.chunk_reader().assemble(file.extents, Ranges.unknown(2), b"a", memoryview(bytearray(3)))
    assert storage.reads == []


def _manifest() -> Manifest:
    return TinyEngine(make_store()).back_up(FULL, {b"base/5/1": b"x", b"PG_VERSION": b"16\n"}).manifest


def test_a_manifest_reads_back_as_it_was_written() -> None:
    manifest = _manifest()
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert (manifest.files, manifest.size, manifest.kind) == (2, 4, BackupKind.FULL)


def test_a_manifest_whose_tree_is_impossible_is_refused() -> None:
    manifest = _manifest()
    root, *others = manifest.directories

    def extra(path: bytes, owner: int = 0) -> tuple[DirectoryEntry, ...]:
        return tuple(sorted((root, *others, replace(root, path=path, owner=owner)), key=lambda each: each.path))

    for wrong in (
        replace(manifest, directories=extra(b"base")),
        replace(manifest, directories=extra(b"base/5/x/y")),
        replace(manifest, directories=extra(b"zz/..")),
        replace(manifest, directories=extra(b"/etc")),
        replace(manifest, directories=extra(b"zz", owner=7)),
        replace(manifest, directories=(root, *reversed(others))),
        replace(manifest, links=(Link(b"base", b"/x"),)),
        replace(manifest, directories=extra(b"pg_wal"), links=(Link(b"pg_wal", b"/x"),)),
        replace(manifest, runs=manifest.runs * 2),
    ):
        with pytest.raises(ObjectDamaged):
            decode_manifest(encode_manifest(wrong))
    decode_manifest(encode_manifest(replace(manifest, links=(Link(b"pg_wal", b"/x"),))))


def test_a_name_that_is_a_file_and_a_directory_is_refused() -> None:
    store = make_store()
    made = TinyEngine(store).back_up(FULL, {b"base/5": b"x", b"zz/1": b"y"})
    manifest = made.manifest
    zz = manifest.directories[-1]
    clash = replace(zz, path=b"base/5", blocks=())
    wrong = replace(manifest, directories=(*manifest.directories[:2], clash, zz))
    with pytest.raises(ObjectDamaged, match="base/5 is a file and a directory"):
        list(ManifestReader(store, wrong).all_files())


def test_a_block_of_another_directory_is_refused() -> None:
    store = make_store()
    manifest = TinyEngine(store).back_up(FULL, {b"a/1": b"x", b"b/1": b"y"}).manifest
    root, one, two = manifest.directories
    wrong = replace(manifest, directories=(root, one, replace(two, blocks=one.blocks)))
    with pytest.raises(ObjectDamaged, match="a file block of b/ describes a/"):
        list(ManifestReader(store, wrong).all_files())
    twice = replace(manifest, directories=(root, replace(one, blocks=one.blocks * 2), two))
    with pytest.raises(ObjectDamaged, match="comes twice or out of order"):
        list(ManifestReader(store, twice).all_files())


def test_a_large_manifest_is_split_into_frames_and_stored_twice() -> None:
    storage = MemoryStorage()
    store = make_store(storage)
    made = TinyEngine(store).back_up(FULL, {f"{number:05d}/{'d' * 200}/f".encode(): b"x" for number in range(2500)})
    manifest = store.read(ObjectType.MANIFEST, manifest_name(FULL))
    assert len(manifest.frames) > 1 and max(each.raw for each in manifest.frames) <= 1 << 20
    assert ManifestReader.open(store, FULL).manifest == made.manifest
    assert find_second_copy(store, FULL) == made.manifest


def test_a_tablespace_without_a_place_of_its_own_is_refused() -> None:
    made = TinyEngine(make_store()).back_up(label(0), {b"a": b"x"}).manifest
    fine = Tablespace(1, b"/space", in_place=False)
    assert decode_manifest(encode_manifest(replace(made, tablespaces=(fine, Tablespace(2, b"", in_place=True)))))
    for wrong in (b"", b"space", b"/space/../etc", b"/sp\0ace", b"/" + b"x" * 5000):
        with pytest.raises(ObjectDamaged):
            decode_manifest(encode_manifest(replace(made, tablespaces=(replace(fine, path=wrong),))))
    with pytest.raises(ObjectDamaged, match="comes twice"):
        decode_manifest(encode_manifest(replace(made, tablespaces=(fine, replace(fine, path=b"/other")))))
