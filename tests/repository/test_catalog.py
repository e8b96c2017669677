"""The catalog derives what became of every run from the objects that are there."""

import pytest

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.errors import BackupNotFound, ObjectExists, ValueInvalid
from pgrecall.repository.catalog import BackupState, Catalog
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.commit import CommitDetails
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import commit_name, manifest_name
from tests.support.commit_samples import commit, tombstone
from tests.support.memory import MemoryStorage
from tests.support.tiny_engine import label as nth
from tests.support.tiny_engine import make_store

DETAILS = CommitDetails(host="db1")


@pytest.fixture
def store() -> ClusterStore:
    return make_store()


@pytest.fixture
def catalog(store: ClusterStore) -> Catalog:
    return Catalog(store)


def claim(store: ClusterStore, hour: int, kind: BackupKind = BackupKind.FULL) -> BackupLabel:
    return store.claim_label(kind, nth(hour).moment, "db1", b"token")


def states(catalog: Catalog) -> list[tuple[str, BackupState]]:
    catalog.refresh()
    return [(str(each.label), each.state) for each in catalog.backups()]


def test_a_run_is_unfinished_then_stored_then_complete(store: ClusterStore, catalog: Catalog) -> None:
    label = claim(store, 0)
    assert states(catalog) == [(str(label), BackupState.UNFINISHED)]
    store.put(ObjectType.MANIFEST, manifest_name(label), clear={"label": str(label)}, frames=[b"{}"])
    assert states(catalog) == [(str(label), BackupState.STORED)]
    assert not catalog.restorable()
    digest = catalog.commit(commit(label, catalog.next_sequence()), DETAILS)
    assert states(catalog) == [(str(label), BackupState.COMPLETE)]
    record = catalog.find(str(label))
    assert (record.hash, record.authentic, record.sequence) == (digest, True, 1)
    assert catalog.details(label) == DETAILS


def test_a_backup_with_damaged_pages_is_never_better_than_stored(store: ClusterStore, catalog: Catalog) -> None:
    label = claim(store, 0)
    catalog.commit(commit(label, 1, damaged_pages=1), DETAILS)
    assert states(catalog) == [(str(label), BackupState.STORED)]
    assert [each.label for each in catalog.restorable()] == [label] and not catalog.complete()


def test_a_run_declared_dead_can_never_be_committed_nor_the_other_way_round(
    store: ClusterStore, catalog: Catalog
) -> None:
    dead, alive = claim(store, 0), claim(store, 1)
    catalog.abort(tombstone(dead, 1))
    with pytest.raises(ObjectExists):
        catalog.commit(commit(dead, 2), DETAILS)
    catalog.commit(commit(alive, 2), DETAILS)
    with pytest.raises(ObjectExists):
        catalog.abort(tombstone(alive, 3))
    assert states(catalog) == [(str(dead), BackupState.ABORTED), (str(alive), BackupState.COMPLETE)]
    assert catalog.next_sequence() == 3


def test_order_is_the_sequence_not_the_label(store: ClusterStore, catalog: Catalog) -> None:
    first, second, running = claim(store, 5), claim(store, 6), claim(store, 7)
    catalog.commit(commit(second, 1), DETAILS)
    catalog.commit(commit(first, 2), DETAILS)
    assert [each.label for each in catalog.backups()] == [second, first, running]
    assert catalog.find("latest").label == first
    assert [each.label for each in catalog.seen()] == [second, first]


def test_the_latest_is_the_newest_complete_one_and_else_the_newest_stored_one(
    store: ClusterStore, catalog: Catalog
) -> None:
    with pytest.raises(BackupNotFound, match="no backup that can be restored"):
        catalog.find("latest")
    first, second = claim(store, 0), claim(store, 1)
    catalog.commit(commit(second, 2, damaged_pages=4), DETAILS)
    assert catalog.find("latest").label == second
    catalog.commit(commit(first, 1), DETAILS)
    assert catalog.find("latest").label == first


def test_backups_are_found_by_the_beginning_of_their_label(store: ClusterStore, catalog: Catalog) -> None:
    first, second = claim(store, 0), claim(store, 1, BackupKind.INCR)
    catalog.commit(commit(first, 1), DETAILS)
    catalog.commit(commit(second, 2), DETAILS)
    assert catalog.find("20261120T01").label == first
    assert catalog.find(str(second)).label == second
    with pytest.raises(ValueInvalid, match="20261120T010003Z-full, 20261120T020003Z-incr"):
        catalog.find("2026")
    for wrong in ("2025", "", "20261120T010003Z-incr"):
        with pytest.raises(BackupNotFound) as caught:
            catalog.find(wrong)
        assert caught.value.hint == "There are: 20261120T010003Z-full, 20261120T020003Z-incr."


def test_a_commit_that_cannot_be_read_is_shown_and_hides_nothing_else(store: ClusterStore) -> None:
    storage = store.storage
    assert isinstance(storage, MemoryStorage)
    catalog = Catalog(store)
    good, bad = claim(store, 0), claim(store, 1)
    catalog.commit(commit(good, 1), DETAILS)
    catalog.commit(commit(bad, 2), DETAILS)
    key = store.key(commit_name(bad))
    storage.objects[key] = storage.objects[key][:-5]
    assert states(catalog) == [(str(good), BackupState.COMPLETE), (str(bad), BackupState.UNREADABLE)]
    record = catalog.find(str(bad))
    assert record.problem and "backup.json" in record.problem.message and not record.restorable
    # One label's commit in another's place is no commit of that label.
    storage.objects[key] = storage.objects[store.key(commit_name(good))]
    assert states(catalog)[1] == (str(bad), BackupState.UNREADABLE)


def test_the_backups_that_hang_on_a_pack_are_named(store: ClusterStore, catalog: Catalog) -> None:
    first, second = claim(store, 0), claim(store, 1)
    live = commit(first, 1).live
    catalog.commit(commit(first, 1), DETAILS)
    catalog.commit(commit(second, 2, live=live), DETAILS)
    assert [each.label for each in catalog.needing(PackRef(first.number, 9))] == [first, second]
    assert catalog.needing(PackRef(first.number, 2)) == ()


def test_dumps_and_foreign_objects_are_no_backups(store: ClusterStore, catalog: Catalog) -> None:
    claim(store, 0, BackupKind.DUMP)
    store.storage.put(store.key("backups/notes/readme"), b"?")
    assert catalog.backups() == ()
