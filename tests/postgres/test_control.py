"""pg_control: every field as pg_controldata prints it, torn reads read again, nothing guessed."""

import struct
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.clock import ManualClock
from pgrecall.domain.lsn import Lsn
from pgrecall.errors import ControlFileDamaged, ControlVersionUnknown, NoDataDirectory, PgrecallError
from pgrecall.postgres.binaries import Binaries
from pgrecall.postgres.control import (
    CONTROL_FILE,
    READ_ATTEMPTS,
    ClusterState,
    ControlFile,
    read_control,
    read_control_bytes,
)
from pgrecall.postgres.crc import crc32c
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from tests.conftest import NewServer

CONTROL_VERSION = {15: 1300, 16: 1300, 17: 1700, 18: 1800}


class TickingClock(ManualClock):
    """Does something each time somebody sleeps."""

    def __init__(self) -> None:
        super().__init__("2026-11-20T12:00:00Z")
        self.slept = 0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.slept += 1
        self.tick()

    def tick(self) -> None: ...


def pg_controldata(binaries: Binaries, pgdata: Path) -> dict[str, str]:
    done = subprocess.run(
        [str(binaries.program("pg_controldata")), "-D", str(pgdata)],
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C", "TZ": "UTC"},
    )
    lines = (line.split(":", 1) for line in done.stdout.splitlines())
    return {name.strip(): value.strip() for name, value in lines}


def as_pg_controldata_prints(control: ControlFile) -> Iterator[tuple[str, str]]:
    def flag(value: bool) -> str:
        return "on" if value else "off"

    def moment(value: datetime) -> str:
        return f"{value:%a %b} {value.day:2d} {value:%H:%M:%S %Y}"

    yield "pg_control version number", str(control.control_version)
    yield "Catalog version number", str(control.catalog_version)
    yield "Database system identifier", str(control.system_identifier)
    yield "Database cluster state", control.state.text
    yield "pg_control last modified", moment(control.modified)
    yield "Latest checkpoint location", str(control.checkpoint)
    yield "Latest checkpoint's REDO location", str(control.redo)
    yield "Latest checkpoint's TimeLineID", str(control.timeline)
    yield "Latest checkpoint's PrevTimeLineID", str(control.previous_timeline)
    yield "Latest checkpoint's full_page_writes", flag(control.full_page_writes)
    yield "Latest checkpoint's NextXID", f"{control.next_xid >> 32}:{control.next_xid & 0xFFFFFFFF}"
    yield "Latest checkpoint's NextOID", str(control.next_oid)
    yield "Latest checkpoint's NextMultiXactId", str(control.next_multi)
    yield "Latest checkpoint's NextMultiOffset", str(control.next_multi_offset)
    yield "Latest checkpoint's oldestXID", str(control.oldest_xid)
    yield "Latest checkpoint's oldestXID's DB", str(control.oldest_xid_database)
    yield "Latest checkpoint's oldestActiveXID", str(control.oldest_active_xid)
    yield "Latest checkpoint's oldestMultiXid", str(control.oldest_multi)
    yield "Latest checkpoint's oldestMulti's DB", str(control.oldest_multi_database)
    yield "Latest checkpoint's oldestCommitTsXid", str(control.oldest_commit_ts_xid)
    yield "Latest checkpoint's newestCommitTsXid", str(control.newest_commit_ts_xid)
    yield "Time of latest checkpoint", moment(control.checkpoint_time)
    yield "Fake LSN counter for unlogged rels", str(control.unlogged_lsn)
    yield "Minimum recovery ending location", str(control.min_recovery_point)
    yield "Min recovery ending loc's timeline", str(control.min_recovery_timeline)
    yield "Backup start location", str(control.backup_start)
    yield "Backup end location", str(control.backup_end)
    yield "End-of-backup record required", "yes" if control.backup_end_required else "no"
    yield "wal_level setting", control.wal_level
    yield "wal_log_hints setting", flag(control.wal_log_hints)
    yield "max_connections setting", str(control.max_connections)
    yield "max_worker_processes setting", str(control.max_worker_processes)
    yield "max_wal_senders setting", str(control.max_wal_senders)
    yield "max_prepared_xacts setting", str(control.max_prepared_xacts)
    yield "max_locks_per_xact setting", str(control.max_locks_per_xact)
    yield "track_commit_timestamp setting", flag(control.track_commit_timestamp)
    yield "Maximum data alignment", str(control.max_align)
    yield "Database block size", str(control.block_size)
    yield "Blocks per segment of large relation", str(control.relation_segment_blocks)
    yield "WAL block size", str(control.wal_block_size)
    yield "Bytes per WAL segment", str(control.wal_segment_size)
    yield "Maximum length of identifiers", str(control.name_length)
    yield "Maximum columns in an index", str(control.index_max_keys)
    yield "Maximum size of a TOAST chunk", str(control.toast_max_chunk_size)
    yield "Size of a large-object chunk", str(control.large_object_chunk_size)
    yield "Float8 argument passing", "by value" if control.float8_by_value else "by reference"
    yield "Data page checksum version", str(control.checksum_version)
    if control.char_is_signed is not None:
        yield "Default char data signedness", "signed" if control.char_is_signed else "unsigned"


NOT_STORED = {"Latest checkpoint's REDO WAL file", "Date/time type storage", "Mock authentication nonce"}


def agrees(server: ScratchServer) -> ControlFile:
    """pg_controldata and we say the same, and neither says more."""
    control = read_control(server.pgdata, clock=TickingClock())
    printed = pg_controldata(server.binaries, server.pgdata)
    assert dict(as_pg_controldata_prints(control)) == {
        name: value for name, value in printed.items() if name not in NOT_STORED
    }
    return control


def control_bytes(pgdata: Path) -> bytearray:
    return bytearray((pgdata / CONTROL_FILE).read_bytes())


def resealed(data: bytearray) -> bytearray:
    """With a CRC that fits: what a hostile writer can do."""
    at = 292 if struct.unpack_from("=I", data, 8)[0] == 1800 else 288
    struct.pack_into("=I", data, at, crc32c(bytes(data[:at])))
    return data


@pytest.fixture
def pgdata(new_server: NewServer) -> Path:
    return new_server(start=False).pgdata


def test_every_field_is_what_pg_controldata_prints(new_server: NewServer) -> None:
    unlike_the_default = {
        "wal_log_hints": "on",
        "max_connections": "23",
        "max_worker_processes": "11",
        "max_wal_senders": "7",
        "max_prepared_transactions": "5",
        "max_locks_per_transaction": "65",
        "track_commit_timestamp": "on",
        "wal_level": "logical",
    }
    server = new_server(settings=unlike_the_default, options=InitOptions(checksums=False, wal_segment_bytes=1 << 20))
    server.execute("create table t as select 1 as n", "checkpoint")
    control = agrees(server)
    assert control.state == ClusterState.IN_PRODUCTION
    assert control.control_version == CONTROL_VERSION[server.binaries.major]
    assert not control.checksums
    assert control.wal_log_hints
    assert control.system_identifier == int(server.value("select system_identifier::text from pg_control_system()"))
    assert control.next_xid >= 3
    server.stop()
    assert agrees(server).state is ClusterState.SHUT_DOWN


def test_fields_of_a_standby_are_what_pg_controldata_prints(new_server: NewServer) -> None:
    server = new_server("standby")
    server.stop()
    (server.pgdata / "standby.signal").touch()
    server.start()
    server.stop()
    control = agrees(server)
    assert control.state == ClusterState.SHUT_DOWN_IN_RECOVERY
    assert control.min_recovery_timeline == 1
    assert control.min_recovery_point > Lsn(0)
    assert control.checksums


def test_a_torn_read_is_read_again(pgdata: Path) -> None:
    whole = control_bytes(pgdata)
    torn = bytearray(whole)
    torn[100] ^= 0xFF
    (pgdata / CONTROL_FILE).write_bytes(torn)

    class Mending(TickingClock):
        def tick(self) -> None:
            if self.slept == 3:
                (pgdata / CONTROL_FILE).write_bytes(whole)

    clock = Mending()
    assert read_control_bytes(pgdata, clock=clock) == whole
    assert clock.slept == 3


@pytest.mark.newest
def test_a_file_that_stays_wrong_is_damage_with_its_path(pgdata: Path) -> None:
    data = control_bytes(pgdata)
    data[40] ^= 1
    (pgdata / CONTROL_FILE).write_bytes(data)
    clock = TickingClock()
    with pytest.raises(ControlFileDamaged, match=r"global/pg_control: pg_control has CRC \w{8}, its content has \w{8}"):
        read_control(pgdata, clock=clock)
    assert clock.slept == READ_ATTEMPTS - 1


@pytest.mark.newest
@pytest.mark.parametrize("length", [0, 11, 12, 287, 290])
def test_a_short_file_is_damage(pgdata: Path, length: int) -> None:
    with pytest.raises(ControlFileDamaged, match=f"pg_control has {length} bytes, not 8192"):
        ControlFile.parse(bytes(control_bytes(pgdata)[:length]))


@pytest.mark.newest
def test_a_directory_without_the_file_is_no_data_directory(tmp_path: Path) -> None:
    with pytest.raises(NoDataDirectory, match="is no data directory of PostgreSQL: it has no global/pg_control"):
        read_control(tmp_path, clock=TickingClock())


@pytest.mark.newest
@pytest.mark.parametrize("version", [1201, 1900, 2_000_000_000])
def test_an_unknown_version_is_refused_with_the_known_ones(pgdata: Path, version: int) -> None:
    data = control_bytes(pgdata)
    struct.pack_into("=I", data, 8, version)
    expected = (
        f"pg_control has version {version}; "
        "known are 1300 (PostgreSQL 13 to 16), 1700 (PostgreSQL 17), 1800 (PostgreSQL 18)"
    )
    with pytest.raises(ControlVersionUnknown) as caught:
        ControlFile.parse(bytes(data))
    assert caught.value.message == expected


@pytest.mark.newest
def test_a_file_of_the_other_byte_order_is_told_apart(pgdata: Path) -> None:
    data = control_bytes(pgdata)
    data[8:12] = data[8:12][::-1]
    with pytest.raises(ControlVersionUnknown) as caught:
        ControlFile.parse(bytes(data))
    assert "other byte order" in str(caught.value.hint)


@pytest.mark.newest
@pytest.mark.parametrize(
    ("at", "layout", "value", "said"),
    [
        (16, "=I", 7, "cluster state 7"),
        (24, "=q", 2**62, "a time of"),
        (172, "=i", 3, "3 is no wal_level"),
        (172, "=i", -1, "-1 is no wal_level"),
        (208, "=d", 7654321.0, "another architecture"),
        (216, "=I", 0, "block size 0"),
        (220, "=I", 0, "relation segment size 0"),
        (224, "=I", 8191, "WAL block size 8191"),
        (228, "=I", 3 << 20, "WAL segment size"),
    ],
)
def test_values_that_no_server_has_are_damage_even_with_a_right_crc(
    pgdata: Path, at: int, layout: str, value: float, said: str
) -> None:
    data = control_bytes(pgdata)
    struct.pack_into(layout, data, at, value)
    with pytest.raises(ControlFileDamaged, match=said):
        ControlFile.parse(bytes(resealed(data)))


def test_version_1700_is_read_by_its_own_layout(pgdata: Path) -> None:
    """Its layout is 13's with wal_level inside the checkpoint, in what was padding; 17 may not be installed here."""
    data = control_bytes(pgdata)
    struct.pack_into("=I", data, 8, 1700)
    struct.pack_into("=i", data, 60, 2)
    control = ControlFile.parse(bytes(resealed(data)))
    assert (control.checkpoint_wal_level, control.char_is_signed) == ("logical", None)
    assert control.modified.tzinfo is UTC


@given(st.binary(max_size=400), st.sampled_from([1300, 1700, 1800]))
def test_noise_with_a_right_crc_is_parsed_or_refused_by_name(noise: bytes, version: int) -> None:
    data = bytearray(noise.ljust(300, b"\1"))
    struct.pack_into("=I", data, 8, version)
    try:
        ControlFile.parse(bytes(resealed(data)))
    except PgrecallError as error:
        assert error.code == "control-file-damaged"
