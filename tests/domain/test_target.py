"""What `--at` accepts, refuses, and says then."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.target import (
    AtLsn,
    AtRestorePoint,
    AtTime,
    AtXid,
    EndOfArchive,
    Immediate,
    RecoveryTarget,
    parse_target,
    parse_timeline,
)
from pgrecall.errors import TimeAmbiguous, ValueInvalid

NOW = datetime(2026, 11, 20, 15, 31, 27, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def local_times(first_year: int, last_year: int) -> st.SearchStrategy[datetime]:
    seconds = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (first_year, last_year))
    return st.integers(*seconds).map(lambda second: datetime.fromtimestamp(second, UTC).replace(tzinfo=None))


def read(text: str) -> RecoveryTarget:
    return parse_target(text, now=NOW, zone=BERLIN)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("latest", EndOfArchive()),
        ("immediate", Immediate()),
        ("lsn:3/5A000028", AtLsn(Lsn.parse("3/5A000028"))),
        ("xid:7341", AtXid(7341)),
        ("name:before_deploy", AtRestorePoint("before_deploy")),
        ("name:a:b c", AtRestorePoint("a:b c")),
        ("20m-ago", AtTime(NOW - timedelta(minutes=20))),
        ("1h30m-ago", AtTime(NOW - timedelta(minutes=90))),
        ("2 d ago", AtTime(NOW - timedelta(days=2))),
        ("2026-11-20 14:05:00+01:00", AtTime(datetime(2026, 11, 20, 13, 5, tzinfo=UTC))),
        ("2026-11-20T13:05:00Z", AtTime(datetime(2026, 11, 20, 13, 5, tzinfo=UTC))),
        ("2026-11-20 13:05 UTC", AtTime(datetime(2026, 11, 20, 13, 5, tzinfo=UTC))),
        ("2026-11-20 14:05:00.25+01", AtTime(datetime(2026, 11, 20, 13, 5, 0, 250000, tzinfo=UTC))),
        ("2026-11-20 14:05 Europe/Berlin", AtTime(datetime(2026, 11, 20, 13, 5, tzinfo=UTC))),
        ("2026-11-20 08:05-0500", AtTime(datetime(2026, 11, 20, 13, 5, tzinfo=UTC))),
    ],
)
def test_each_form_of_the_grammar_is_read(text: str, target: RecoveryTarget) -> None:
    assert read(text) == target


@given(local_times(1971, 2199), st.integers(-14 * 4, 14 * 4))
def test_a_moment_with_its_offset_reads_back(moment: datetime, quarters: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=15 * quarters)))
    assert read(aware.isoformat(sep=" ")) == AtTime(aware)
    assert read(str(AtTime(aware))) == AtTime(aware)


@given(
    local_times(2000, 2030),
    st.sampled_from(["Europe/Berlin", "America/St_Johns", "UTC"]),
)
def test_a_time_without_zone_is_refused_with_lines_that_are_accepted(moment: datetime, zone: str) -> None:
    with pytest.raises(TimeAmbiguous) as refusal:
        parse_target(moment.isoformat(sep=" "), now=NOW, zone=ZoneInfo(zone))
    choices = refusal.value.facts["choices"]
    assert isinstance(choices, list)
    assert len(choices) == 2
    for choice in choices:
        assert isinstance(read(choice), AtTime)
        assert choice in (refusal.value.hint or "")


def test_a_time_without_zone_is_refused_with_the_server_s_zone_and_utc() -> None:
    with pytest.raises(TimeAmbiguous) as refusal:
        read("2026-11-20 14:05")
    assert refusal.value.message == '"2026-11-20 14:05" has no zone'
    assert refusal.value.hint == '"2026-11-20 14:05:00+01:00" (Europe/Berlin) or "2026-11-20 14:05:00+00:00" (UTC)'


def test_an_hour_that_came_twice_is_refused_with_both() -> None:
    with pytest.raises(TimeAmbiguous) as refusal:
        read("2026-10-25 02:30")
    assert refusal.value.message == '"2026-10-25 02:30" has no zone and came twice in Europe/Berlin'
    assert refusal.value.hint == '"2026-10-25 02:30:00+02:00" (first) or "2026-10-25 02:30:00+01:00" (second)'


def test_an_hour_that_never_came_is_refused_with_its_neighbours() -> None:
    with pytest.raises(TimeAmbiguous) as refusal:
        read("2026-03-29 02:30")
    assert "never came in Europe/Berlin" in refusal.value.message
    assert refusal.value.facts["choices"] == ["2026-03-29 03:30:00+02:00", "2026-03-29 01:30:00+01:00"]


def test_a_named_zone_does_not_hide_an_ambiguous_hour() -> None:
    with pytest.raises(TimeAmbiguous, match="came twice"):
        read("2026-10-25 02:30 Europe/Berlin")
    with pytest.raises(TimeAmbiguous, match="never came"):
        read("2026-03-29 02:30 Europe/Berlin")


@pytest.mark.parametrize("text", ["/srv/pg/rescue", "./rescue", "../rescue", "~/rescue"])
def test_a_path_is_refused_with_the_option_that_was_meant(text: str) -> None:
    with pytest.raises(ValueInvalid) as refusal:
        read(text)
    assert refusal.value.hint == f"--to {text}"


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "lsn:", "lsn:x", "xid:2", "latest:",
     "xid:-5", "xid:1.5", f"xid:{1 << 64}", "name:", "name:" + "x" * 64,
     "ago", "-ago", "20-ago",
     "2026-02-30 10:00Z", "2026-11-20 25:00Z", "2026-11-20 14:05:00+99:00",
     "2026-11-20 14:05 Europe/Nowhere", "2026-11-20 10:00 ../etc/passwd",
     "immediate:", "9999999999999w-ago"],
)  # fmt: skip
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ValueInvalid):
        read(text)


def test_timelines_are_numbers_or_two_words() -> None:
    assert [parse_timeline(text) for text in ("3", "latest", "current")] == [3, "latest", "current"]
    for text in ("0", "-1", "newest", "4294967296", "٣"):
        with pytest.raises(ValueInvalid):
            parse_timeline(text)
