"""What a walk of a live data directory lists, and each thing that it leaves out."""

import os
import socket
import stat
import threading
from pathlib import Path

import psycopg
import pytest

from pgrecall.clock import ManualClock, SystemClock
from pgrecall.errors import PostgresError, Refused
from pgrecall.postgres.connection import connect
from pgrecall.postgres.control import read_control
from pgrecall.postgres.datadir import list_data_directory
from pgrecall.postgres.exclusions import EMPTIED_DIRECTORIES, is_excluded
from pgrecall.postgres.listing import FileKind, Listing
from pgrecall.postgres.relation import Fork, parse_relation_path
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from pgrecall.postgres.server import read_config_files, read_facts
from tests.conftest import NewServer

CLOCK = SystemClock()


def listed(pgdata: Path, config_files: tuple[tuple[str, str], ...] = ()) -> Listing:
    catalog_version = read_control(pgdata, clock=CLOCK).catalog_version
    return list_data_directory(pgdata, catalog_version=catalog_version, clock=CLOCK, config_files=config_files)


def paths(listing: Listing) -> set[str]:
    return {path.decode() for path, _ in listing.files()}


def directories(listing: Listing) -> set[str]:
    return {directory.path.decode() for directory in listing.directories}


def forks(server: ScratchServer, relation: str) -> set[str]:
    """Names of all files of a relation, on disk now."""
    base = str(server.value("SELECT pg_relation_filepath(%s::regclass)", (relation,)))
    found = [*server.pgdata.glob(base), *server.pgdata.glob(f"{base}_*"), *server.pgdata.glob(f"{base}.*")]
    return {str(path.relative_to(server.pgdata)) for path in found}


def test_everything_of_a_cluster_is_listed_in_order_with_its_attributes(pg: ScratchServer) -> None:
    pg.execute("CREATE TABLE t AS SELECT generate_series(1, 10000) AS n", "VACUUM t", "CHECKPOINT")
    listing = listed(pg.pgdata)
    every = list(listing.files())
    names = [path for path, _ in every]
    assert [each.path for each in listing.directories] == sorted(each.path for each in listing.directories)
    for directory in listing.directories:
        assert [item.name for item in directory.files] == sorted(item.name for item in directory.files)
        status = (pg.pgdata / directory.path.decode()).stat()
        assert (directory.mode, directory.uid, directory.gid) == (
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
        )
    assert len(set(names)) == len(names) == listing.file_count
    assert forks(pg, "t") <= paths(listing)
    assert {"PG_VERSION", "postgresql.conf", "postgresql.auto.conf", "global/pg_filenode.map", "base/1/PG_VERSION"} <= (
        paths(listing)
    )
    for path, item in every:
        status = Path(os.fsdecode(listing.source(path))).stat()
        assert (item.inode, item.mode, item.uid) == (status.st_ino, stat.S_IMODE(status.st_mode), status.st_uid)
    assert listing.notes == []
    assert listing.links == []
    assert listing.total_bytes > 20_000_000


def test_only_what_a_server_makes_anew_is_left_out(pg: ScratchServer) -> None:
    pg.execute("CHECKPOINT")
    on_disk = {str(path.relative_to(pg.pgdata)) for path in pg.pgdata.rglob("*") if path.is_file()}
    missing = on_disk - paths(listed(pg.pgdata))
    allowed = ("pg_wal/", "pg_subtrans/", "pg_stat_tmp/", "pg_notify/", "pg_replslot/", "pg_dynshmem/", "pg_serial/")
    rest = {path for path in missing if not path.startswith(allowed) and "pg_internal.init" not in path}
    assert rest == {"postmaster.pid", "postmaster.opts", "global/pg_control"}


def test_emptied_directories_are_kept_without_their_contents(pg: ScratchServer) -> None:
    pg.execute("SELECT pg_create_physical_replication_slot('standby', true)")
    for name in EMPTIED_DIRECTORIES:
        (pg.pgdata / name.decode() / "left_over").write_text("x")
        (pg.pgdata / name.decode() / "below").mkdir()
    listing = listed(pg.pgdata)
    for each in listing.directories:
        if each.path in EMPTIED_DIRECTORIES:
            assert each.files == []
    assert {name.decode() for name in EMPTIED_DIRECTORIES} <= directories(listing)
    assert not any(name.startswith("pg_replslot/") for name in directories(listing) | paths(listing))


def test_pg_wal_is_an_empty_directory_with_its_own(pg: ScratchServer) -> None:
    listing = listed(pg.pgdata)
    assert {"pg_wal", "pg_wal/archive_status"} <= directories(listing)
    assert ("pg_wal/summaries" in directories(listing)) == (pg.binaries.major >= 17)
    assert not any(path.startswith("pg_wal/") for path in paths(listing))


@pytest.mark.newest
def test_a_linked_pg_wal_is_kept_as_a_link(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server(start=False)
    elsewhere = tmp_path / "wal"
    (server.pgdata / "pg_wal").rename(elsewhere)
    (server.pgdata / "pg_wal").symlink_to(elsewhere)
    listing = listed(server.start().pgdata)
    assert [(link.path, link.target) for link in listing.links] == [(b"pg_wal", os.fsencode(elsewhere))]
    assert {"pg_wal", "pg_wal/archive_status"} <= directories(listing)


def test_of_unlogged_relations_only_init_forks_are_listed(pg: ScratchServer) -> None:
    pg.execute(
        "CREATE UNLOGGED TABLE u (id bigserial PRIMARY KEY, t text)",
        "INSERT INTO u (t) SELECT repeat('x', 100) FROM generate_series(1, 20000)",
        "VACUUM u",
        "CHECKPOINT",
    )
    listing = paths(listed(pg.pgdata))
    # Sequences of unlogged tables are unlogged since 15.
    for relation in ("u", "u_pkey", "u_id_seq"):
        on_disk = forks(pg, relation)
        init = {path for path in on_disk if path.endswith("_init")}
        assert len(on_disk) >= 2
        assert len(init) == 1
        assert on_disk & listing == init
    number = pg.value("SELECT pg_relation_filepath('u'::regclass)")
    for suffix in (".1", ".2", "_fsm.1", "_vm.1"):
        (pg.pgdata / f"{number}{suffix}").touch()
    (pg.pgdata / f"{number}_init.1").touch()
    names = paths(listed(pg.pgdata))
    assert {path for path in names if path.startswith(number)} == {f"{number}_init", f"{number}_init.1"}


def test_a_table_made_logged_is_listed_again(pg: ScratchServer) -> None:
    pg.execute("CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 10000) AS n", "ALTER TABLE u SET LOGGED")
    assert forks(pg, "u") <= paths(listed(pg.pgdata))


def test_temporary_relations_and_files_are_left_out(pg: ScratchServer) -> None:
    with psycopg.connect(pg.conninfo(), autocommit=True) as conn:
        conn.execute("CREATE TEMP TABLE tt AS SELECT generate_series(1, 100000) AS n")
        conn.execute("VACUUM tt")
        conn.execute("CREATE TEMP SEQUENCE ts")
        on_disk = {path.name for path in pg.pgdata.glob("base/*/t*_*")}
        assert len(on_disk) >= 4
        (pg.pgdata / "base/pgsql_tmp").mkdir(exist_ok=True)
        (pg.pgdata / "base/pgsql_tmp/pgsql_tmp4711.0").touch()
        listing = listed(pg.pgdata)
    assert not {Path(path).name for path in paths(listing)} & on_disk
    assert not any("pgsql_tmp" in path for path in paths(listing) | directories(listing))


ROOT_LEFT_OUT = (
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "backup_manifest.tmp",
    "recovery.signal",
    "standby.signal",
    "promote",
    "logrotate",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    ".s.PGSQL.5432.lock",
    "pgsql_tmp1",
)


@pytest.mark.newest
def test_files_that_belong_to_a_moment_of_the_server_are_left_out(pg: ScratchServer) -> None:
    for name in (
        *ROOT_LEFT_OUT,
        "global/pg_internal.init.4711",
        "base/1/pg_internal.init",
        "global/pg_filenode.map.tmp",
    ):
        (pg.pgdata / name).write_text("x")
    kept = ("postgresql.conf.old", "my_backup_label", "base/1/t_notes")
    for name in kept:
        (pg.pgdata / name).write_text("x")
    names = paths(listed(pg.pgdata))
    assert not names & set(ROOT_LEFT_OUT)
    assert not any("pg_internal.init" in name or name.endswith(".map.tmp") for name in names)
    assert set(kept) <= names


def test_nothing_is_left_out_by_a_name_in_another_place() -> None:
    assert is_excluded(b"", b"postmaster.pid")
    assert not is_excluded(b"log", b"postmaster.pid")
    assert is_excluded(b"base/5", b"t3_16400")
    assert not is_excluded(b"log", b"t3_16400")
    assert is_excluded(b"global", b"pg_control")
    assert not is_excluded(b"base/5", b"pg_control")


def test_files_are_told_apart_by_kind(pg: ScratchServer) -> None:
    pg.execute("CREATE TABLE t AS SELECT generate_series(1, 10000) AS n", "VACUUM t")
    listing = listed(pg.pgdata)
    for path, item in listing.files():
        parsed = parse_relation_path(path)
        if path.endswith(b"pg_filenode.map"):
            assert item.kind is FileKind.FILENODE_MAP
        elif parsed is None:
            assert item.kind is FileKind.OTHER
        else:
            assert item.kind is (FileKind.RELATION_MAIN if parsed.fork is Fork.MAIN else FileKind.RELATION_OTHER)
    assert {item.kind for _, item in listing.files()} == set(FileKind) - {FileKind.LINKED}
    assert {path for path, item in listing.files() if item.kind is FileKind.FILENODE_MAP} == {
        os.fsencode(path.relative_to(pg.pgdata)) for path in pg.pgdata.rglob("pg_filenode.map")
    }


def test_tablespaces_are_listed_below_their_link_and_only_our_version_of_them(
    pg: ScratchServer, tmp_path: Path
) -> None:
    place, within = tmp_path / "space", pg.pgdata / "my_space"
    for directory in (place, within):
        directory.mkdir()
    pg.execute(
        f"CREATE TABLESPACE outside LOCATION '{place}'",
        f"CREATE TABLESPACE within LOCATION '{within}'",
        "SET allow_in_place_tablespaces = on",
        "CREATE TABLESPACE in_place LOCATION ''",
        "CREATE TABLE o TABLESPACE outside AS SELECT 1 AS n",
        "CREATE TABLE w TABLESPACE within AS SELECT 1 AS n",
        "CREATE TABLE i TABLESPACE in_place AS SELECT 1 AS n",
        "CREATE UNLOGGED TABLE u TABLESPACE outside AS SELECT 1 AS n",
    )
    (place / "PG_9.6_201608131" / "16384").mkdir(parents=True)
    (place / "PG_9.6_201608131" / "16384" / "1259").write_text("another major's")
    (place / "notes.txt").write_text("not PostgreSQL's")
    oids = dict(pg.query("SELECT spcname, oid FROM pg_tablespace"))
    listing = listed(pg.pgdata)
    names = paths(listing)
    assert [(each.oid, each.path, each.in_place) for each in listing.tablespaces] == [
        (oids["outside"], os.fsencode(place), False),
        (oids["within"], os.fsencode(within), False),
        (oids["in_place"], None, True),
    ]
    for relation in ("o", "w", "i"):
        assert forks(pg, relation) <= names
    assert {path for path in forks(pg, "u") if not path.endswith("_init")}.isdisjoint(names)
    assert f"pg_tblspc/{oids['outside']}" in directories(listing)
    assert not any("9.6" in path or path.endswith("notes.txt") for path in names)
    # The one inside the data directory comes once, as a tablespace.
    assert not any(path.startswith("my_space") for path in names | directories(listing))
    assert [note.path for note in listing.notes] == [b"my_space"]
    for path, item in listing.files():
        assert Path(os.fsdecode(listing.source(path))).stat().st_ino == item.inode


@pytest.mark.newest
def test_a_tablespace_that_is_not_mounted_is_an_error_not_an_empty_directory(pg: ScratchServer, tmp_path: Path) -> None:
    place = tmp_path / "space"
    place.mkdir()
    pg.execute(f"CREATE TABLESPACE s LOCATION '{place}'")
    place.rename(tmp_path / "unmounted")
    catalog_version = read_control(pg.pgdata, clock=CLOCK).catalog_version
    for _ in ("missing", "empty mount point"):
        with pytest.raises(PostgresError, match=str(place)):
            list_data_directory(pg.pgdata, catalog_version=catalog_version, clock=ManualClock("2026-11-20T00:00:00Z"))
        place.mkdir(exist_ok=True)


@pytest.mark.newest
@pytest.mark.parametrize("path", ["base", "pg_xact", "base/1/1259", "global/1262", "pg_logical/mappings"])
def test_a_symbolic_link_that_would_leave_data_out_is_refused_by_name(
    path: str, new_server: NewServer, tmp_path: Path
) -> None:
    server = new_server(start=False)
    (server.pgdata / path).rename(tmp_path / "elsewhere")
    (server.pgdata / path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused) as caught:
        listed(server.pgdata)
    assert f"{server.pgdata}/{path}" in str(caught.value)
    assert str(tmp_path / "elsewhere") in str(caught.value)


@pytest.mark.newest
def test_links_of_the_users_are_followed_to_files_and_told_otherwise(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server(start=False)
    (server.pgdata / "pg_hba.conf").rename(tmp_path / "pg_hba.conf")
    (server.pgdata / "pg_hba.conf").symlink_to(tmp_path / "pg_hba.conf")
    (tmp_path / "log").mkdir()
    (server.pgdata / "log").symlink_to(tmp_path / "log")
    (server.pgdata / "server.key").symlink_to(tmp_path / "nowhere")
    listing = listed(server.pgdata)
    found = {path: item for path, item in listing.files() if item.kind is FileKind.LINKED}
    assert set(found) == {b"pg_hba.conf"}
    assert found[b"pg_hba.conf"].size == (tmp_path / "pg_hba.conf").stat().st_size
    levels = {note.path: note.level for note in listing.notes}
    assert levels == {b"pg_hba.conf": "info", b"log": "warn", b"server.key": "warn"}


@pytest.mark.newest
def test_sockets_and_pipes_are_skipped_with_a_note(new_server: NewServer) -> None:
    server = new_server(start=False)
    os.mkfifo(server.pgdata / "pipe")
    # A socket's path has room for 107 bytes only.
    with socket.socket(socket.AF_UNIX) as listener:
        place = server.socket_dir / "s"
        listener.bind(str(place))
        place.rename(server.pgdata / "agent.sock")
    assert [note.path for note in sorted(listed(server.pgdata).notes)] == [b"agent.sock", b"pipe"]


@pytest.mark.newest
def test_an_unreadable_directory_is_an_error_with_its_name(new_server: NewServer) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    server = new_server(start=False)
    (server.pgdata / "base/1").chmod(0)
    try:
        with pytest.raises(PostgresError, match="base/1"):
            listed(server.pgdata)
    finally:
        (server.pgdata / "base/1").chmod(0o700)


def test_configuration_outside_the_data_directory_is_listed_apart(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server(start=False)
    etc = tmp_path / "etc"
    etc.mkdir()
    (server.pgdata / "pg_hba.conf").rename(etc / "pg_hba.conf")
    (etc / "local.conf").write_text("work_mem = '5MB'\n")
    server.configure({"hba_file": str(etc / "pg_hba.conf"), "include": str(etc / "local.conf")})
    server.start()
    with connect(server.conninfo()) as conn:
        config_files = read_config_files(conn, read_facts(conn))
    listing = listed(server.pgdata, config_files)
    found = {each.source: each for each in listing.outside}
    assert {source: each.setting for source, each in found.items()} == {
        os.fsencode(etc / "pg_hba.conf"): "hba_file",
        os.fsencode(etc / "local.conf"): "config_file",
    }
    names = [each.file.name for each in listing.outside]
    assert len(set(names)) == 2
    assert not any(b"/" in name for name in names)
    assert "postgresql.conf" in paths(listing)
    gone = listed(server.pgdata, (("config_file", str(etc / "gone.conf")),))
    assert [(note.level, note.path) for note in gone.notes] == [("warn", os.fsencode(etc / "gone.conf"))]


@pytest.mark.newest
def test_group_access_is_kept_as_it_is(new_server: NewServer) -> None:
    server = new_server(options=InitOptions(group_access=True))
    listing = listed(server.pgdata)
    assert {each.mode for each in listing.directories} == {0o750}
    assert {item.mode for _, item in listing.files()} == {0o640}


def test_files_that_vanish_during_the_walk_are_no_error(pg: ScratchServer) -> None:
    stop = threading.Event()

    def churn() -> None:
        with psycopg.connect(pg.conninfo(), autocommit=True) as conn:
            while not stop.is_set():
                conn.execute("CREATE TABLE churn AS SELECT generate_series(1, 2000) AS n")
                conn.execute("DROP TABLE churn")

    threads = [threading.Thread(target=churn)]
    threads[0].start()
    try:
        for _ in range(30):
            assert listed(pg.pgdata).file_count > 800
    finally:
        stop.set()
        threads[0].join()


@pytest.mark.newest
def test_names_that_are_no_utf8_are_listed_byte_for_byte(new_server: NewServer) -> None:
    server = new_server(start=False)
    name = b"no\xff-utf8"
    Path(os.fsdecode(os.fsencode(server.pgdata) + b"/" + name)).write_text("x")
    assert name in {path for path, _ in listed(server.pgdata).files()}


def test_a_directory_without_a_cluster_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PostgresError, match="no data directory"):
        list_data_directory(tmp_path, catalog_version=1, clock=CLOCK)
