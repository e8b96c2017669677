"""Repositories: made once, opened by whoever may, never mistaken for another."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from pgrecall.clock import ManualClock
from pgrecall.errors import (
    ClusterNotFound,
    DestinationNotEmpty,
    FormatUnknown,
    KeyMismatch,
    KeyProblem,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    Refused,
    RepositoryExists,
    RepositoryNotFound,
    StorageError,
    ValueInvalid,
)
from pgrecall.repository import agefile, canonical, layout
from pgrecall.repository.header import ObjectType
from pgrecall.repository.repository import ClusterStore, CreatedRepository, Repository, SystemIdentity
from pgrecall.storage.posix import PosixStorage
from tests.support.faulty import FaultyStorage

CLOCK = ManualClock("2026-11-20T15:31:27Z")
SYSTEM = SystemIdentity(7_298_000_000_000_000_041, 160_014, datetime(2026, 11, 20, tzinfo=UTC))


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agefile, "WORK_FACTOR", 4)


@pytest.fixture
def storage(tmp_path: Path) -> PosixStorage:
    return PosixStorage(tmp_path / "repo")


@pytest.fixture
def sealed(storage: PosixStorage) -> CreatedRepository:
    return Repository.create(storage, sealed=True, clock=CLOCK)


def rewritten(text: dict[str, Any]) -> bytes:
    """A format file as somebody writes it who has no root key."""
    text["hash"] = blake3(canonical.encode({k: v for k, v in text.items() if k not in ("hash", "mac")})).hexdigest()
    return canonical.encode(text)


def rewrite(storage: PosixStorage, key: str, data: bytes) -> None:
    storage.delete(key)
    storage.put(key, data)


def test_a_new_repository_opens_and_says_what_it_is(storage: PosixStorage, sealed: CreatedRepository) -> None:
    opened = Repository.open(storage)
    assert (opened.id, opened.sealed) == (sealed.repository.id, True)
    assert opened.format.created == CLOCK.now()
    assert b"pgrecall restore" in storage.get("README.txt")
    assert opened.clusters() == []


def test_identity_and_passphrase_both_unlock_it(storage: PosixStorage, sealed: CreatedRepository) -> None:
    assert sealed.identity
    assert sealed.passphrase
    for secret in (sealed.identity, sealed.passphrase):
        assert Repository.open(storage).unlock(secret) == sealed.root


def test_an_unsealed_repository_has_no_secrets(storage: PosixStorage) -> None:
    created = Repository.create(storage, sealed=False, clock=CLOCK)
    assert (created.root, created.identity, created.passphrase) == (None, None, None)
    assert list(storage.list("keys/")) == []
    with pytest.raises(KeyProblem):
        created.repository.unlock("anything")


def test_nothing_is_made_over_a_repository(storage: PosixStorage, sealed: CreatedRepository) -> None:
    before = {info.key: storage.get(info.key) for info in storage.list("")}
    for again in (True, False):
        with pytest.raises(RepositoryExists):
            Repository.create(storage, sealed=again, clock=CLOCK)
    assert {info.key: storage.get(info.key) for info in storage.list("")} == before
    assert Repository.open(storage).id == sealed.repository.id


@pytest.mark.parametrize("name", ["PG_VERSION", "My Documents", "README.txt", "keys", "sub/file"])
def test_nothing_is_made_beside_foreign_files(storage: PosixStorage, tmp_path: Path, name: str) -> None:
    foreign = tmp_path / "repo" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("precious")
    with pytest.raises(DestinationNotEmpty):
        Repository.create(storage, sealed=True, clock=CLOCK)
    assert [path for path in (tmp_path / "repo").rglob("*") if path.is_file()] == [foreign]
    assert foreign.read_text() == "precious"


def test_making_a_repository_may_be_killed_at_any_request_and_begun_again(tmp_path: Path) -> None:
    for request in range(12):
        for fault in "EL":
            inner = PosixStorage(tmp_path / f"{request}{fault}")
            faulty = FaultyStorage(inner, script="." * request + fault)
            try:
                created = Repository.create(faulty, sealed=True, clock=CLOCK)
            except StorageError:
                created = Repository.create(inner, sealed=True, clock=CLOCK)
            assert created.passphrase
            assert Repository.open(inner).unlock(created.passphrase) == created.root


def test_a_repository_whose_secrets_nobody_saw_is_not_left_behind(tmp_path: Path) -> None:
    """Each answer is lost in turn: either the secrets are told or there is no repository."""
    for request in range(12):
        inner = PosixStorage(tmp_path / str(request))
        try:
            created = Repository.create(FaultyStorage(inner, script="." * request + "L"), sealed=True, clock=CLOCK)
        except StorageError:
            assert list(inner.list("format/")) == []
            continue
        assert created.identity
        assert Repository.open(inner).unlock(created.identity) == created.root


def test_of_two_who_make_a_repository_one_is_told_so(storage: PosixStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    from pgrecall.repository import repository

    monkeypatch.setattr(repository, "_refuse_occupied", lambda storage: None)
    first = Repository.create(storage, sealed=True, clock=CLOCK)
    with pytest.raises(RepositoryExists):
        Repository.create(storage, sealed=True, clock=CLOCK)
    assert first.passphrase
    assert Repository.open(storage).unlock(first.passphrase) == first.root


def test_where_there_is_none_the_next_step_is_named(storage: PosixStorage) -> None:
    with pytest.raises(RepositoryNotFound) as caught:
        Repository.open(storage)
    assert "pgrecall init" in (caught.value.hint or "")


def test_a_cluster_opens_with_host_key_identity_and_passphrase(
    storage: PosixStorage, sealed: CreatedRepository
) -> None:
    host_key = sealed.repository.add_cluster("main", sealed.root, systems=[SYSTEM])
    assert sealed.identity
    assert sealed.passphrase
    stores = [
        ClusterStore.from_host_key(storage, host_key),
        ClusterStore.from_identity(storage, "main", sealed.identity),
        ClusterStore.from_identity(storage, "main", sealed.passphrase),
    ]
    for store in stores:
        assert store.keys == host_key.keys
        assert store.identity().systems == (SYSTEM,)
        assert store.read(ObjectType.IDENTITY, "identity/0").authentic
    assert sealed.root
    assert Repository.open(storage).host_key("main", sealed.root) == host_key
    assert Repository.open(storage).clusters() == ["main"]


def test_clusters_share_no_key(storage: PosixStorage, sealed: CreatedRepository) -> None:
    one = sealed.repository.add_cluster("one", sealed.root)
    two = sealed.repository.add_cluster("two", sealed.root)
    assert len({one.cluster, two.cluster}) == len({one.keys.data_key, two.keys.data_key}) == 2
    assert sealed.repository.clusters() == ["one", "two"]
    ClusterStore.from_host_key(storage, one).put(ObjectType.OWNER, "wal/1/00000001/owner", clear={"host": "a"})
    storage.put(
        "clusters/two/wal/1/00000001/owner", storage.get("clusters/one/wal/1/00000001/owner")
    )  # a provider who mixes them up
    with pytest.raises(KeyMismatch):
        ClusterStore.from_host_key(storage, two).read(ObjectType.OWNER, "wal/1/00000001/owner")


def test_a_name_is_taken_once(sealed: CreatedRepository) -> None:
    first = sealed.repository.add_cluster("main", sealed.root)
    with pytest.raises(Refused, match="exists already"):
        sealed.repository.add_cluster("main", sealed.root)
    assert sealed.root
    assert sealed.repository.host_key("main", sealed.root) == first
    with pytest.raises(ValueInvalid):
        sealed.repository.add_cluster("Main", sealed.root)


def test_adding_a_cluster_may_be_killed_and_begun_again(tmp_path: Path) -> None:
    for request in range(8):
        for fault in "EL":
            inner = PosixStorage(tmp_path / f"{request}{fault}")
            created = Repository.create(inner, sealed=True, clock=CLOCK, passphrase=False)
            faulty = Repository(FaultyStorage(inner, script="." * request + fault), created.repository.format)
            try:
                faulty.add_cluster("main", created.root)
            except StorageError:
                try:
                    created.repository.add_cluster("main", created.root)
                except Refused:
                    assert fault == "L"
            assert created.identity
            ClusterStore.from_identity(inner, "main", created.identity)


def test_adding_to_a_sealed_repository_takes_its_root(storage: PosixStorage, sealed: CreatedRepository) -> None:
    with pytest.raises(KeyProblem):
        sealed.repository.add_cluster("main", None)
    other = Repository.create(PosixStorage(Path(storage.place.removeprefix("file://") + "2")), sealed=True, clock=CLOCK)
    with pytest.raises(KeyMismatch):
        sealed.repository.add_cluster("main", other.root)
    assert sealed.repository.clusters() == []


def test_a_cluster_that_is_not_there_is_named(storage: PosixStorage, sealed: CreatedRepository) -> None:
    assert sealed.identity
    with pytest.raises(ClusterNotFound, match="'other'"):
        ClusterStore.from_identity(storage, "other", sealed.identity)


def test_an_unsealed_cluster_is_authentic_with_its_key_file_and_intact_without(storage: PosixStorage) -> None:
    created = Repository.create(storage, sealed=False, clock=CLOCK)
    host_key = created.repository.add_cluster("main", None, systems=[SYSTEM])
    with_key, without = ClusterStore.from_host_key(storage, host_key), ClusterStore.without_key(storage, "main")
    assert with_key.read(ObjectType.IDENTITY, "identity/0").authentic
    assert not without.read(ObjectType.IDENTITY, "identity/0").authentic
    assert with_key.identity() == without.identity()
    assert with_key.keys.id_key == without.keys.id_key


def test_a_sealed_repository_does_not_open_without_a_key(storage: PosixStorage, sealed: CreatedRepository) -> None:
    sealed.repository.add_cluster("main", sealed.root)
    with pytest.raises(KeyProblem):
        ClusterStore.without_key(storage, "main")


# What a host has pinned -----------------------------------------------------------------------------------------------
def test_a_host_refuses_another_repository(tmp_path: Path, storage: PosixStorage, sealed: CreatedRepository) -> None:
    pin = sealed.repository.add_cluster("main", sealed.root)
    assert Repository.open(storage, pin).id == pin.repository
    elsewhere = PosixStorage(tmp_path / "elsewhere")
    Repository.create(elsewhere, sealed=True, clock=CLOCK)
    with pytest.raises(KeyMismatch):
        Repository.open(elsewhere, pin)
    with pytest.raises(RepositoryNotFound):
        Repository.open(PosixStorage(tmp_path / "unmounted"), pin)


def test_a_host_never_follows_a_repository_that_calls_itself_unsealed(
    storage: PosixStorage, sealed: CreatedRepository
) -> None:
    pin = sealed.repository.add_cluster("main", sealed.root)
    text = canonical.decode(storage.get("format/0.json"), "format")
    storage.put("format/1.json", rewritten({**text, "sealed": False, "mac": None}))
    with pytest.raises(KeyMismatch, match=r"claims to be .*unsealed"):
        Repository.open(storage, pin)
    with pytest.raises(KeyMismatch):
        ClusterStore.without_key(storage, "main")


def test_the_holder_of_the_root_notices_a_changed_format(storage: PosixStorage, sealed: CreatedRepository) -> None:
    assert sealed.identity
    text = canonical.decode(storage.get("format/0.json"), "format")
    storage.put("format/1.json", rewritten({**text, "created": "2020-01-01T00:00:00Z"}))
    with pytest.raises(KeyMismatch):
        Repository.open(storage).unlock(sealed.identity)


def test_a_root_of_somebody_else_makes_no_keys_for_us(
    tmp_path: Path, storage: PosixStorage, sealed: CreatedRepository
) -> None:
    """Who can write the bucket but lacks the root key cannot give a cluster new keys."""
    sealed.repository.add_cluster("main", sealed.root)
    attacker = Repository.create(PosixStorage(tmp_path / "attacker"), sealed=True, clock=CLOCK)
    attacker.repository.add_cluster("main", attacker.root)
    for name in ("keys/1/root", "identity/0"):
        rewrite(storage, f"clusters/main/{name}", attacker.repository.storage.get(f"clusters/main/{name}"))
    assert sealed.identity
    with pytest.raises(KeyMismatch):
        ClusterStore.from_identity(storage, "main", sealed.identity)


@pytest.mark.parametrize("act", ["read", "write", "remove"])
def test_an_unknown_feature_forbids_its_act_and_no_other(storage: PosixStorage, act: str) -> None:
    Repository.create(storage, sealed=False, clock=CLOCK)
    text = canonical.decode(storage.get("format/0.json"), "format")
    storage.put("format/1.json", rewritten({**text, "features": {**text["features"], act: ["moves"]}}))
    if act == "read":
        with pytest.raises(FormatUnknown, match="moves"):
            Repository.open(storage)
        return
    opened = Repository.open(storage)
    opened.format.require("read")
    opened.format.require("remove" if act == "write" else "write")
    with pytest.raises(FormatUnknown, match="moves"):
        opened.format.require("write" if act == "write" else "remove")
    if act == "write":
        with pytest.raises(FormatUnknown):
            opened.add_cluster("main", None)


def test_a_newer_format_is_named(storage: PosixStorage) -> None:
    Repository.create(storage, sealed=False, clock=CLOCK)
    text = canonical.decode(storage.get("format/0.json"), "format")
    storage.put("format/1.json", rewritten({**text, "format": 2}))
    with pytest.raises(FormatUnknown, match="format 2"):
        Repository.open(storage)


def test_a_lost_format_file_stops_writing_but_not_the_rescue(storage: PosixStorage, sealed: CreatedRepository) -> None:
    pin = sealed.repository.add_cluster("main", sealed.root, systems=[SYSTEM])
    storage.delete("format/0.json")
    opened = Repository.open(storage, pin)
    opened.format.require("read")
    with pytest.raises(ObjectDamaged):
        opened.format.require("write")
    assert sealed.identity
    assert ClusterStore.from_identity(storage, "main", sealed.identity).identity().systems == (SYSTEM,)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format":1}', b"\xff", b"x" * (2 << 20)])
def test_a_damaged_format_file_is_damage(storage: PosixStorage, data: bytes) -> None:
    storage.put("format/0.json", data)
    with pytest.raises(ObjectDamaged):
        Repository.open(storage)


def test_a_missing_object_is_missing_and_foreign_names_are_no_clusters(
    storage: PosixStorage, sealed: CreatedRepository
) -> None:
    host_key = sealed.repository.add_cluster("main", sealed.root)
    storage.put("clusters/Not-Ours/x", b"")
    assert sealed.repository.clusters() == ["main"]
    with pytest.raises(ObjectMissing):
        ClusterStore.from_host_key(storage, host_key).read(ObjectType.CLAIM, "backups/20261120T153127Z-full/claim")


def test_no_secret_lies_in_the_repository(storage: PosixStorage, sealed: CreatedRepository) -> None:
    host_key = sealed.repository.add_cluster("main", sealed.root)
    assert sealed.root
    assert host_key.keys.data_key
    for info in storage.list(""):
        data = storage.get(info.key)
        for secret in (sealed.root.key, host_key.keys.data_key, host_key.keys.id_key):
            assert secret not in data
    with pytest.raises(ObjectExists):
        storage.put(layout.format_key(0), b"")


def test_a_flipped_letter_of_the_format_file_is_damage(storage: PosixStorage) -> None:
    """Also where the text still makes sense, and also without the root key."""
    Repository.create(storage, sealed=False, clock=CLOCK)
    text = storage.get("format/0.json")
    rewrite(storage, "format/0.json", text.replace(b'"created":"2026', b'"created":"2006'))
    with pytest.raises(ObjectDamaged, match="damaged"):
        Repository.open(storage)
