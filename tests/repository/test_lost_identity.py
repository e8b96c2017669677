"""A cluster whose identity is lost still opens: with the root key alone, and without any key where there is none."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgrecall.clock import ManualClock
from pgrecall.domain.label import BackupKind
from pgrecall.errors import ClusterNotFound, KeyMismatch, ObjectDamaged
from pgrecall.repository import agefile
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import claim_name
from pgrecall.repository.repository import ClusterStore, CreatedRepository, HostKey, Repository
from pgrecall.services.archive.presence import require_presence
from pgrecall.storage.posix import PosixStorage
from tests.support.faulty import FaultyStorage

CLOCK = ManualClock("2026-11-20T15:31:27Z")
NOW = datetime(2026, 11, 20, 15, 31, 27, tzinfo=UTC)
IDENTITY = "clusters/main/identity/0"


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agefile, "WORK_FACTOR", 4)


@pytest.fixture
def storage(tmp_path: Path) -> PosixStorage:
    return PosixStorage(tmp_path / "repo")


@pytest.fixture
def sealed(storage: PosixStorage) -> CreatedRepository:
    return Repository.create(storage, sealed=True, clock=CLOCK)


def spoil(storage: PosixStorage, key: str) -> None:
    data = bytearray(storage.get(key))
    data[len(data) // 2] ^= 1
    storage.delete(key)
    storage.put(key, data)


@pytest.mark.parametrize("damaged", [False, True])
def test_the_root_key_alone_opens_a_cluster_without_identity(
    storage: PosixStorage, sealed: CreatedRepository, damaged: bool
) -> None:
    assert sealed.identity and sealed.passphrase
    host_key = sealed.repository.add_cluster("main", sealed.root)
    label = ClusterStore.from_host_key(storage, host_key).claim_label(BackupKind.FULL, NOW, "db1", b"token")
    if damaged:
        spoil(storage, IDENTITY)
    else:
        storage.delete(IDENTITY)
    for secret in (sealed.identity, sealed.passphrase):
        opened = ClusterStore.from_identity(storage, "main", secret)
        assert opened.scope == ClusterStore.from_host_key(storage, host_key).scope
        assert opened.read(ObjectType.CLAIM, claim_name(label)).clear["host"] == "db1"
        require_presence(opened)


def test_keys_of_a_killed_creation_are_passed_over_when_the_identity_is_lost(
    storage: PosixStorage, sealed: CreatedRepository
) -> None:
    """Here the killed attempt came later, so that its keys are the newest; the claims tell which count."""
    host_key = sealed.repository.add_cluster("main", sealed.root)
    ClusterStore.from_host_key(storage, host_key).claim_label(BackupKind.FULL, NOW, "db1", b"token")
    storage.delete(IDENTITY)
    killed = Repository(FaultyStorage(storage, script="..EEEE"), sealed.repository.format)
    with pytest.raises(Exception, match="refused"):
        killed.add_cluster("main", sealed.root)
    assert storage.head("clusters/main/keys/2/root").size
    assert sealed.root
    assert sealed.repository.host_key("main", sealed.root).keys.fingerprint == host_key.keys.fingerprint


def test_a_key_object_of_somebody_else_opens_nothing(
    tmp_path: Path, storage: PosixStorage, sealed: CreatedRepository
) -> None:
    sealed.repository.add_cluster("main", sealed.root)
    other = Repository.create(PosixStorage(tmp_path / "other"), sealed=True, clock=CLOCK)
    other.repository.add_cluster("main", other.root)
    storage.delete(IDENTITY)
    storage.delete("clusters/main/keys/1/root")
    storage.put("clusters/main/keys/1/root", other.repository.storage.get("clusters/main/keys/1/root"))
    assert sealed.identity
    with pytest.raises((ClusterNotFound, KeyMismatch)):
        ClusterStore.from_identity(storage, "main", sealed.identity)


def test_a_damaged_identity_without_any_other_word_is_damage(storage: PosixStorage) -> None:
    Repository.create(storage, sealed=False, clock=CLOCK).repository.add_cluster("main", None)
    spoil(storage, IDENTITY)
    with pytest.raises(ObjectDamaged):
        ClusterStore.without_key(storage, "main")


def test_an_unsealed_cluster_without_identity_is_named_by_its_claims(storage: PosixStorage) -> None:
    host_key: HostKey = Repository.create(storage, sealed=False, clock=CLOCK).repository.add_cluster("main", None)
    store = ClusterStore.from_host_key(storage, host_key)
    store.claim_label(BackupKind.FULL, NOW, "db1", b"token")
    storage.delete(IDENTITY)
    opened = ClusterStore.without_key(storage, "main")
    assert (opened.scope.cluster, opened.keys.id_key) == (host_key.cluster, host_key.keys.id_key)
