"""Commits, tombstones and liveness: what they say reads back, what they cannot say is refused."""

from dataclasses import replace
from typing import Any

import pytest

from pgrecall.domain.label import BackupKind
from pgrecall.errors import ObjectDamaged
from pgrecall.repository import canonical
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import Commit, CommitDetails, SeenCommit, Tombstone, from_clear
from pgrecall.repository.live import LivePacks
from tests.support.commit_samples import commit, tombstone
from tests.support.tiny_engine import label

RUN = label(0)


def test_a_commit_and_a_tombstone_read_back_as_they_were_written() -> None:
    for written in (commit(RUN, 7), commit(RUN, 7, parent=label(1), newest_wal=None, seen=()), tombstone(RUN, 8)):
        clear = canonical.decode(canonical.encode(written.to_clear()), "commit")
        assert from_clear(clear, RUN) == written


def test_a_commit_names_at_most_the_last_sixteen_others() -> None:
    many = tuple(SeenCommit(label(number), bytes([number]) * 32) for number in range(20))
    again = from_clear(commit(RUN, 21, seen=many).to_clear(), RUN)
    assert isinstance(again, Commit) and again.seen == many[4:]


def test_details_read_back_as_they_were_written() -> None:
    details = CommitDetails(
        warnings=("slow",), damage=({"path": "base/5/1", "block": 3},), host="db1", took=1500, settings={"jobs": 2}
    )
    assert CommitDetails.decode(details.encode()) == details


def test_names_that_are_no_utf8_stop_no_commit() -> None:
    details = CommitDetails(warnings=("left out: \udcff",))
    assert CommitDetails.decode(details.encode()).warnings == ("left out: \\udcff",)
    ended = replace(tombstone(RUN, 8), reason="cannot read \udcff")
    again = from_clear(canonical.decode(canonical.encode(ended.to_clear()), "commit"), RUN)
    assert isinstance(again, Tombstone) and again.reason == "cannot read \\udcff"


def test_another_labels_commit_is_refused() -> None:
    with pytest.raises(ObjectDamaged, match="is the commit of"):
        from_clear(commit(RUN, 7).to_clear(), label(1))
    with pytest.raises(ObjectDamaged):
        from_clear(commit(RUN, 7).to_clear() | {"kind": "incr"}, RUN)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", "done"),
        ("sequence", 0),
        ("sequence", True),
        ("sequence", "1"),
        ("system_identifier", 5),
        ("system_identifier", "18446744073709551616"),
        ("system_identifier", "-1"),
        ("timeline", 0),
        ("timeline", 1 << 32),
        ("start_lsn", "nonsense"),
        ("started", "2026-11-20T01:00:03"),
        ("started", "yesterday"),
        ("stopped", "2026-11-20T01:00:03+01:00"),
        ("self_contained", 1),
        ("size", -1),
        ("manifest", "00"),
        ("manifest", "G" * 64),
        ("live", []),
        ("live", {"nonsense": "AQ=="}),
        ("live", {"20261120T010003Z-full": "?"}),
        ("live", {"20261120T010003Z-full": 5}),
        ("live", {"20261120T010003Z-full": ""}),
        ("seen", [{"label": "20261120T010003Z-full"}]),
        ("seen", ["x"]),
        ("parent", 5),
        ("newest_wal", 5),
    ],
)
def test_a_commit_with_a_wrong_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ObjectDamaged):
        from_clear(commit(RUN, 7).to_clear() | {field: value}, RUN)


@pytest.mark.parametrize("field", sorted(set(commit(RUN, 1).to_clear()) - {"parent", "newest_wal"}))
def test_a_commit_that_lacks_a_field_is_refused(field: str) -> None:
    clear = commit(RUN, 7).to_clear()
    del clear[field]
    with pytest.raises(ObjectDamaged):
        from_clear(clear, RUN)


def test_liveness_is_one_bit_per_pack_and_run() -> None:
    live = LivePacks()
    one, two = label(0).number, label(1, BackupKind.INCR).number
    live.add([PackRef(two, 1), PackRef(one, 9), PackRef(one, 1), PackRef(one, 1)])
    assert live.to_json() == {"20261120T010003Z-full": "AQE=", "20261120T020003Z-incr": "AQ=="}
    assert list(live) == [PackRef(one, 1), PackRef(one, 9), PackRef(two, 1)]
    assert len(live) == 3 and live.runs() == [one, two]
    assert PackRef(one, 9) in live and PackRef(one, 8) not in live and PackRef(two, 900) not in live
    assert LivePacks.from_json(live.to_json(), "live") == live


def test_a_run_of_ninety_thousand_packs_takes_fifteen_thousand_bytes() -> None:
    live = LivePacks()
    live.add(PackRef(RUN.number, pack) for pack in range(1, 90_001))
    assert len(live) == 90_000
    assert len(canonical.encode(live.to_json())) < 15_100
