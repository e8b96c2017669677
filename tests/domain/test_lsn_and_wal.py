"""LSN and segment arithmetic, for every WAL segment size that initdb offers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.wal import (
    WalSegment,
    check_segment_size,
    is_backup_history_name,
    is_history_name,
    is_partial_name,
    is_segment_name,
    segments_between,
)
from pgrecall.errors import ValueInvalid, WalNameInvalid

SIZES = [1 << power for power in range(20, 31)]
sizes = st.sampled_from(SIZES)
lsns = st.integers(0, (1 << 64) - (1 << 36)).map(Lsn)
timelines = st.integers(1, (1 << 32) - 1)


@given(lsns)
def test_an_lsn_reads_back_what_it_writes(lsn: Lsn) -> None:
    assert Lsn.parse(str(lsn)) == lsn
    assert Lsn.parse(str(lsn).lower()) == lsn
    assert f"{lsn}" == str(lsn)


def test_an_lsn_is_written_as_postgres_writes_it() -> None:
    assert str(Lsn((3 << 32) + 0x5A000028)) == "3/5A000028"
    assert str(Lsn(0)) == "0/0"
    assert Lsn.parse("3/5A000028") + 8 == Lsn.parse("3/5A000030")
    assert Lsn.parse("1/0") - Lsn.parse("0/FFFFFFF8") == 8
    assert repr(Lsn(40)) == "Lsn('0/28')"
    assert isinstance(Lsn(1) + 1, Lsn)


@pytest.mark.parametrize(
    "text", ["", "3", "3/", "/3", "3/5A/1", "123456789/0", "0/123456789", "3/5G", " 3/1", "3/1\n", "٣/1"]
)
def test_a_text_that_is_no_lsn_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueInvalid, match="no WAL position"):
        Lsn.parse(text)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_a_position_outside_64_bits_is_refused(value: int) -> None:
    with pytest.raises(ValueInvalid):
        Lsn(value)


@given(lsns, timelines, sizes)
def test_a_segment_holds_the_position_it_was_asked_for(lsn: Lsn, timeline: int, size: int) -> None:
    segment = WalSegment.containing(lsn, timeline, size)
    assert segment.start(size) <= lsn < segment.end(size)
    assert segment.end(size) - segment.start(size) == size
    assert WalSegment.parse(segment.name(size), size) == segment
    assert is_segment_name(segment.name(size))


@given(lsns, sizes)
def test_the_next_segment_begins_where_this_one_ends_and_sorts_after_it(lsn: Lsn, size: int) -> None:
    segment = WalSegment.containing(lsn, 7, size)
    assert segment.next().start(size) == segment.end(size)
    assert segment < segment.next()
    assert segment.name(size) < segment.next().name(size)


@given(lsns, st.integers(0, 40), st.data(), sizes)
def test_a_range_is_covered_by_exactly_the_segments_that_it_touches(
    start: Lsn, count: int, data: st.DataObject, size: int
) -> None:
    stop = start + data.draw(st.integers(count * size, (count + 1) * size))
    covered = list(segments_between(1, start, stop, size))
    if start == stop:
        assert len(covered) == (0 if start % size == 0 else 1)
        return
    assert covered[0].start(size) <= start < covered[0].end(size)
    assert covered[-1].start(size) < stop <= covered[-1].end(size)
    assert [segment.number for segment in covered] == list(range(covered[0].number, covered[-1].number + 1))


def test_a_stop_on_a_boundary_needs_the_segment_before_it() -> None:
    size = 16 << 20
    names = [
        segment.name(size) for segment in segments_between(1, Lsn.parse("0/2000028"), Lsn.parse("0/4000000"), size)
    ]
    assert names == ["000000010000000000000002", "000000010000000000000003"]


@pytest.mark.parametrize(("size", "last"), [(1 << 20, "FFF"), (16 << 20, "FF"), (1 << 30, "3")])
def test_the_last_segment_of_a_log_file_depends_on_the_segment_size(size: int, last: str) -> None:
    name = f"0000000200000001{last:0>8}"
    segment = WalSegment.parse(name, size)
    assert segment.next().name(size) == "000000020000000200000000"
    with pytest.raises(WalNameInvalid, match="cannot exist"):
        WalSegment.parse(f"0000000200000001{int(last, 16) + 1:08X}", size)


@pytest.mark.parametrize(
    "name",
    ["", "00000001000000000000000", "0000000100000000000000aa", "../../../etc/passwd12345", "000000000000000000000001"],
)
def test_a_text_that_names_no_segment_is_refused(name: str) -> None:
    with pytest.raises(WalNameInvalid):
        WalSegment.parse(name, 16 << 20)


def test_names_are_told_apart() -> None:
    assert is_history_name("00000002.history")
    assert not is_history_name("0000002.history")
    assert is_partial_name("000000010000000000000009.partial")
    assert is_backup_history_name("000000010000000000000009.00000028.backup")
    assert not any(check("000000010000000000000009\n") for check in (is_segment_name, is_partial_name, is_history_name))


@pytest.mark.parametrize("size", [0, 1, 3 << 20, 1 << 19, 1 << 31])
def test_a_size_that_initdb_does_not_offer_is_refused(size: int) -> None:
    with pytest.raises(ValueInvalid):
        check_segment_size(size)


def test_all_offered_sizes_are_accepted() -> None:
    assert [check_segment_size(size) for size in SIZES] == SIZES
