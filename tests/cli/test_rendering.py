"""What a person sees: tables, times, progress; and what programs get."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgrecall.cli.output import Output, Span, jsonable
from pgrecall.cli.progress import Progress, progress
from pgrecall.cli.table import table
from pgrecall.cli.zone import Zone, rough
from pgrecall.clock import ManualClock
from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from tests.cli.test_main import Terminal

NOW = datetime(2026, 11, 20, 14, 31, 7, tzinfo=UTC)


def lines(rows: list[list[str | Span]], **options: object) -> list[str]:
    out = Output(io.StringIO(), io.StringIO(), environ={})
    return [out.paint(line, out.stdout) for line in table(rows, **options)]  # type: ignore[arg-type]


def test_columns_are_as_wide_as_their_widest_cell_whatever_the_script() -> None:
    assert lines([["a", "1"], ["日本", "20"], ["e\u0301", "3"]], header=("NAME", "N"), right=(1,)) == [
        "NAME   N",
        "a      1",
        "日本  20",
        "e\u0301      3",
    ]


def test_rows_may_end_early_and_names_are_escaped() -> None:
    assert lines([["a\x1b[2J", "x", "y"], ["b"]]) == ["a\\x1b[2J  x  y", "b"]


def test_times_are_told_in_the_zone_of_the_terminal() -> None:
    berlin = Zone.of({"TZ": "Europe/Berlin"}, NOW)
    assert berlin.title() == "times in Europe/Berlin (+01:00)"
    assert berlin.short(NOW) == "20 Nov 15:31:07"
    assert berlin.short(NOW - timedelta(days=365)) == "20 Nov 2025 15:31:07"
    assert berlin.full(NOW) == "2026-11-20 15:31:07+01:00"
    assert Zone.of({"TZ": "Nowhere/Land"}, NOW).title() == "times in UTC"


@pytest.mark.parametrize(("seconds", "text"), [(7, "7 s"), (5340, "89 min"), (46800, "13 h"), (1036800, "12 d")])
def test_ages_are_told_in_their_largest_sensible_unit(seconds: int, text: str) -> None:
    assert rough(seconds) == text


def test_data_for_programs_is_text_numbers_and_utc() -> None:
    label = BackupLabel.parse("20261120T010003Z-full")
    data = {"label": label, "lsn": Lsn.parse("3/5A000028"), "kind": BackupKind.FULL, "at": NOW, "path": Path("/x")}
    assert jsonable(data) == {
        "label": "20261120T010003Z-full",
        "lsn": "3/5A000028",
        "kind": "full",
        "at": "2026-11-20T14:31:07Z",
        "path": "/x",
    }
    assert jsonable(b"caf\xe9") == "caf\\udce9"
    assert jsonable("caf\udce9 é") == "caf\\udce9 é"
    assert jsonable((timedelta(seconds=1.5), [1, None, True])) == [1.5, [1, None, True]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


def test_without_a_terminal_progress_is_a_line_now_and_then(clock: ManualClock) -> None:
    out = Output(io.StringIO(), io.StringIO(), environ={})
    with progress(out, clock) as shown:
        shown.stage("copy files", 1 << 30)
        for _ in range(6):
            clock.advance(10)
            shown.advance(64 << 20)
        shown.warn("a page is corrupt")
    assert out.stderr.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "copy files: about 1.0 GiB",
        "copy files: 192 MiB of 1.0 GiB (18 %), 6.4 MiB/s, 2:10 left",
        "copy files: 384 MiB of 1.0 GiB (37 %), 6.4 MiB/s, 1:40 left",
        "warning: a page is corrupt",
    ]
    assert shown.warnings == ["a page is corrupt"]


def test_quiet_leaves_warnings_only(clock: ManualClock) -> None:
    out = Output(io.StringIO(), io.StringIO(), environ={}, quiet=True)
    with progress(out, clock) as shown:
        shown.stage("copy files")
        clock.advance(100)
        shown.advance(1)
        shown.warn("look")
    assert out.stderr.getvalue() == "warning: look\n"  # type: ignore[attr-defined]


def test_on_a_terminal_a_bar_appears_for_work_longer_than_two_seconds(clock: ManualClock) -> None:
    out = Output(io.StringIO(), Terminal(), environ={"TERM": "xterm"})
    with progress(out, clock) as shown:
        shown.stage("list files")
        shown.advance(1)
        assert out.stderr.getvalue() == ""  # type: ignore[attr-defined]
        shown.stage("copy files", 100 << 20)
        clock.advance(3)
        shown.advance(50 << 20)
        shown.note("one line meanwhile")
    told = out.stderr.getvalue()  # type: ignore[attr-defined]
    assert "copy files" in told and "50.0/100.0 MiB" in told and "one line meanwhile" in told


def test_progress_of_many_threads_adds_up(clock: ManualClock) -> None:
    from concurrent.futures import ThreadPoolExecutor

    shown = Progress(Output(io.StringIO(), io.StringIO(), environ={}), clock)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(1000):
            pool.submit(shown.advance, 1)
    assert shown._done == 1000
