"""WAL made byte by byte: fragments, switches and lost records at their worst places; and noise: twins agree on it."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrecall.domain.lsn import Lsn
from pgrecall.errors import WalInvalid
from pgrecall.postgres import walscan_python
from pgrecall.postgres.accel import load_native
from pgrecall.postgres.walscan import Ending, SegmentFacts, join, scan_segment
from pgrecall.postgres.walscan_python import NO_TIME, TIME_MAX, TIME_MIN, RawScan
from tests.support.walbuilder import OVERWRITE, WalBuilder, record_bytes

NATIVE = load_native()
PAGE = 1024
XLOG, XACT, TABLESPACE = 0, 1, 5
COMMIT, PREPARE, ABORT, SWITCH, RESTORE_POINT, PARAMETERS = 0x00, 0x10, 0x20, 0x40, 0x70, 0x60
NOON = 857_000_000_000_000


def raw_scan(data: bytes, start: int, page_size: int = PAGE) -> RawScan:
    """Both twins, which must agree."""
    python = walscan_python.scan_wal(data, start, page_size)
    if NATIVE is not None:
        assert tuple(NATIVE.scan_wal(data, start, page_size)) == tuple(python)
    return python


def scan(wal: WalBuilder, pages: int) -> SegmentFacts:
    raw_scan(wal.take(pages), wal.start)
    return scan_segment(wal.take(pages), segment_start=wal.start, page_size=PAGE)


def two_segments(wal: WalBuilder, pages: int) -> tuple[SegmentFacts, SegmentFacts]:
    """The pages cut in two; the second part's first page gets a long header, as a new file has."""
    first = scan(wal, pages)
    rest = bytes(wal.data[pages * PAGE :])
    magic, flags, timeline, address, left = struct.unpack_from("=HHIQI", rest)
    assert flags & 2, "the builder was told where the segment ends"
    del magic, timeline, left
    padded = rest.ljust(-(-len(rest) // PAGE) * PAGE + PAGE, b"\0")
    raw_scan(padded, address)
    return first, scan_segment(padded, segment_start=address, page_size=PAGE)


class TwoSegments(WalBuilder):
    """The page after the second begins a new segment."""

    def page(self, *, rest: int = 0, flags: int = 0, address: int | None = None) -> None:
        second = len(self.data) == 2 * self.page_size
        super().page(rest=rest, flags=flags | (2 if second else 0), address=address)
        if second:
            self.data += struct.pack("=QII", 1, self.segment_size, self.page_size)


def commit(moment: int) -> bytes:
    return struct.pack("=q", moment)


# records --------------------------------------------------------------------------------------------------------------
def test_commit_times_are_the_earliest_and_the_latest_not_the_first_and_the_last() -> None:
    wal = WalBuilder()
    for info, moment in ((COMMIT, 30), (ABORT, 10), (0x30, 50), (0x40 | 0x80, 20), (PREPARE, 1), (0x50, 99)):
        wal.append(rmid=XACT, info=info, main=commit(NOON + moment))
    raw = raw_scan(wal.take(4), wal.start)
    assert (raw.earliest, raw.latest, raw.records) == (NOON + 10, NOON + 50, 6)


@pytest.mark.parametrize("moment", [TIME_MIN - 1, TIME_MAX + 1, -(2**63), 2**63 - 1])
def test_times_that_no_calendar_has_are_ignored(moment: int) -> None:
    wal = WalBuilder()
    wal.append(rmid=XACT, info=COMMIT, main=commit(moment))
    wal.append(rmid=XLOG, info=RESTORE_POINT, main=commit(moment) + bytes(64))
    facts = scan(wal, 2)
    assert (facts.first_commit, facts.last_commit, facts.restore_points, facts.records) == (None, None, (), 2)


def test_the_first_and_last_times_of_the_calendar_are_kept() -> None:
    wal = WalBuilder()
    wal.append(rmid=XACT, info=COMMIT, main=commit(TIME_MIN))
    wal.append(rmid=XACT, info=COMMIT, main=commit(TIME_MAX))
    facts = scan(wal, 2)
    assert facts.first_commit is not None
    assert facts.last_commit is not None
    assert (facts.first_commit.year, facts.last_commit.year) == (1, 9999)


def test_an_origin_and_a_top_level_xid_come_before_the_data() -> None:
    wal = WalBuilder()
    before = struct.pack("=BH", 253, 7) + struct.pack("=BI", 252, 4711)
    wal.append(rmid=XACT, info=COMMIT, main=commit(NOON), before_main=before)
    wal.append(rmid=XACT, info=COMMIT, main=commit(NOON + 5) + bytes(300), before_main=before)
    raw = raw_scan(wal.take(2), wal.start)
    assert (raw.earliest, raw.latest) == (NOON, NOON + 5)


@pytest.mark.parametrize("main", [b"", b"1234567"])
def test_a_commit_without_room_for_a_time_has_none(main: bytes) -> None:
    wal = WalBuilder()
    wal.append(rmid=XACT, info=COMMIT, main=main)
    assert raw_scan(wal.take(1), wal.start).latest == NO_TIME


def test_headers_that_run_on_for_ever_hide_the_data_without_harm() -> None:
    wal = WalBuilder(page_size=8192)
    wal.append(rmid=XACT, info=COMMIT, main=commit(NOON), before_main=struct.pack("=BH", 253, 7) * 680)
    wal.append(rmid=XACT, info=COMMIT, before_main=struct.pack("=BBB", 255, 200, 0))
    raw = raw_scan(wal.take(1), wal.start, 8192)
    assert (raw.records, raw.latest) == (2, NO_TIME)


def test_names_and_paths_are_read_up_to_their_end() -> None:
    wal = WalBuilder()
    long_path = b"/" + b"p" * 1022
    at = [
        wal.append(rmid=XLOG, info=RESTORE_POINT, main=commit(NOON) + b"a\xff".ljust(64, b"\0")),
        wal.append(rmid=XLOG, info=RESTORE_POINT, main=commit(NOON) + b"n" * 64),
        wal.append(rmid=TABLESPACE, info=0, main=struct.pack("=I", 16384) + long_path + b"\0"),
        wal.append(rmid=TABLESPACE, info=0x10, main=struct.pack("=I", 16384)),
        wal.append(rmid=XLOG, info=PARAMETERS, main=struct.pack("=iiiiii??", 100, 8, 10, 0, 64, 0, False, False)),
        wal.append(rmid=XLOG, info=PARAMETERS, main=struct.pack("=iiiiii??", 100, 8, 10, 0, 64, 9, False, False)),
    ]
    facts = scan(wal, 4)
    assert [(each.name, each.lsn) for each in facts.restore_points] == [("a\\xff", at[0]), ("n" * 64, at[1])]
    assert [(each.oid, each.path, each.lsn) for each in facts.tablespaces] == [(16384, long_path.decode(), at[2])]
    assert [(each.wal_level, each.lsn) for each in facts.parameter_changes] == [
        ("minimal", at[4]),
        ("unknown 9", at[5]),
    ]


# endings --------------------------------------------------------------------------------------------------------------
def test_wal_ends_before_a_record_with_a_wrong_crc() -> None:
    wal = WalBuilder()
    wal.append(rmid=XLOG, info=0x20, main=b"good")
    good = wal.at
    record = bytearray(record_bytes(rmid=XLOG, info=0x20, main=b"damaged", prev=wal.last))
    record[-1] ^= 1
    wal.append_bytes(bytes(record))
    facts = scan(wal, 2)
    assert (facts.ending, facts.end, facts.records) == (Ending.BROKEN, Lsn(good), 1)


@pytest.mark.parametrize("prev", [1, 0x3_0000_0100])
def test_wal_ends_before_a_record_that_does_not_follow(prev: int) -> None:
    wal = WalBuilder()
    wal.append(rmid=XLOG, info=0x20, main=b"good")
    good = wal.at
    wal.append(rmid=XLOG, info=0x20, main=b"of another history", prev=prev)
    facts = scan(wal, 2)
    assert (facts.ending, facts.end) == (Ending.BROKEN, Lsn(good))


def test_wal_ends_where_a_recycled_files_old_pages_follow() -> None:
    wal = WalBuilder()
    wal.fill_page()
    end = len(wal.data)
    wal.page(address=wal.start - (1 << 20))
    wal.append(rmid=XLOG, info=0x20)
    facts = scan(wal, 3)
    assert (facts.ending, facts.end, facts.records) == (Ending.BROKEN, wal.start + end, 1)


def test_wal_ends_where_the_timeline_goes_back() -> None:
    wal = WalBuilder(timeline=2)
    wal.fill_page()
    wal.timeline = 1
    wal.append(rmid=XLOG, info=0x20)
    assert scan(wal, 3).ending == Ending.BROKEN


def test_a_switch_fills_the_segment() -> None:
    wal = WalBuilder()
    wal.append(rmid=XACT, info=COMMIT, main=commit(NOON))
    wal.append(rmid=XLOG, info=SWITCH)
    facts = scan(wal, 4)
    assert (facts.ending, facts.complete, facts.end) == (Ending.SWITCHED, True, wal.start + 4 * PAGE)
    assert facts.end_of_records == wal.at


def test_an_empty_file_is_unfinished_from_its_start() -> None:
    facts = scan_segment(bytes(8192), segment_start=1 << 32)
    assert (facts.ending, facts.end, facts.records, facts.timeline) == (Ending.UNFINISHED, Lsn(1 << 32), 0, 0)


@pytest.mark.parametrize("page_size", [0, 512, 1000, 131072, -1024])
def test_page_sizes_that_no_server_has_are_refused(page_size: int) -> None:
    for backend in (walscan_python, NATIVE or walscan_python):
        with pytest.raises(ValueError, match="WAL page size"):
            backend.scan_wal(bytes(8192), 0, page_size)


@pytest.mark.parametrize(("length", "start"), [(0, 0), (8191, 0), (8192, 2**64 - 8192)])
def test_lengths_and_places_that_no_segment_has_are_refused(length: int, start: int) -> None:
    for backend in (walscan_python, NATIVE or walscan_python):
        with pytest.raises(ValueError, match="bytes of WAL at"):
            backend.scan_wal(bytes(length), start, 8192)


# neighbours -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("keep", [8, 16, 24, 32, 40])
def test_a_commit_over_the_boundary_is_found_by_joining(keep: int) -> None:
    """Cut after the length, before the CRC, after the header, and inside the data."""
    wal = TwoSegments()
    wal.append(rmid=XLOG, info=0x20)
    wal.fill_page()
    wal.fill_page(keep)
    lsn = wal.append(rmid=XACT, info=COMMIT, main=commit(NOON) + bytes(40))
    wal.append(rmid=XLOG, info=0x20)
    first, second = two_segments(wal, 2)
    assert (first.ending, first.last_record, second.first_prev) == (Ending.FULL, lsn, lsn)
    assert (first.last_commit, second.last_commit) == (None, None)
    assert (len(first.tail or b""), second.head_length) == (keep, len(second.head or b""))
    joined = join(first.tail or b"", second.head or b"", lsn=lsn)
    assert joined.last_commit is not None
    assert joined.first_commit == joined.last_commit


def test_parts_that_are_not_one_record_are_refused() -> None:
    record = record_bytes(rmid=XACT, info=COMMIT, main=commit(NOON), prev=8)
    join(record[:30], record[30:], lsn=1 << 32)
    with pytest.raises(WalInvalid, match=r"the record at 1/0 should have \d+ bytes; its two segments hold \d+"):
        join(record[:30], record[31:], lsn=1 << 32)
    with pytest.raises(WalInvalid, match="wrong CRC"):
        join(record[:30], record[30:-1] + b"\1", lsn=1 << 32)
    with pytest.raises(WalInvalid):
        join(b"", b"", lsn=1 << 32)


@pytest.mark.parametrize("keep", [8, 16])
def test_a_switch_over_the_boundary_makes_the_second_segment_switched(keep: int) -> None:
    wal = TwoSegments()
    wal.fill_page()
    wal.fill_page(keep)
    wal.append(rmid=XLOG, info=SWITCH)
    first, second = two_segments(wal, 2)
    assert (first.ending, second.ending, second.records) == (Ending.FULL, Ending.SWITCHED, 0)


@pytest.mark.parametrize("keep", [8, 16])
def test_another_record_over_the_boundary_leaves_the_second_unfinished(keep: int) -> None:
    wal = TwoSegments()
    wal.fill_page()
    wal.fill_page(keep)
    wal.append(rmid=XLOG, info=0x20)
    assert two_segments(wal, 2)[1].ending == Ending.UNFINISHED


def test_a_record_longer_than_the_segment_leaves_it_without_beginnings() -> None:
    wal = WalBuilder()
    wal.page(rest=100_000)
    for left in range(1, 4):
        wal.data += bytes(wal.page_size - len(wal.data) % wal.page_size)
        wal.page(rest=100_000 - (PAGE - 40) - (left - 1) * (PAGE - 24))
    wal.data += bytes(wal.page_size - len(wal.data) % wal.page_size)
    facts = scan(wal, 4)
    assert (facts.ending, facts.records, facts.first_record, facts.last_record) == (Ending.FULL, 0, None, None)
    assert (facts.head_length, facts.head, facts.tail) == (100_000, None, None)


def test_a_lost_record_is_passed_over_at_a_page_inside_the_segment() -> None:
    wal = WalBuilder()
    first = wal.append(rmid=XACT, info=COMMIT, main=commit(NOON))
    lost = wal.at
    wal.append(rmid=XLOG, info=0x20, main=b"l" * 2000)
    del wal.data[PAGE:]
    wal.page(flags=OVERWRITE)
    over = wal.append(rmid=XLOG, info=0xD0, main=struct.pack("=Qq", lost, NOON), prev=first)
    facts = scan(wal, 2)
    assert (facts.records, facts.first_record, facts.last_record) == (2, first, over)
    assert facts.ending == Ending.UNFINISHED


def test_a_lost_record_of_the_segment_before_keeps_the_link() -> None:
    wal = WalBuilder()
    wal.page(flags=OVERWRITE)
    over = wal.append(rmid=XLOG, info=0xD0, main=struct.pack("=Qq", wal.start - 500, NOON), prev=wal.start - 700)
    facts = scan(wal, 1)
    assert (facts.first_record, facts.first_prev) == (over, wal.start - 500)


# noise ----------------------------------------------------------------------------------------------------------------
@st.composite
def mangled_wal(draw: st.DrawFn) -> tuple[bytes, int]:
    """A few pages of WAL, of which some bytes are changed: mostly lengths, flags and ids."""
    wal = WalBuilder(page_size=PAGE, start=draw(st.sampled_from([1 << 20, 0, 0x3_0000_0000])))
    kinds = st.tuples(st.sampled_from([XLOG, XACT, TABLESPACE, 10]), st.integers(0, 255), st.integers(0, 1500))
    for rmid, info, length in draw(st.lists(kinds, max_size=12)):
        before = draw(st.sampled_from([b"", b"\xfd\0\0", b"\xfc\0\0\0\0", b"\0\x10\x20"]))
        wal.append(rmid=rmid, info=info, main=bytes(length), before_main=before)
    data = bytearray(wal.take(len(wal.data) // PAGE + 1))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(
            st.one_of(st.integers(0, len(data) - 1), st.integers(0, len(data) // PAGE - 1).map(lambda n: n * PAGE + 2))
        )
        data[at] = draw(st.integers(0, 255))
    return bytes(data), wal.start


@settings(deadline=None, max_examples=400)
@given(mangled_wal())
def test_twins_agree_on_mangled_wal(made: tuple[bytes, int]) -> None:
    raw = raw_scan(*made)
    assert raw.end <= made[1] + len(made[0])
    scan_segment(made[0], segment_start=made[1], page_size=PAGE)


@settings(deadline=None, max_examples=200)
@given(st.binary(min_size=2048, max_size=2048), st.integers(0, 15), st.integers(0, 2**32 - 1))
def test_twins_agree_on_noise_behind_a_good_page_header(noise: bytes, flags: int, rest: int) -> None:
    data = bytearray(noise)
    struct.pack_into("=HHIQI4xQII", data, 0, 0xD118, flags | 2, 1, 1 << 30, rest, 5, 1 << 20, PAGE)
    struct.pack_into("=HHIQ", data, PAGE, 0xD118, flags, 1, (1 << 30) + PAGE)
    raw_scan(bytes(data), 1 << 30)


def test_a_changing_buffer_does_no_harm() -> None:
    """Another thread may write while the scan runs without the GIL."""
    import threading

    wal = WalBuilder(page_size=8192)
    while len(wal.data) < 200_000:
        wal.append(rmid=XLOG, info=RESTORE_POINT, main=commit(NOON) + bytes(64))
    data = bytearray(wal.take(len(wal.data) // 8192))
    backend: Any = NATIVE or walscan_python
    done = threading.Event()

    def disturb() -> None:
        for number in range(200_000):
            data[number * 7919 % len(data)] ^= number & 0xFF
        done.set()

    thread = threading.Thread(target=disturb)
    thread.start()
    while not done.is_set():
        backend.scan_wal(data, wal.start, 8192)
    thread.join()
