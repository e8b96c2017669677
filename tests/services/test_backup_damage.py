"""Pages that look wrong: torn ones are read again, corrupt ones are named and never hidden, hint bits alarm nobody."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pgrecall.domain.lsn import Lsn
from pgrecall.postgres.page import page_checksum
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from pgrecall.repository.catalog import BackupState
from pgrecall.services.backup.damage import NewestPage, Suspect, SuspectPages
from tests.conftest import NewServer, OpenServer
from tests.support.archive import SOURCE
from tests.support.whole_cycle import Cycle

PAGE = 8192
BODY = PAGE - 100
pytestmark = pytest.mark.newest


@pytest.fixture
def cycle(new_server: NewServer, open_server: OpenServer, tmp_path: Path) -> Iterator[Cycle]:
    with Cycle.running(new_server, open_server, tmp_path) as cycle:
        fill(cycle.server)
        yield cycle


def fill(server: ScratchServer) -> None:
    # Wide columns, so that flipping a bit in a page's last bytes changes a value and no header.
    server.execute(
        "create table t as select n, repeat('x', 500) as note from generate_series(1, 5000) n", "vacuum t", "checkpoint"
    )


def table_file(server: ScratchServer, table: str = "t") -> Path:
    return server.pgdata / str(server.value(f"select pg_relation_filepath('{table}')"))


def change_page(path: Path, block: int, change: Callable[[bytearray], None], *, mend_checksum: bool = False) -> None:
    """Change one page on disk behind the server's back."""
    with path.open("r+b") as file:
        file.seek(block * PAGE)
        page = bytearray(file.read(PAGE))
        change(page)
        if mend_checksum:
            page[8:10] = page_checksum(bytes(page), block).to_bytes(2, "little")
        file.seek(block * PAGE)
        file.write(page)


def flip_body(page: bytearray) -> None:
    page[BODY] ^= 1


def test_a_corrupt_page_is_named_and_its_backup_is_no_parent(cycle: Cycle) -> None:
    first = cycle.backup()
    path = table_file(cycle.server)
    change_page(path, 17, flip_body)
    second = cycle.backup()
    name = str(path.relative_to(cycle.server.pgdata))
    assert [(os.fsdecode(each.path), each.block, each.reason) for each in second.damage] == [
        (name, 17, "wrong checksum")
    ]
    assert second.state == "stored"
    assert f"corrupt page in the source: {name} block 17: wrong checksum" in second.warnings
    assert cycle.states()[second.label] is BackupState.STORED
    assert cycle.differing_files(second.label) == [], "stored as it is"
    change_page(path, 17, flip_body)
    third = cycle.backup()
    assert (third.state, third.parent) == ("complete", first.label)
    assert cycle.differing_files(third.label) == []


def test_a_corrupt_page_beside_a_changed_one_is_stored_as_it_is(cycle: Cycle) -> None:
    """Its LSN is old: taken from the parent it would be right, and prove wrong against the digest of its range."""
    cycle.backup()
    path = table_file(cycle.server)
    change_page(path, 17, flip_body)
    cycle.server.execute("update t set n = 0 where ctid = '(20,1)'", "checkpoint")
    result = cycle.backup()
    assert [each.block for each in result.damage] == [17]
    assert cycle.differing_files(result.label) == []


def test_the_command_ends_with_status_9_when_the_source_is_corrupt(cycle: Cycle) -> None:
    path = table_file(cycle.server)
    change_page(path, 3, flip_body)
    done = subprocess.run(
        [sys.executable, "-m", "pgrecall", "--config", str(cycle.config), "backup"],
        env={**cycle.server.client_environment(), "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    assert f"{path.relative_to(cycle.server.pgdata)} block 3: wrong checksum" in done.stdout
    assert list(cycle.states().values()) == [BackupState.STORED]


def test_a_page_torn_while_it_was_read_is_read_again(cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    inode = table_file(cycle.server).stat().st_ino
    real = os.preadv
    torn: list[int] = []

    def half_written(fd: int, buffers: list[memoryview], offset: int) -> int:
        """The first two reads of this file's page 5 see the second half of an older page."""
        count = real(fd, buffers, offset)
        at = 5 * PAGE - offset
        if os.fstat(fd).st_ino == inode and 0 <= at < count and len(torn) < 2:
            torn.append(offset)
            buffers[0][at + PAGE // 2 : at + PAGE] = bytes([len(torn)]) * (PAGE // 2)
        return count

    monkeypatch.setattr(os, "preadv", half_written)
    result = cycle.backup()
    assert len(torn) == 2
    assert (result.damage, result.warnings) == ((), ())
    assert cycle.differing_files(result.label) == []


def test_reading_hints_into_pages_never_alarms_a_cluster_without_checksums(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path
) -> None:
    options = InitOptions(checksums=False, wal_segment_bytes=1 << 20)
    with Cycle.running(new_server, open_server, tmp_path, options=options) as cycle:
        cycle.server.execute("create table t as select n, repeat('x', 200) as note from generate_series(1, 5000) n")
        for turn in range(4):
            cycle.server.execute(f"delete from t where n % 50 = {turn}", "checkpoint")
            cycle.backup()
            cycle.server.execute("select count(*) from t", "checkpoint")  # sets hint bits and says so to nobody
            result = cycle.backup()
            assert (result.warnings, result.damage) == ((), ())
            assert cycle.differing_files(result.label) == []


@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "plain"])
def test_a_page_from_the_future_is_corrupt_even_if_its_checksum_is_right(
    new_server: NewServer, open_server: OpenServer, tmp_path: Path, checksums: bool
) -> None:
    options = InitOptions(checksums=checksums, wal_segment_bytes=1 << 20)
    with Cycle.running(new_server, open_server, tmp_path, options=options) as cycle:
        fill(cycle.server)
        cycle.backup()
        future = Lsn.parse(cycle.server.value("select pg_current_wal_lsn()::text")) + (1 << 30)

        def to_the_future(page: bytearray) -> None:
            page[0:8] = np.array([future >> 32, future & 0xFFFFFFFF], "<u4").tobytes()

        change_page(table_file(cycle.server), 11, to_the_future, mend_checksum=checksums)
        result = cycle.backup()
        assert [each.block for each in result.damage] == [11]
        assert "lies beyond the end of the backup" in result.damage[0].reason
        assert result.state == "stored"


def test_content_that_changed_without_a_new_lsn_is_stored_and_told(cycle: Cycle) -> None:
    cycle.backup()
    change_page(table_file(cycle.server), 40, flip_body, mend_checksum=True)
    result = cycle.backup()
    assert len(result.warnings) == 1
    assert "although no page LSN says so" in result.warnings[0]
    assert cycle.differing_files(result.label) == []


# The judgement alone ------------------------------------------------------------------------------------------------
START, STOP = Lsn(1000), Lsn(2000)


def judged(*suspects: Suspect, newest: tuple[NewestPage, ...] = ()) -> tuple[list[int], list[int]]:
    pages = SuspectPages()
    pages.add(suspects)
    for page in newest:
        pages.saw(page)
    verdict = pages.judge(start=START, stop=STOP)
    return [each.block for each in verdict.corrupt], [each.block for each in verdict.warnings]


def suspect(block: int, lsn: int, *, mendable: bool = True) -> Suspect:
    return Suspect(b"base/5/1", block, Lsn(lsn), "wrong checksum", mendable)


def test_only_pages_that_replay_writes_anew_are_no_damage() -> None:
    assert judged(suspect(1, 999), suspect(2, 1001), suspect(3, 2000), suspect(4, 2001)) == ([1, 4], [])


def test_a_free_space_map_is_a_warning() -> None:
    assert judged(suspect(1, 5, mendable=False)) == ([], [1])


def test_a_page_that_is_suspect_and_from_the_future_is_named_once() -> None:
    newest = (NewestPage(Lsn(5000), b"base/5/1", 4), NewestPage(Lsn(1999), b"base/5/1", 5))
    assert judged(suspect(4, 5000), newest=newest) == ([4], [])


def test_pages_from_the_future_are_found_among_very_many_others() -> None:
    newest = [NewestPage(Lsn(1500), b"base/5/1", block) for block in range(10_000)]
    newest.insert(5000, NewestPage(Lsn(9000), b"base/5/1", 123_456))
    assert judged(newest=tuple(newest)) == ([123_456], [])


def test_more_suspects_than_can_be_kept_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgrecall.services.backup.damage.MOST_SUSPECTS", 3)
    pages = SuspectPages()
    pages.add([suspect(block, 5) for block in range(10)])
    assert pages.judge(start=START, stop=STOP).uncounted == 7
