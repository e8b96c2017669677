"""Labels: text, number and order agree."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.errors import ValueInvalid

LAST_SECOND = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
moments = st.integers(0, LAST_SECOND).map(lambda second: datetime.fromtimestamp(second, UTC))
labels = st.builds(BackupLabel, moments, st.sampled_from(BackupKind))


@given(labels)
def test_a_label_reads_back_from_its_text_and_its_number(label: BackupLabel) -> None:
    assert BackupLabel.parse(str(label)) == label
    assert BackupLabel.from_number(label.number) == label
    assert 0 <= label.number < 1 << 64


@given(labels, labels)
def test_order_is_the_order_of_numbers(one: BackupLabel, other: BackupLabel) -> None:
    assert (one < other) == (one.number < other.number)
    assert (one == other) == (one.number == other.number)
    if one.moment != other.moment:
        assert (one < other) == (str(one) < str(other))


@given(labels, labels)
def test_the_next_free_label_is_newer_and_keeps_its_kind(label: BackupLabel, after: BackupLabel) -> None:
    if after.moment.year == 9999:
        return
    free = label.next_free(after)
    assert free.moment > after.moment
    assert free.kind is label.kind
    assert free == label or free.moment - after.moment == timedelta(seconds=1)
    assert label.next_free(None) == label


def test_the_numbers_are_those_of_the_format() -> None:
    label = BackupLabel.parse("20261120T153127Z-incr")
    assert label.number == int(datetime(2026, 11, 20, 15, 31, 27, tzinfo=UTC).timestamp()) << 4 | 1
    assert [kind.code for kind in (BackupKind.FULL, BackupKind.INCR, BackupKind.DUMP)] == [0, 1, 2]


def test_a_run_is_labelled_with_its_start_in_utc() -> None:
    start = datetime(2026, 11, 20, 16, 31, 27, 999999, tzinfo=timezone(timedelta(hours=1)))
    assert str(BackupLabel.at(start, BackupKind.FULL)) == "20261120T153127Z-full"


@pytest.mark.parametrize(
    "text",
    ["", "20261120T153127Z", "20261120T153127Z-diff", "20261320T153127Z-full", "20261120T153127Z-full\n",
     "19691120T153127Z-full",
     "20261120T153160Z-full", "２0261120T153127Z-full"],
)  # fmt: skip
def test_a_text_that_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(ValueInvalid, match="no backup label"):
        BackupLabel.parse(text)


@pytest.mark.parametrize("number", [-1, 3, 15, 1 << 64, (1 << 64) - 16])
def test_a_number_that_is_no_label_is_refused(number: int) -> None:
    with pytest.raises(ValueInvalid):
        BackupLabel.from_number(number)
