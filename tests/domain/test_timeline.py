"""Histories against a model: a tree of timelines in which each byte of WAL knows who wrote it."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.timeline import History, HistoryEntry
from pgrecall.domain.wal import WalSegment
from pgrecall.errors import ValueInvalid

SIZE = 1 << 20
END = 40 * SIZE


@dataclass
class Tree:
    """Timeline n branches from `parent[n]` at `begin[n]`; all positions are below END."""

    parent: dict[int, int] = field(default_factory=dict)
    begin: dict[int, int] = field(default_factory=lambda: {1: 0})

    def writer(self, leaf: int, lsn: int) -> int:
        """Who wrote the byte at lsn, as seen from the leaf."""
        while lsn < self.begin[leaf]:
            leaf = self.parent[leaf]
        return leaf

    def history(self, leaf: int) -> History:
        """As PostgreSQL writes it: the parent's own file, then one line."""
        if leaf == 1:
            return History.root(1)
        parent = self.history(self.parent[leaf])
        return History(leaf, (*parent.entries, HistoryEntry(parent.timeline, Lsn(self.begin[leaf]), "no reason")))


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    tree = Tree()
    for timeline in range(2, draw(st.integers(1, 9)) + 1):
        tree.parent[timeline] = draw(st.integers(1, timeline - 1))
        # Also before the parent began: recovery aimed at it that stopped early.
        tree.begin[timeline] = draw(st.integers(1, END // 8 - 1)) * 8
    return tree


@given(trees(), st.randoms(use_true_random=False))
def test_every_position_belongs_to_whoever_wrote_it(tree: Tree, rng: random.Random) -> None:
    leaf = max(tree.begin)
    history = tree.history(leaf)
    places = [rng.randrange(END) for _ in range(20)] + [
        begin + step for begin in tree.begin.values() for step in (0, 8)
    ]
    for lsn in places:
        assert history.timeline_at(lsn) == tree.writer(leaf, lsn)


@given(trees())
def test_ranges_follow_one_another_from_zero_to_the_open_end(tree: Tree) -> None:
    for leaf in tree.begin:
        ranges = tree.history(leaf).ranges
        assert ranges[0].begin == 0
        assert ranges[-1].end is None
        assert ranges[-1].timeline == leaf
        assert all(before.end == after.begin for before, after in pairwise(ranges))


@given(trees())
def test_a_history_reads_back_from_its_text(tree: Tree) -> None:
    for leaf in tree.begin:
        history = tree.history(leaf)
        assert History.parse(history.to_text(), leaf) == history


@given(trees(), st.integers(0, END // SIZE - 1))
def test_a_segment_comes_from_the_newest_timeline_that_began_in_or_before_it(tree: Tree, number: int) -> None:
    for leaf in tree.begin:
        segment = tree.history(leaf).segment(number, SIZE)
        # Its last byte was written by that timeline, as far as this history goes: never a parent's file past a switch.
        assert segment == WalSegment(tree.writer(leaf, (number + 1) * SIZE - 1), number)


@given(trees(), st.integers(0, END), st.integers(0, END))
def test_the_segments_of_a_range_are_the_segments_one_by_one(tree: Tree, one: int, other: int) -> None:
    start, stop = sorted((one, other))
    leaf = max(tree.begin)
    history = tree.history(leaf)
    found = history.segments(tree.writer(leaf, start), Lsn(start), Lsn(stop), SIZE)
    assert found == [history.segment(number, SIZE) for number in range(start // SIZE, (stop - 1) // SIZE + 1)]


@given(trees())
def test_a_history_contains_what_was_written_before_it_left_and_nothing_after(tree: Tree) -> None:
    for leaf in tree.begin:
        history = tree.history(leaf)
        for part in history.ranges:
            assert history.contains(part.timeline, part.begin)
            if part.end is not None:
                assert history.contains(part.timeline, part.end)
                assert not history.contains(part.timeline, part.end + 1)
                assert history.switch_point(part.timeline) == part.end
        strangers = set(tree.begin) - set(history.path())
        assert not any(history.contains(stranger, tree.begin[stranger] + 8) for stranger in strangers)


@given(trees())
def test_an_ancestor_s_history_is_recognised(tree: Tree) -> None:
    for leaf in tree.begin:
        history = tree.history(leaf)
        for timeline in tree.begin:
            assert tree.history(timeline).is_before(history) == (timeline in history.path())


def test_a_child_that_branched_elsewhere_is_another_history() -> None:
    first = History(2, (HistoryEntry(1, Lsn(0x3000028)),))
    second = History(2, (HistoryEntry(1, Lsn(0x4000028)),))
    assert not first.is_before(second)
    assert not first.is_before(History(3, (HistoryEntry(1, Lsn(0x4000028)), HistoryEntry(2, Lsn(0x5000000)))))


def test_a_history_file_of_postgres_is_read() -> None:
    text = "1\t0/3000158\tno recovery target specified\n\n2\t0/50001A8\tbefore 2026-11-20 14:05:00+01\n\n# a comment\n"
    history = History.parse(text, 3)
    assert history.path() == [1, 2, 3]
    assert history.switch_point(1) == Lsn.parse("0/3000158")
    assert history.switch_point(3) is None
    assert history.entries[1].reason == "before 2026-11-20 14:05:00+01"
    assert history.segment(3, 16 << 20).name(16 << 20) == "000000020000000000000003"
    assert history.segment(2, 16 << 20).name(16 << 20) == "000000010000000000000002"
    assert history.segment(9, 16 << 20).name(16 << 20) == "000000030000000000000009"


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "x\t0/1\n",
        "1\t0:1\treason",
        "2\t0/1\ta\n1\t0/2\tb",
        "3\t0/1\tits own",
        "0\t0/1\tzero",
        "1\t123456789/0\twide",
    ],
)
def test_a_damaged_history_is_refused(text: str) -> None:
    with pytest.raises(ValueInvalid, match="history of timeline 3"):
        History.parse(text, 3)


def test_a_start_that_is_not_on_the_way_is_refused() -> None:
    history = History(2, (HistoryEntry(1, Lsn(0x3000028)),))
    with pytest.raises(ValueInvalid, match="not on the way"):
        history.segments(1, Lsn(0x4000028), Lsn(0x5000000), SIZE)
    assert history.switch_point(7) is None
    assert not history.contains(7, Lsn(8))
