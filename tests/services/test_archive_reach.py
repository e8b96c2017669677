"""What can be reached is answered before anything is restored, and PostgreSQL agrees with the answer."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.target import (
    AtLsn,
    AtRestorePoint,
    AtTime,
    AtXid,
    EndOfArchive,
    Immediate,
    RecoveryRequest,
    RecoveryTarget,
)
from pgrecall.domain.wal import WalSegment
from pgrecall.domain.window import BackupPoint
from pgrecall.errors import TargetUnreachable
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from pgrecall.postgres.walscan import scan_segment
from pgrecall.repository.layout import wal_name
from pgrecall.services.archive.inventory import WalInventory
from pgrecall.services.archive.reach import reachable
from pgrecall.services.archive.segment import build_segment
from tests.conftest import NewServer, OpenServer
from tests.support.archive import Archive, cold_copy, fill, recover

SIZE = 1 << 20
SMALL = InitOptions(wal_segment_bytes=SIZE)
KEEP = {"archive_mode": "on", "archive_command": "false", "max_wal_size": "10GB", "wal_level": "replica"}

pytestmark = pytest.mark.newest


class Story:
    """A cold copy, then segments with known commit times, a restore point, and their end."""

    def __init__(self, server: ScratchServer, home: Path, base: Path) -> None:
        self.server, self.base = server, base
        self.archive = Archive.of(server, home)
        self.point: BackupPoint = cold_copy(server, base)
        self.names: list[str] = []
        self.moments: list[datetime] = []
        for number in range(4):
            server.execute(f"create table t{number} as select now() as at")
            self.moments.append(server.value("select clock_timestamp()"))
            if number == 1:
                server.execute("select pg_create_restore_point('between')")
            self.names += fill(server)
        self.push(*self.names)
        # the segment in which the copy begins
        first = WalSegment.containing(self.point.start, 1, SIZE).name(SIZE)
        if first not in self.names:
            self.push(first)

    def push(self, *names: str) -> None:
        for name in names:
            self.archive.push(self.server, name)

    def reach(self, target: RecoveryTarget, *, inclusive: bool = True) -> list[str]:
        return reachable(self.archive.inventory(), RecoveryRequest(target, inclusive, "latest"), self.point).names

    def refusal(self, target: RecoveryTarget) -> TargetUnreachable:
        with pytest.raises(TargetUnreachable) as refused:
            self.reach(target)
        return refused.value


@pytest.fixture
def story(new_server: NewServer, tmp_path: Path) -> Story:
    return Story(new_server(options=SMALL, settings=KEEP), tmp_path / "home", tmp_path / "base")


def test_each_target_takes_the_wal_up_to_it_and_no_more(story: Story) -> None:
    names = story.names
    assert story.reach(EndOfArchive())[-4:] == names
    assert story.reach(AtTime(story.moments[0]))[-1] == names[0]
    assert story.reach(AtTime(story.moments[2]))[-1] == names[2]
    assert story.reach(AtRestorePoint("between"))[-1] == names[1]
    assert story.reach(AtLsn(WalSegment.parse(names[2], SIZE).start(SIZE) + 40))[-1] == names[2]
    assert story.reach(AtXid(1000))[-1] == names[3]
    assert names[1] not in story.reach(Immediate())


def test_what_lies_outside_the_window_is_refused_with_what_lies_inside(story: Story) -> None:
    late = story.refusal(AtTime(datetime.now(UTC) + timedelta(hours=1)))
    assert "no commit after it is stored" in late.message
    assert late.hint is not None and "pg_switch_wal()" in late.hint and "--at latest" in late.hint
    early = story.refusal(AtTime(story.point.stopped - timedelta(hours=1)))
    assert "is consistent only from" in early.message
    assert "no restore point 'nowhere'" in story.refusal(AtRestorePoint("nowhere")).message
    assert "the stored WAL ends at" in story.refusal(AtLsn(Lsn.parse("9/0"))).message


def test_the_last_commit_itself_is_reached_by_going_to_the_last_record_stored_now(story: Story) -> None:
    inventory = story.archive.inventory()
    last = reachable(inventory, RecoveryRequest(EndOfArchive()), story.point).last_commit
    assert last is not None
    plan = reachable(inventory, RecoveryRequest(AtTime(last)), story.point)
    last_record = inventory.facts(plan.segments)[-1].last_record
    assert last_record is not None
    assert plan.target == AtLsn(last_record)
    assert plan.notes
    assert reachable(inventory, RecoveryRequest(AtTime(last), inclusive=False), story.point).target == AtTime(last)


def test_a_gap_closes_the_window_and_is_named(story: Story) -> None:
    story.archive.object_path(story.names[2]).unlink()
    assert story.reach(AtTime(story.moments[0]))[-1] == story.names[0]
    refused = story.refusal(AtTime(story.moments[3]))
    assert f"WAL {story.names[2]} was never stored" in refused.message
    assert "(last before)" in (refused.hint or "")
    assert "was never stored" in story.refusal(EndOfArchive()).message
    inventory = story.archive.inventory()
    (windows,) = inventory.windows([story.point])
    assert [gap.first.name(SIZE) for gap in windows.gaps] == [story.names[2]]
    (window,) = windows.windows
    assert story.moments[1] < window.closes < story.moments[2]
    before = refused.facts["nearest_before"]
    assert isinstance(before, str)
    assert story.reach(AtTime(datetime.fromisoformat(before)))[-1] == story.names[1]


def test_wal_that_does_not_continue_what_is_before_it_closes_the_window(story: Story) -> None:
    """As if another server's segment had come into the archive under the next name."""
    segment = WalSegment.parse(story.names[2], SIZE)
    archive, name = story.archive, wal_name(story.archive.system_identifier, story.names[2])
    raw = (story.server.pgdata / "pg_wal" / story.names[2]).read_bytes()
    facts = replace(scan_segment(raw, segment_start=segment.start(SIZE)), first_prev=Lsn(segment.start(SIZE) - 4096))
    archive.object_path(story.names[2]).unlink()
    data, _ = build_segment(
        archive.store.scope, name, raw, file=story.names[2], timeline=1,
        system_identifier=archive.system_identifier, facts=facts, writer="deadbeef",
    )  # fmt: skip
    archive.store.put_built(name, data)
    assert "does not continue the WAL before it" in story.refusal(EndOfArchive()).message
    assert story.reach(AtTime(story.moments[0]))[-1] == story.names[0]


def test_recovery_is_not_sent_past_a_change_to_wal_level_minimal(story: Story, new_server: NewServer) -> None:
    server = story.server
    server.stop()
    del server.settings["archive_mode"]
    server.settings |= {"wal_level": "minimal", "max_wal_senders": "0"}
    server.start()
    server.stop()
    server.settings |= {"wal_level": "replica", "archive_mode": "on"}
    server.start()
    name = fill(server)[0]
    for number in range(WalSegment.parse(story.names[-1], SIZE).number + 1, WalSegment.parse(name, SIZE).number + 1):
        story.push(WalSegment(1, number).name(SIZE))
    assert "wal_level was minimal" in story.refusal(EndOfArchive()).message
    assert story.reach(AtTime(story.moments[2]))[-1] == story.names[2]


def test_postgres_agrees(story: Story, open_server: OpenServer, tmp_path: Path) -> None:
    """The moment before the last commit is reached; the last moment of the window is not met by a time target."""
    inventory = story.archive.inventory()
    last = reachable(inventory, RecoveryRequest(EndOfArchive()), story.point).last_commit
    assert last is not None
    for number, (moment, fine) in enumerate([(last - timedelta(microseconds=1), True), (last, False)]):
        pgdata = tmp_path / f"restored-{number}"
        shutil.copytree(story.base, pgdata, symlinks=True)
        command = story.archive.command("wal fetch %f %p")
        settings = recover(pgdata, command, recovery_target_time=moment.isoformat(), recovery_target_action="promote")
        restored = open_server(pgdata, settings=settings, isolated=False)
        restored.start(wait=False)
        if fine:
            restored.wait_promoted()
        else:
            assert restored.wait_exit() != 0
            assert "recovery ended before configured recovery target was reached" in restored.log()


def test_an_empty_archive_reaches_nothing(story: Story) -> None:
    empty = WalInventory(story.archive.store, 1)
    assert empty.timelines() == []
    assert empty.windows([story.point]) == []
    with pytest.raises(TargetUnreachable, match="no WAL is stored"):
        reachable(empty, RecoveryRequest(EndOfArchive()), story.point)
