"""Verify reads every byte once and says that all is well, or which object, backup and file are not."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from pgrecall.clock import ManualClock
from pgrecall.domain.label import BackupKind
from pgrecall.errors import BackupNotFound, StorageError
from pgrecall.observe.reporter import Silent
from pgrecall.repository import agefile
from pgrecall.repository.catalog import Catalog
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import CommitDetails
from pgrecall.repository.marks import read_bad_marks
from pgrecall.services.backup.committing import make_commit
from pgrecall.services.verify.memory import MemoryBudget
from pgrecall.services.verify.report import Flaw, Kind, VerifyReport
from pgrecall.services.verify.run import VerifyRequest, verify
from tests.support.memory import MemoryStorage
from tests.support.small_repository import SmallRepository, build, describe
from tests.support.tiny_engine import FIRST, PAGE, TinyEngine

CLOCK = ManualClock("2026-11-21T00:00:00Z")
CLUSTER = "clusters/main/"


@pytest.fixture(scope="module", params=[True, False], ids=["sealed", "unsealed"])
def small(request: pytest.FixtureRequest) -> Iterator[SmallRepository]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agefile, "WORK_FACTOR", 4)
        yield build(sealed=request.param)


def run(small: SmallRepository, storage: MemoryStorage, **request: object) -> VerifyReport:
    asked = replace(VerifyRequest(secrets=small.secrets), **request)  # type: ignore[arg-type]
    return verify(asked, small.store(storage), clock=CLOCK, reporter=Silent())


def flip(storage: MemoryStorage, key: str, at: int = -200) -> None:
    spoiled = bytearray(storage.objects[key])
    spoiled[at] ^= 1
    storage.objects[key] = bytes(spoiled)


def data_pack(small: SmallRepository) -> tuple[str, PackRef]:
    """Key of a pack of the first run that the last backup needs, too."""
    first, last = min(small.trees), max(small.trees)
    commit = Catalog(small.store(small.storage())).find(str(last)).commit
    assert commit is not None
    pack = next(each for each in commit.live if each.run == first.number)
    return f"{CLUSTER}packs/{first}/{pack.pack:08d}", pack


def only(report: VerifyReport) -> Flaw:
    found = [each for each in report.findings if each.kind is not Kind.NOTE]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("jobs", [1, 4])
def test_a_sound_repository_is_well_and_every_byte_is_read_once(small: SmallRepository, jobs: int) -> None:
    storage = small.storage()
    report = run(small, storage, jobs=jobs)
    assert (report.verdict, report.unopened, report.marked) == (None, (), ())
    assert [(each.kind, each.object.rpartition("/")[2]) for each in report.findings] == [(Kind.NOTE, "backup.json")]
    assert report.objects == len(small.objects) and report.authentic
    assert report.bytes_read == sum(map(len, small.objects.values()))
    assert report.bytes_read_again < report.bytes_read / 2
    for backup in report.backups:
        assert backup.readable and backup.bytes == sum(map(len, small.trees[backup.label].values()))
        assert backup.proven_bytes + backup.unknown_bytes == backup.bytes
    assert [each.unknown_bytes > 0 for each in report.backups] == [False, False, True]
    assert storage.objects == small.objects


def test_a_damaged_pack_names_backups_and_files_and_gets_a_mark(small: SmallRepository) -> None:
    key, pack = data_pack(small)
    storage = small.storage()
    flip(storage, key, 300)
    told = run(small, storage, mark=False)
    assert storage.objects.keys() == small.objects.keys() and not only(told).marked
    report = run(small, storage)
    finding = only(report)
    assert (finding.kind, finding.object, finding.marked) == (Kind.DAMAGED, key.removeprefix(CLUSTER), True)
    assert set(finding.backups) == set(small.trees)
    lost = {file.path for file in finding.files}
    assert lost and all(path.encode() in small.trees[min(small.trees)] for path in lost)
    assert report.verdict is Kind.DAMAGED and report.marked == (finding.object,)
    assert pack in read_bad_marks(small.store(storage))
    again = run(small, storage)
    assert only(again).marked and again.marked == ()


def test_damage_that_costs_no_chunk_costs_no_file(small: SmallRepository) -> None:
    """A footer is for whoever checks whole packs: its loss is damage, but every backup can still be read."""
    key, _ = data_pack(small)
    storage = small.storage()
    flip(storage, key, -1 if small.root else -40)
    report = run(small, storage)
    assert only(report).lost_files == 0 and all(each.readable for each in report.backups)
    assert report.verdict is Kind.DAMAGED


def test_a_cut_pack_says_where_it_ends(small: SmallRepository) -> None:
    key, _ = data_pack(small)
    storage = small.storage()
    size = len(storage.objects[key])
    storage.objects[key] = storage.objects[key][:1000]
    assert only(run(small, storage)).problem == f"is cut off at byte 1000 of {size}"


def test_a_lost_manifest_is_read_from_its_runs_last_pack(small: SmallRepository) -> None:
    storage = small.storage()
    label = max(small.trees)
    del storage.objects[f"{CLUSTER}backups/{label}/manifest"]
    report = run(small, storage)
    assert only(report).object == f"backups/{label}/manifest" and "second copy" in only(report).problem
    assert all(each.readable for each in report.backups)


def test_wal_that_a_backup_needs_makes_it_unreadable_and_other_wal_does_not(small: SmallRepository) -> None:
    storage = small.storage()
    segments = sorted(key for key in small.objects if "/wal/" in key and "/00000001/0" in key)
    flip(storage, segments[1])
    report = run(small, storage)
    assert only(report).backups == tuple(sorted(small.trees)) and not any(each.readable for each in report.backups)
    storage = small.storage()
    del storage.objects[segments[2]]
    report = run(small, storage)
    assert report.verdict is Kind.WARNING and all(each.readable for each in report.backups)
    assert only(report).object == segments[2].removeprefix(CLUSTER)


def test_one_backup_is_verified_without_what_others_need(small: SmallRepository) -> None:
    storage = small.storage()
    first, last = min(small.trees), max(small.trees)
    flip(storage, f"{CLUSTER}backups/{last}/manifest")
    report = run(small, storage, label=str(first))
    assert report.verdict is None and [each.label for each in report.backups] == [first] and report.backup == first
    assert report.objects < len(small.objects)
    report = run(small, storage, label="latest")
    assert only(report).object == f"backups/{last}/manifest"
    with pytest.raises(BackupNotFound):
        run(small, storage, label="2026112010")


def test_a_sample_reads_a_part_and_claims_no_more(small: SmallRepository) -> None:
    storage = small.storage()
    report = run(small, storage, sample=0.4, seed=7)
    assert report.verdict is None and 0 < report.left_out < len(small.objects)
    assert report.bytes_read < sum(map(len, small.objects.values()))
    for each in report.backups:
        assert each.readable and each.proven_bytes + each.unknown_bytes + each.unread_bytes == each.bytes
    assert any(each.unread_bytes for each in report.backups)


def test_foreign_objects_are_left_alone(small: SmallRepository) -> None:
    storage = small.storage()
    for key in (f"{CLUSTER}gc/1", "audit/db1/1", f"{CLUSTER}packs/notes.txt"):
        storage.objects[key] = b"somebody else's"
    report = run(small, storage)
    assert report.verdict is None
    assert {each.object for each in report.findings} >= {"gc/1", "audit/", "packs/notes.txt"}
    assert {each.kind for each in report.findings} == {Kind.NOTE}


def test_maps_that_lead_to_other_bytes_are_found_though_every_object_is_sound(small: SmallRepository) -> None:
    """A writer that misses a change writes sound objects; the digest of what the file held tells."""
    storage = small.storage()
    store = small.store(storage)
    parent = sorted(small.trees)[1]
    old = dict(small.trees[parent])
    tree, lie = dict(old), dict(old)
    tree[b"base/5/16400"] = with_page(with_page(old[b"base/5/16400"], 1), 100)
    lie[b"base/5/16400"] = with_page(old[b"base/5/16400"], 1)  # so that page 1 seems unchanged, and page 100 does not
    catalog = Catalog(store)
    label = store.claim_label(BackupKind.INCR, FIRST + timedelta(days=1), "db1", b"token")
    made = TinyEngine(store, describe=describe).back_up(label, tree, parent, lie)
    catalog.commit(make_commit(made.manifest, made.hash, made.live, made.stored, catalog), CommitDetails(host="db1"))
    report = run(small, storage)
    assert report.verdict is Kind.DAMAGED
    assert [each.label for each in report.backups if not each.readable] == [label]
    assert {(file.path, file.offset) for each in report.findings for file in each.files} == {("base/5/16400", 0)}


def with_page(content: bytes, page: int) -> bytes:
    return content[: page * PAGE] + b"new!" * (PAGE // 4) + content[(page + 1) * PAGE :]


class Unreadable(MemoryStorage):
    """One object that the disk does not give back."""

    bad = ""

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        if key == self.bad:
            raise StorageError(f"{key}: Input/output error")
        return super().get(key, limit=limit)


def test_what_the_storage_does_not_hand_over_is_no_proof_of_damage(small: SmallRepository) -> None:
    storage = Unreadable()
    storage.objects = dict(small.objects)
    storage.bad, _ = data_pack(small)
    report = run(small, storage)
    assert only(report).kind is Kind.UNREADABLE and report.verdict is Kind.UNREADABLE and report.marked == ()
    assert storage.objects.keys() == small.objects.keys()


class Flaky(MemoryStorage):
    """A cable that flips a bit once."""

    bad = ""

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        data = super().get(key, limit=limit)
        if key == self.bad:
            self.bad = ""
            return data[:-1] + bytes([data[-1] ^ 1])
        return data


def test_a_bit_lost_on_the_way_is_a_warning_and_no_mark(small: SmallRepository) -> None:
    storage = Flaky()
    storage.objects = dict(small.objects)
    storage.bad = data_pack(small)[0]
    report = run(small, storage)
    if small.root:
        assert only(report).kind is Kind.WARNING and "once" in only(report).problem
    assert report.marked == () and all(each.readable for each in report.backups)


def test_memory_is_granted_up_to_the_budget_and_to_a_giant_alone() -> None:
    budget = MemoryBudget(10)
    with budget.reserved(6), budget.reserved(4):
        pass
    with budget.reserved(100):
        pass
