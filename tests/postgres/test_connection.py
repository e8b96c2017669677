"""How a session begins: where a server is found, which limits are lifted, and that a pooler is noticed."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pgrecall.errors import PoolerRefused, ServerUnreachable, UsageError
from pgrecall.postgres.connection import connect, connection_parameters, describe, read_postmaster_file
from pgrecall.postgres.scratch import ScratchServer


def env_of(server: ScratchServer) -> dict[str, str]:
    return {**os.environ, "PGHOST": str(server.socket_dir), "PGUSER": "postgres"}


@pytest.mark.newest
def test_a_server_is_found_by_dsn_by_uri_by_environment_and_by_its_data_directory(pg: ScratchServer) -> None:
    ways = [
        connect(pg.conninfo()),
        connect(f"postgresql://postgres@/postgres?host={pg.socket_dir}"),
        connect(env=env_of(pg)),
        connect(pgdata=pg.pgdata, env={**os.environ, "PGUSER": "postgres"}),
    ]
    for conn in ways:
        with conn:
            assert conn.execute("SHOW data_directory").fetchone() == (str(pg.pgdata),)


@pytest.mark.newest
def test_a_service_names_the_server_and_its_database_is_optional(pg: ScratchServer, tmp_path: Path) -> None:
    service_file = tmp_path / "services"
    service_file.write_text(f"[mine]\nhost={pg.socket_dir}\nuser=postgres\n")
    with (
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PGSERVICEFILE", str(service_file))
        with connect("service=mine") as conn:
            assert conn.info.dbname == "postgres"


def test_a_backup_session_has_no_time_limit_even_where_the_role_has_one(pg: ScratchServer) -> None:
    limits = ("statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout", "lock_timeout")
    pg.execute("CREATE ROLE slow LOGIN", *(f"ALTER ROLE slow SET {name} = '5s'" for name in limits))
    with connect(pg.conninfo(user="slow")) as conn:
        for name in limits:
            assert conn.execute("SELECT current_setting(%s)", [name]).fetchone() == ("0",)
        assert conn.autocommit
        assert conn.execute("SHOW application_name").fetchone() == ("pgrecall",)


@pytest.mark.newest
def test_an_unreachable_server_is_named_and_its_password_is_not(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable) as caught:
        connect(f"host={tmp_path} port=5999 user=backup password=geheim dbname=crm")
    assert str(tmp_path) in str(caught.value)
    assert "5999" in str(caught.value)
    assert "backup" in str(caught.value)
    assert "geheim" not in f"{caught.value} {caught.value.hint} {caught.value.facts}"


def test_a_dsn_that_cannot_be_read_is_refused_without_repeating_it() -> None:
    with pytest.raises(UsageError) as caught:
        connect("host=db1 geheim")
    assert "geheim" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.newest
def test_a_role_that_does_not_exist_is_a_hint_to_name_one(pg: ScratchServer) -> None:
    with pytest.raises(ServerUnreachable) as caught:
        connect(pg.conninfo(user="nobody_knows"))
    assert caught.value.hint is not None
    assert "PGUSER" in caught.value.hint


@pytest.mark.newest
def test_a_stopped_servers_directory_is_told_from_a_running_ones(pg: ScratchServer) -> None:
    postmaster = read_postmaster_file(pg.pgdata)
    assert (postmaster.pid, postmaster.data_directory) == (pg.pid, str(pg.pgdata))
    assert (postmaster.socket_directory, postmaster.port) == (str(pg.socket_dir), 5432)
    pg.stop()
    with pytest.raises(ServerUnreachable, match="no server runs"):
        connect(pgdata=pg.pgdata)


def test_a_half_written_postmaster_file_means_that_the_server_is_starting(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text("4711\n/data\n")
    with pytest.raises(ServerUnreachable, match="starting or stopping"):
        read_postmaster_file(tmp_path)


def test_the_database_is_postgres_unless_somebody_names_one() -> None:
    assert connection_parameters("host=a", env={}, pgdata=None)["dbname"] == "postgres"
    assert connection_parameters("host=a dbname=crm", env={}, pgdata=None)["dbname"] == "crm"
    assert connection_parameters("host=a", env={"PGDATABASE": "erp"}, pgdata=None)["dbname"] == "erp"
    assert "dbname" not in connection_parameters("service=x", env={}, pgdata=None)


def test_a_description_never_shows_a_password() -> None:
    parameters = connection_parameters("host=a password=geheim user=u", env={"PGPASSWORD": "auch"}, pgdata=None)
    assert describe(parameters) == "host=a user=u dbname=postgres"


@contextmanager
def pooler_before(server: ScratchServer, directory: Path) -> Iterator[Path]:
    """What every pooler does: it passes the server's words on, but announces a session number of its own."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / ".s.PGSQL.5432"))
    listener.listen()

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                backend = socket.socket(socket.AF_UNIX)
                backend.connect(str(server.socket_dir / ".s.PGSQL.5432"))
                threading.Thread(target=pump, args=(client, backend, False), daemon=True).start()
                threading.Thread(target=pump, args=(backend, client, True), daemon=True).start()

    def pump(source: socket.socket, sink: socket.socket, renumber: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                place = data.find(b"K\0\0\0\x0c") if renumber else -1
                if place >= 0:
                    data = data[: place + 5] + struct.pack(">I", 0x01234567) + data[place + 9 :]
                    renumber = False
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield directory
    finally:
        listener.close()


@pytest.mark.newest
def test_a_pooler_is_refused(pg: ScratchServer) -> None:
    directory = pg.socket_dir / "pooler"
    directory.mkdir()
    with pooler_before(pg, directory), pytest.raises(PoolerRefused, match="pooler sits between"):
        connect(pg.conninfo(host=str(directory)))
