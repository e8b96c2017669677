"""WAL of real servers: our scan, in C and in Python, says what pg_waldump says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.wal import WalSegment, is_segment_name
from pgrecall.postgres import walscan_python
from pgrecall.postgres.accel import load_native
from pgrecall.postgres.binaries import Binaries
from pgrecall.postgres.scratch import InitOptions, ScratchServer
from pgrecall.postgres.walscan import Ending, RecordFacts, SegmentFacts, join, scan_segment
from tests.conftest import NewServer

NATIVE = load_native()
MIB = 1 << 20
BUSY = {
    "wal_level": "logical",
    "max_prepared_transactions": "5",
    "wal_keep_size": "2GB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "1h",
}


@dataclass
class Dumped:
    """One line of pg_waldump."""

    rmgr: str
    lsn: int
    prev: int
    desc: str

    @property
    def time(self) -> datetime | None:
        match = re.match(r"(?:COMMIT|ABORT)(?:_PREPARED)?\b.*?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) UTC", self.desc)
        if self.rmgr != "Transaction" or match is None:
            return None
        return datetime.fromisoformat(match[1]).replace(tzinfo=UTC)


LINE = re.compile(r"rmgr: (\S+) +len .*?, lsn: (\S+), prev (\S+), desc: (.*)")


def pg_waldump(binaries: Binaries, wal: Path, first: str, last: str) -> list[Dumped]:
    done = subprocess.run(
        [str(binaries.program("pg_waldump")), "--path", str(wal), first, last],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C", "TZ": "UTC"},
    )
    found = (LINE.match(line) for line in done.stdout.splitlines())
    return [Dumped(m[1], int(Lsn.parse(m[2])), int(Lsn.parse(m[3])), m[4]) for m in found if m]


def segment_names(wal: Path) -> list[str]:
    return sorted(path.name for path in wal.iterdir() if is_segment_name(path.name))


def scan_all(wal: Path, size: int) -> Iterator[SegmentFacts]:
    """The segments in order up to the last with records; every scan done by both twins."""
    for name in segment_names(wal):
        data = (wal / name).read_bytes()
        assert len(data) == size
        start = WalSegment.parse(name, size).start(size)
        raw = walscan_python.scan_wal(data, start, 8192)
        if NATIVE is not None:
            assert tuple(NATIVE.scan_wal(data, start, 8192)) == tuple(raw), name
        facts = scan_segment(data, segment_start=start)
        if facts.records or facts.head_length:
            yield facts


def check_against_pg_waldump(server: ScratchServer, size: int) -> list[SegmentFacts]:
    wal = server.pgdata / "pg_wal"
    facts = list(scan_all(wal, size))
    names = segment_names(wal)
    dumped = pg_waldump(server.binaries, wal, names[0], names[-1])
    assert len(dumped) > 100
    seen = 0
    for index, one in enumerate(facts):
        here = [each for each in dumped if one.start <= each.lsn < one.start + size]
        seen += len(here)
        straddles = bool(here) and index + 1 < len(facts) and facts[index + 1].head_length > 0
        whole = here[:-1] if straddles else here
        assert one.records == len(whole), f"records of the segment at {one.start}"
        assert one.first_record == (here[0].lsn if here else None)
        assert one.first_prev == (here[0].prev or None if here else None)
        assert one.last_record == (here[-1].lsn if here else None)
        check_facts(one, whole)
        assert straddles or one.tail is None
        if one.tail is not None and facts[index + 1].head is not None:
            check_facts(join(one.tail, facts[index + 1].head or b"", lsn=one.last_record or 0), here[-1:])
        if index + 1 < len(facts):
            assert one.complete
            assert one.end == one.start + size
    assert seen == len(dumped)
    linked = [one for one in facts if one.first_record is not None]
    assert all(after.first_prev == before.last_record for before, after in pairwise(linked))
    return facts


def check_facts(facts: RecordFacts, dumped: list[Dumped]) -> None:
    times = [each.time for each in dumped if each.time is not None]
    assert facts.first_commit == min(times, default=None)
    assert facts.last_commit == max(times, default=None)
    assert [(each.lsn, f"RESTORE_POINT {each.name}") for each in facts.restore_points] == [
        (each.lsn, each.desc) for each in dumped if each.desc.startswith("RESTORE_POINT")
    ]
    assert [(each.lsn, f'CREATE {each.oid} "{each.path}"') for each in facts.tablespaces] == [
        (each.lsn, each.desc) for each in dumped if each.rmgr == "Tablespace" and each.desc.startswith("CREATE")
    ]
    changes = [each for each in dumped if each.desc.startswith("PARAMETER_CHANGE")]
    assert [each.lsn for each in facts.parameter_changes] == [each.lsn for each in changes]
    assert all(
        f"wal_level={ours.wal_level} " in f"{its.desc} "
        for ours, its in zip(facts.parameter_changes, changes, strict=True)
    )


def make_history(server: ScratchServer, tmp_path: Path) -> None:
    """Commits, aborts, prepared transactions, restore points, tablespaces, records longer than a segment, switches."""
    place = tmp_path / "tablespace-ä"
    place.mkdir()
    server.execute(
        "create table t (id int, filler text)",
        "insert into t select n, repeat('x', n % 900) from generate_series(1, 4000) n",
        "select pg_create_restore_point('before ''it''')",
        "begin; insert into t values (1); rollback",
        "begin; insert into t values (2); prepare transaction 'one'",
        "commit prepared 'one'",
        "begin; insert into t values (3); prepare transaction 'two'",
        "rollback prepared 'two'",
        "select pg_switch_wal()",
        f"create tablespace apart location '{place}'",
        "create table far tablespace apart as select generate_series(1, 2000) n",
        "set allow_in_place_tablespaces = on",
        "create tablespace inside location ''",
        "select pg_logical_emit_message(false, 'long', repeat('m', 2500000))",
        "do $$ begin for i in 1..1500 loop insert into t values (i); commit; end loop; end $$",
        "select pg_create_restore_point('after')",
        "drop table far",
        "drop tablespace apart",
        "select pg_switch_wal()",
        "insert into t select n, repeat('y', 300) from generate_series(1, 9000) n",
    )


@pytest.mark.parametrize("mib", [1, 16])
def test_facts_are_those_of_pg_waldump(new_server: NewServer, tmp_path: Path, mib: int) -> None:
    server = new_server(settings=BUSY, options=InitOptions(wal_segment_bytes=mib * MIB))
    make_history(server, tmp_path)
    server.stop()
    server.settings["wal_level"] = "replica"
    server.start()
    server.execute("insert into t values (0)")
    server.stop("immediate")
    facts = check_against_pg_waldump(server, mib * MIB)
    assert [change.wal_level for one in facts for change in one.parameter_changes][-2:] == ["logical", "replica"]
    assert [point.name for one in facts for point in one.restore_points] == ["before 'it'", "after"]
    assert [create.path for one in facts for create in one.tablespaces] == [str(tmp_path / "tablespace-ä"), ""]
    assert facts[-1].ending in (Ending.UNFINISHED, Ending.BROKEN)
    if mib == 1:
        assert {one.ending for one in facts[:-1]} == {Ending.FULL, Ending.SWITCHED}
        assert sum(one.tail is not None for one in facts) > 3
        assert any(one.first_record is None and one.head_length > MIB and one.head is None for one in facts)


@pytest.mark.newest
def test_a_segment_of_64_mib_is_read_to_its_end(new_server: NewServer) -> None:
    server = new_server(settings=BUSY, options=InitOptions(wal_segment_bytes=64 * MIB))
    server.execute(
        "create table t as select n, repeat('x', 200) from generate_series(1, 20000) n", "select pg_switch_wal()"
    )
    server.execute("insert into t values (1)")
    server.stop()
    assert len(check_against_pg_waldump(server, 64 * MIB)) == 2


def test_end_of_records_is_where_the_server_writes_on(new_server: NewServer) -> None:
    server = new_server(settings=BUSY)
    server.execute("create table t as select 1 as n", "select pg_switch_wal()", "insert into t values (2)")
    now, name = server.query("select pg_current_wal_insert_lsn()::text, pg_walfile_name(pg_current_wal_insert_lsn())")[
        0
    ]
    server.crash()
    segment = WalSegment.parse(name, 16 * MIB)
    facts = scan_segment((server.pgdata / "pg_wal" / name).read_bytes(), segment_start=segment.start(16 * MIB))
    assert (facts.ending, facts.end, facts.end_of_records) == (Ending.UNFINISHED, Lsn.parse(now), Lsn.parse(now))


def test_a_record_lost_in_a_crash_is_passed_over_as_recovery_does(new_server: NewServer) -> None:
    """The server marks it with XLOG_OVERWRITE_CONTRECORD; links between segments stay whole."""
    server = new_server(settings=BUSY, options=InitOptions(wal_segment_bytes=MIB))
    server.execute("create table t (n int)", "checkpoint")
    server.execute(
        "select pg_logical_emit_message(false, 'lost', repeat('m', 1500000), true)"
        if server.binaries.major > 16
        else "begin; select pg_logical_emit_message(true, 'lost', repeat('m', 1500000)); commit"
    )
    server.crash()
    wal = server.pgdata / "pg_wal"
    found = list(scan_all(wal, MIB))
    begun = next(one for one, after in pairwise(found) if after.head_length > 100_000)
    lost = [name for name in segment_names(wal) if WalSegment.parse(name, MIB).start(MIB) > begun.start]
    for name in lost:
        (wal / name).unlink()
    server.start()
    server.execute("insert into t values (1)")
    server.stop()
    after = [one for one in scan_all(wal, MIB) if one.start > begun.start]
    assert after[0].first_prev == begun.last_record
    assert after[0].head is None
    assert after[0].records > 0
    assert after[0].last_commit is not None


def test_a_segment_of_a_new_timeline_begins_with_pages_of_the_parent(new_server: NewServer) -> None:
    server = new_server(settings=BUSY)
    server.execute("create table t as select generate_series(1, 1000) n")
    server.stop()
    (server.pgdata / "recovery.signal").touch()
    server.settings["restore_command"] = "false"
    server.start()
    server.wait_promoted()
    server.execute("insert into t values (2)")
    name = server.value("select pg_walfile_name(pg_current_wal_insert_lsn())")
    server.stop()
    assert name.startswith("00000002")
    start = WalSegment.parse(name, 16 * MIB).start(16 * MIB)
    facts = scan_segment((server.pgdata / "pg_wal" / name).read_bytes(), segment_start=start)
    assert facts.timeline == 1
    assert facts.last_commit is not None
    assert facts.records > 100
    assert facts.ending in (Ending.UNFINISHED, Ending.FULL)


def test_the_pure_twin_can_be_asked_for() -> None:
    code = "from pgrecall.postgres import crc, walscan; raise SystemExit(bool(crc._native or walscan._native))"
    environment = {**os.environ, "PGRECALL_PURE": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
