"""What `list` and `show` say of a backup: one word that means one thing, and why it is not the best one."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pgrecall.cli.list import render as render_list
from pgrecall.cli.output import Line, Span
from pgrecall.cli.show import render as render_show
from pgrecall.cli.zone import Zone
from pgrecall.repository.catalog import Catalog
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.commit import CommitDetails
from pgrecall.repository.layout import commit_name, manifest_name
from pgrecall.services.listing import ClusterListing, State, list_backups, show_backup
from tests.support.memory import MemoryStorage
from tests.support.small_repository import SmallRepository, build

ZONE = Zone.of({"TZ": "UTC"}, datetime(2026, 11, 20, tzinfo=UTC))
WAITS = "waits for WAL 000000010000000300000000 to 000000010000000300000001"


@pytest.fixture(scope="module")
def small() -> SmallRepository:
    return build()


@pytest.fixture
def storage(small: SmallRepository) -> MemoryStorage:
    return small.storage()


@pytest.fixture
def store(small: SmallRepository, storage: MemoryStorage) -> ClusterStore:
    return small.store(storage)


def said(line: Line) -> str:
    return "".join(
        each.text if isinstance(each, Span) else each for each in ([line] if isinstance(line, str) else line)
    )


def in_list(store: ClusterStore, label: str) -> str:
    listing = ClusterListing(cluster="main", repository="memory", backups=list_backups(store))
    return next(said(line) for line in render_list([listing], ZONE) if label in said(line))


def in_show(store: ClusterStore, label: str) -> str:
    return said(next(iter(render_show(show_backup(store, label), ZONE))))


def test_a_run_without_its_wal_is_stored_and_names_the_wal_it_waits_for(
    small: SmallRepository, store: ClusterStore, storage: MemoryStorage
) -> None:
    label = max(small.trees)
    del storage.objects[store.key(commit_name(label))]
    found = next(each for each in list_backups(store) if each.label == label)
    assert (found.state, found.reason, found.restorable) == (State.STORED, WAITS, False)
    assert f"stored: {WAITS}" in in_list(store, str(label))
    assert f"stored: {WAITS}" in in_show(store, str(label))


def test_a_run_whose_manifest_cannot_be_read_either_is_told_to_wait_for_wal(
    small: SmallRepository, store: ClusterStore, storage: MemoryStorage
) -> None:
    label = max(small.trees)
    del storage.objects[store.key(commit_name(label))]
    key = store.key(manifest_name(label))
    storage.objects[key] = storage.objects[key][:-3]
    assert "stored: waits for WAL; which cannot be told: " in in_list(store, str(label))


def test_a_backup_of_corrupt_pages_is_stored_and_says_so(
    small: SmallRepository, store: ClusterStore, storage: MemoryStorage
) -> None:
    label = max(small.trees)
    catalog = Catalog(store)
    commit = catalog.find(str(label)).commit
    assert commit is not None
    del storage.objects[store.key(commit_name(label))]
    catalog.commit(replace(commit, damaged_pages=3), CommitDetails(host="db1"))
    assert "stored: 3 corrupt pages in the source" in in_list(store, str(label))
    assert "stored: 3 corrupt pages in the source" in in_show(store, str(label))
    assert next(each for each in list_backups(store) if each.label == label).restorable


def test_a_killed_run_is_unfinished(store: ClusterStore, small: SmallRepository) -> None:
    newest = list_backups(store)[0]
    assert newest.label not in small.trees
    assert (newest.state, newest.reason) == (State.UNFINISHED, "still running, or killed")
