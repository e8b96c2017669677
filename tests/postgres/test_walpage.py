"""A WAL file is refused unless it is the segment it is named after, of this cluster."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.clock import SystemClock
from pgrecall.domain.lsn import Lsn
from pgrecall.domain.wal import WalSegment
from pgrecall.errors import PgrecallError, WalInvalid, WrongCluster
from pgrecall.postgres.accel import Buffer
from pgrecall.postgres.control import read_control
from pgrecall.postgres.scratch import InitOptions
from pgrecall.postgres.walpage import SegmentIdentity, check_segment_header, read_segment_identity
from tests.conftest import NewServer
from tests.support.walbuilder import SYSTEM, WalBuilder

SIZE = 1 << 20
START = 0x3_0010_0000
SEGMENT = WalSegment(2, START // SIZE)


def header(**changes: int) -> bytearray:
    wal = WalBuilder(start=START, timeline=2)
    wal.page()
    data = wal.data
    for name, value in changes.items():
        at, length = {"magic": (0, 2), "flags": (2, 2), "timeline": (4, 4), "size": (32, 4)}[name]
        data[at : at + length] = value.to_bytes(length, "little")
    return data


def check(data: Buffer, *, system_id: int = SYSTEM, segment: WalSegment = SEGMENT, size: int = SIZE) -> SegmentIdentity:
    return check_segment_header(data, system_id=system_id, segment=segment, size=size)


def test_every_server_writes_headers_that_pass(new_server: NewServer) -> None:
    server = new_server(options=InitOptions(wal_segment_bytes=SIZE))
    server.execute("create table t as select generate_series(1, 50000) n")
    name = server.value("select pg_walfile_name(pg_current_wal_lsn())")
    server.stop()
    control = read_control(server.pgdata, clock=SystemClock())
    data = (server.pgdata / "pg_wal" / name).read_bytes()[:40]
    segment = WalSegment.parse(name, SIZE)
    found = check(data, system_id=control.system_identifier, segment=segment)
    assert found == (control.system_identifier, 1, SIZE, segment.start(SIZE), 8192, server.binaries.major)


def test_a_good_header_gives_its_identity() -> None:
    assert check(header()) == SegmentIdentity(SYSTEM, 2, SIZE, Lsn(START), 1024, 18)


def test_the_first_page_may_be_of_the_timeline_that_was_left() -> None:
    assert check(header(timeline=1)).timeline == 1
    with pytest.raises(WalInvalid, match="holds WAL of timeline 3, later than its name says"):
        check(header(timeline=3))


def test_another_systems_segment_is_refused_with_both_identifiers() -> None:
    with pytest.raises(WrongCluster) as caught:
        check(header(), system_id=42)
    assert (
        caught.value.message
        == f"segment 000000020000000300000001 belongs to system {SYSTEM}, this cluster is system 42"
    )
    assert caught.value.hint == "Does archive_command name the right cluster?"


def test_a_file_of_another_place_is_refused() -> None:
    with pytest.raises(
        WalInvalid, match="the file named 000000020000000300000002 holds WAL of 3/100000, not of 3/200000"
    ):
        check(header(), segment=SEGMENT.next())


def test_a_file_of_another_segment_size_is_refused() -> None:
    with pytest.raises(WalInvalid, match="says it has 2097152 bytes; this cluster's have 1048576"):
        check(header(size=2 << 20))


@pytest.mark.parametrize("changes", [{"magic": 0x1234}, {"flags": 0}, {"flags": 0x12}, {"timeline": 0}])
def test_what_is_no_first_page_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(WalInvalid):
        check(header(**changes))


def test_an_empty_file_is_named_as_such() -> None:
    with pytest.raises(WalInvalid) as caught:
        check(bytes(8192))
    assert caught.value.hint == "The file is empty inside: nothing was written to it yet."
    with pytest.raises(WalInvalid, match="there are 39 bytes"):
        check(header()[:39])


def test_an_unknown_major_version_is_no_damage() -> None:
    assert read_segment_identity(header(magic=0xD1FF)).major is None


@given(st.binary(max_size=80))
def test_noise_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(PgrecallError):
        check(data)


def test_a_file_is_read_as_bytes_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(header().ljust(8192, b"\0"))
    assert check(memoryview(path.read_bytes())) == check(path.read_bytes())
