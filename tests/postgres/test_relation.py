"""Names of relation files, as PostgreSQL's own functions and files have them."""

import pytest

from pgrecall.postgres.relation import (
    Fork,
    RelationFile,
    first_block,
    is_temporary_name,
    is_whole_filenode_map,
    parse_relation_path,
)
from pgrecall.postgres.scratch import ScratchServer


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"global/1262", RelationFile(1664, 0, 1262, Fork.MAIN, 0)),
        (b"global/1262_fsm", RelationFile(1664, 0, 1262, Fork.FSM, 0)),
        (b"base/5/16384.1", RelationFile(1663, 5, 16384, Fork.MAIN, 1)),
        (b"base/5/16384_init", RelationFile(1663, 5, 16384, Fork.INIT, 0)),
        (b"base/4294967295/4294967295_vm.12", RelationFile(1663, 4294967295, 4294967295, Fork.VM, 12)),
        (b"pg_tblspc/16400/PG_18_202506291/5/16384", RelationFile(16400, 5, 16384, Fork.MAIN, 0)),
        (b"base/5/PG_VERSION", None),
        (b"base/5/pg_filenode.map", None),
        (b"base/5/t3_16384", None),
        (b"base/5/16384_old", None),
        (b"base/5/16384.", None),
        (b"base/5/016384", None),
        (b"base/5/16384.01", None),
        (b"base/pgsql_tmp/16384", None),
        (b"pg_xact/0000", None),
        (b"16384", None),
        (b"base/5/16384\n", None),
    ],
)
def test_a_path_is_a_relation_file_or_not(path: bytes, expected: RelationFile | None) -> None:
    assert parse_relation_path(path) == expected


def test_every_path_that_the_server_tells_is_understood(pg: ScratchServer) -> None:
    rows = pg.query(
        "SELECT pg_relation_filepath(oid), pg_relation_filenode(oid), relisshared FROM pg_class"
        " WHERE pg_relation_filepath(oid) IS NOT NULL"
    )
    assert len(rows) > 200
    for path, number, shared in rows:
        parsed = parse_relation_path(path.encode())
        assert parsed is not None, path
        assert (parsed.number, parsed.fork, parsed.database == 0) == (number, Fork.MAIN, shared)


@pytest.mark.parametrize("name", [b"t3_16400", b"t12_16400_fsm", b"t3_16400_vm.1", b"t3_16400.7", b"t3_16400_init"])
def test_temporary_relations_are_known_by_name(name: bytes) -> None:
    assert is_temporary_name(name)


@pytest.mark.parametrize("name", [b"t_16400", b"t3_", b"t3_16400_x", b"table_1", b"16400"])
def test_other_names_are_not_taken_for_temporary(name: bytes) -> None:
    assert not is_temporary_name(name)


def test_a_segments_pages_are_numbered_on_from_the_one_before() -> None:
    assert [first_block(segment, 131072) for segment in (0, 1, 3)] == [0, 131072, 393216]


def test_only_main_forks_are_backed_up_by_page() -> None:
    assert [RelationFile(1663, 5, 1, fork, 0).page_increments for fork in Fork] == [True, False, False, False]


def test_filenode_maps_of_a_real_server_are_whole_and_a_flipped_bit_is_noticed(pg: ScratchServer) -> None:
    maps = list(pg.pgdata.glob("global/pg_filenode.map")) + list(pg.pgdata.glob("base/*/pg_filenode.map"))
    assert len(maps) >= 4
    for path in maps:
        assert is_whole_filenode_map(path.read_bytes())
    torn = bytearray(maps[0].read_bytes())
    torn[40] ^= 1
    assert not is_whole_filenode_map(bytes(torn))
