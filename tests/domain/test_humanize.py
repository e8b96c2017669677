"""How sizes, durations and moments are written and read."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.domain.humanize import format_bytes, format_duration, format_time, parse_bytes, parse_duration
from pgrecall.errors import ValueInvalid


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (212 << 20, "212 MiB"), (41 << 30, "41.0 GiB"),
     (5 << 20, "5.0 MiB"),
     ((1 << 30) - 1, "1.0 GiB"), (10522669875, "9.8 GiB"), (-(3 << 20), "-3.0 MiB")],
)  # fmt: skip
def test_sizes_are_short(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (38.4, "0:38"), (250, "4:10"), (3723, "1:02:03"), (183845, "2 d 3:04:05")]
)
def test_durations_are_clock_like(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_moment_is_never_written_without_its_zone() -> None:
    moment = datetime(2026, 11, 20, 13, 5, tzinfo=UTC)
    assert format_time(moment, ZoneInfo("Europe/Berlin")) == "2026-11-20 14:05:00+01:00"
    assert format_time(moment) == "2026-11-20 13:05:00+00:00"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("300MB", 300_000_000),
        ("1GiB", 1 << 30),
        ("1.5GiB", 3 << 29),
        ("64k", 65536),
        ("1024", 1024),
        (" 2 tb ", 2 * 10**12),
        ("7 B", 7),
    ],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@given(st.integers(0, 10**17))
def test_a_plain_number_of_bytes_reads_back(count: int) -> None:
    assert parse_bytes(str(count)) == count


@pytest.mark.parametrize("text", ["", "MB", "-1", "1 elephant", "1e9", "0x10", "1..5GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueInvalid, match="no size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("10min", 600), ("30d", 2592000), ("1h30m", 5400), ("500ms", 0.5), ("2w", 1209600)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "-30s", "30 s and more", "1y", "99999999999w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueInvalid):
        parse_duration(text)
