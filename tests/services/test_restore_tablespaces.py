"""Tablespaces come back where the user wants them, and replay never writes into those of the original."""

import os
from pathlib import Path

import pytest

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.target import AtLsn, EndOfArchive
from pgrecall.errors import TablespaceConflict, ValueInvalid, WontReplay
from pgrecall.postgres.walscan import TablespaceCreate
from pgrecall.repository.manifest import Tablespace
from pgrecall.services.restore.tablespaces import TablespaceMapping, place_tablespaces, refuse_foreign_replay
from tests.conftest import NewServer, OpenServer
from tests.support.cluster import table_fingerprints
from tests.support.recovery import Protected


def stored(path: Path, oid: int = 16400) -> Tablespace:
    return Tablespace(oid, os.fsencode(path), in_place=False)


def test_a_tablespace_goes_back_to_its_place_only_where_that_is_free(tmp_path: Path) -> None:
    old, to = tmp_path / "old", tmp_path / "copy"
    (placed,), blockers = place_tablespaces([stored(old)], (), to)
    assert (placed.place, blockers) == (old, [])
    old.mkdir()
    assert place_tablespaces([stored(old)], (), to)[1] == []
    (old / "PG_17_1").mkdir()
    (blocker,) = place_tablespaces([stored(old)], (), to)[1]
    assert isinstance(blocker, TablespaceConflict)
    assert "--tablespace 16400=" in (blocker.hint or "")


@pytest.mark.parametrize("old", ["16400", "{}", "{}/"])
def test_a_tablespace_is_mapped_by_oid_or_by_its_old_path(tmp_path: Path, old: str) -> None:
    path = tmp_path / "old"
    mapping = TablespaceMapping.parse(f"{old.format(path)}={tmp_path}/new")
    (placed,), blockers = place_tablespaces([stored(path)], [mapping], tmp_path / "copy")
    assert (placed.place, placed.link, blockers) == (tmp_path / "new", b"pg_tblspc/16400", [])


def test_mappings_that_mean_nothing_are_refused_with_what_there_is(tmp_path: Path) -> None:
    for text in ("16400", "=/new", "16400=new"):
        with pytest.raises(ValueInvalid):
            TablespaceMapping.parse(text)
    with pytest.raises(ValueInvalid, match="no tablespace '99'") as error:
        place_tablespaces([stored(tmp_path)], [TablespaceMapping.parse("99=/new")], tmp_path / "copy")
    assert f"16400 ({tmp_path})" in (error.value.hint or "")
    twice = [TablespaceMapping.parse("16400=/a"), TablespaceMapping.parse(f"{tmp_path}=/b")]
    with pytest.raises(ValueInvalid, match="mapped twice"):
        place_tablespaces([stored(tmp_path)], twice, tmp_path / "copy")


def test_places_that_overlap_or_hold_something_are_conflicts(tmp_path: Path) -> None:
    to = tmp_path / "copy"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    for place in (to / "inside", tmp_path, tmp_path / "full"):
        mapping = TablespaceMapping.parse(f"16400={place}")
        assert len(place_tablespaces([stored(tmp_path / "old")], [mapping], to)[1]) == 1
    both = [stored(tmp_path / "a", 1), stored(tmp_path / "b", 2)]
    mappings = [TablespaceMapping.parse(f"{oid}={tmp_path}/same") for oid in (1, 2)]
    assert len(place_tablespaces(both, mappings, to)[1]) == 1


def test_replay_of_create_tablespace_needs_a_free_place_or_is_refused(tmp_path: Path) -> None:
    used = tmp_path / "used"
    (used / "PG_17_1").mkdir(parents=True)
    free = tmp_path / "free"
    records = [
        TablespaceCreate(1, str(used), Lsn(50)),  # before the backup's start: not replayed
        TablespaceCreate(2, str(used), Lsn(500)),
        TablespaceCreate(3, str(free), Lsn(600)),
        TablespaceCreate(4, "", Lsn(700)),  # in place
    ]

    def judge(target: AtLsn | EndOfArchive, *, inclusive: bool = True) -> tuple[list[Path], list[str]]:
        needed, blockers = refuse_foreign_replay(records, start=Lsn(100), target=target, inclusive=inclusive, placed=[])
        assert all(isinstance(each, WontReplay) for each in blockers)
        return needed, [str(each.facts["oid"]) for each in blockers]

    assert judge(EndOfArchive()) == ([free], ["2"])
    assert judge(AtLsn(Lsn(500)), inclusive=False) == ([], [])
    assert judge(AtLsn(Lsn(500))) == ([], ["2"])


def inodes(place: Path) -> set[tuple[str, int, int]]:
    return {(str(path), path.stat().st_ino, path.stat().st_mtime_ns) for path in place.rglob("*")}


@pytest.fixture
def protected(new_server: NewServer, tmp_path: Path) -> Protected:
    return Protected.start(new_server, tmp_path / "home")


def test_a_mapped_tablespace_of_a_copy_is_its_own_and_the_original_s_stays_untouched(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    server, space = protected.server, tmp_path / "space"
    space.mkdir()
    server.execute(f"create tablespace extra location '{space}'")
    server.execute("create table t tablespace extra as select n from generate_series(1, 1000) n")
    protected.backup()
    server.execute("insert into t select n from generate_series(1001, 1500) n")
    protected.switch()
    server.execute("checkpoint")
    refused = protected.plan(tmp_path / "copy")
    assert [each.code for each in refused.blockers] == ["tablespace-conflict"]
    oid = server.value("select oid from pg_tablespace where spcname = 'extra'")
    protected.restore(protected.plan(tmp_path / "copy", tablespaces=(f"{oid}={tmp_path}/mapped",)))
    before = inodes(space)
    copy = open_server(tmp_path / "copy", isolated=False).start()
    copy.wait_promoted()
    assert copy.value("select pg_tablespace_location(%s)", (oid,)) == str(tmp_path / "mapped")
    assert table_fingerprints(copy) == table_fingerprints(server)
    copy.execute("delete from t", "vacuum t", "checkpoint")
    assert inodes(space) == before
    server.restart("immediate")
    assert server.value("select count(*) from t") == 1500


@pytest.mark.newest
def test_a_tablespace_created_after_the_backup_stops_a_restore_beside_the_original(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    server, space = protected.server, tmp_path / "space"
    protected.backup()
    before = Lsn.parse(server.value("select pg_current_wal_lsn()::text"))
    space.mkdir()
    server.execute(f"create tablespace extra location '{space}'", "create table t (n int) tablespace extra")
    server.execute("insert into t values (1)")
    protected.switch()
    plan = protected.plan(tmp_path / "copy")
    assert [each.code for each in plan.blockers] == ["replay-writes-outside"]
    with pytest.raises(WontReplay, match=str(space)):
        protected.restore(plan)
    assert not (tmp_path / "copy").exists()
    earlier = protected.plan(tmp_path / "copy", AtLsn(before), inclusive=False)
    assert earlier.blockers == ()
    # The original's host is lost: the path is free, the directory for replay is made.
    server.stop()
    space.rename(tmp_path / "lost")
    protected.restore(protected.plan(tmp_path / "copy"))
    copy = open_server(tmp_path / "copy", isolated=False).start()
    copy.wait_promoted()
    assert copy.query("select n from t") == [(1,)]
    assert any(space.iterdir())


@pytest.mark.newest
def test_a_tablespace_created_after_the_plan_ends_recovery_before_it_writes_into_the_original(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    server, space = protected.server, tmp_path / "space"
    protected.backup()
    protected.switch()
    protected.restore(protected.plan(tmp_path / "copy"))
    space.mkdir()
    server.execute(f"create tablespace extra location '{space}'", "create table t tablespace extra as select 1 n")
    server.execute("checkpoint")
    protected.switch()
    before = inodes(space)
    copy = open_server(tmp_path / "copy", isolated=False).start(wait=False)
    copy.wait_exit()
    assert "it creates tablespace" in copy.log()
    assert inodes(space) == before


@pytest.mark.newest
def test_a_tablespace_in_place_comes_back_in_place(
    protected: Protected, tmp_path: Path, open_server: OpenServer
) -> None:
    server = protected.server
    with server.connect() as connection:
        connection.execute("set allow_in_place_tablespaces = on")
        connection.execute("create tablespace inside location ''")
        connection.execute("create table t tablespace inside as select n from generate_series(1, 100) n")
    protected.backup()
    protected.switch()
    protected.restore(protected.plan(tmp_path / "copy"))
    copy = open_server(tmp_path / "copy", isolated=False).start()
    copy.wait_promoted()
    assert copy.value("select count(*) from t") == 100
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
