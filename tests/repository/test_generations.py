"""Keys change, backups stay: what was sealed under older generations is read beside what is sealed now."""

from pathlib import Path

import pytest

from pgrecall.clock import ManualClock
from pgrecall.domain.label import BackupKind
from pgrecall.errors import KeyMismatch, ObjectDamaged
from pgrecall.repository import canonical, keyring, layout
from pgrecall.repository.cluster import ClusterStore, host_key_from_root
from pgrecall.repository.fields import base64_text
from pgrecall.repository.header import ObjectType
from pgrecall.repository.hostkey import HostKey, read_host_key, write_host_key
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.repository import Repository
from pgrecall.repository.secrets import Keys
from tests.support.memory import MemoryStorage
from tests.support.tiny_engine import TinyEngine, label, make_store, restore

CLOCK = ManualClock("2026-11-20T15:31:27Z")
FULL, INCREMENT = label(0), label(1, BackupKind.INCR)
BEFORE = {b"a": b"x" * 300_000, b"large": b"1" * 2_000_000, b"zeros": bytes(9000)}
AFTER = BEFORE | {b"a": b"x" * 299_999 + b"y", b"new": b"n"}


def of_generation(storage: MemoryStorage, number: int, *older: Keys) -> ClusterStore:
    base = make_store(storage)
    keys = Keys.of_sealed(number, bytes([number]) * 32, b"i" * 32)
    return ClusterStore(storage, base.scope.repository, base.scope.cluster, "main", keys, older)


def test_a_backup_of_packs_of_two_generations_is_read_with_both_keys() -> None:
    storage = MemoryStorage()
    first = of_generation(storage, 1)
    TinyEngine(first).back_up(FULL, BEFORE)
    second = of_generation(storage, 2, first.keys)
    TinyEngine(second).back_up(INCREMENT, AFTER, FULL, BEFORE)
    assert restore(ManifestReader.open(second, INCREMENT)) == AFTER
    assert restore(ManifestReader.open(second, FULL)) == BEFORE
    manifest = ManifestReader.open(second, INCREMENT).manifest
    assert [each.pack.generation for each in manifest.runs] == [1, 2]
    with pytest.raises(KeyMismatch, match="generation 2, the key at hand is 1"):
        ManifestReader.open(first, INCREMENT)
    with pytest.raises(KeyMismatch, match="generation 1, the key at hand is 2"):
        restore(ManifestReader.open(of_generation(storage, 2), INCREMENT))


def test_a_backup_from_before_its_ids_changed_is_proven_with_its_own() -> None:
    storage = MemoryStorage()
    first = of_generation(storage, 1)
    TinyEngine(first).back_up(FULL, BEFORE)
    base = first.scope
    keys = Keys.of_sealed(2, b"2" * 32, b"another id key, of 32 bytes too.")
    second = ClusterStore(storage, base.repository, base.cluster, "main", keys, (first.keys,))
    assert restore(ManifestReader.open(second, FULL)) == BEFORE
    reader = second.read(ObjectType.MANIFEST, layout.manifest_name(FULL))
    assert reader.keys == first.keys
    assert reader.authentic


def test_an_older_generation_seals_nothing() -> None:
    storage = MemoryStorage()
    first = of_generation(storage, 1)
    second = of_generation(storage, 2, first.keys)
    second.put(ObjectType.OWNER, "wal/1/00000001/owner", clear={})
    assert second.read(ObjectType.OWNER, "wal/1/00000001/owner").header.generation == 2


def rotate(repository: Repository, host: HostKey, root: keyring.RootKey) -> Keys:
    """What a rotation will store: the next keys, sealed under the newest root key."""
    keys = Keys.of_sealed(host.keys.generation + 1, b"n" * 32, host.keys.id_key)
    assert keys.data_key is not None
    payload = {
        "repository": host.repository.hex(),
        "cluster": host.cluster.hex(),
        "generation": keys.generation,
        "data_key": base64_text(keys.data_key),
        "id_key": base64_text(keys.id_key),
    }
    sealer = ClusterStore(repository.storage, host.repository, host.cluster, host.name, root.keys)
    name = layout.data_key_name(keys.generation)
    clear = {"cluster": host.cluster.hex()}
    sealer.put(ObjectType.CLUSTER_KEY, name, clear=clear, frames=[canonical.encode(payload)])
    return keys


def test_the_newest_root_key_opens_all_generations_and_the_newest_one_seals() -> None:
    storage = MemoryStorage()
    made = Repository.create(storage, sealed=True, clock=CLOCK, passphrase=False)
    assert made.root
    assert made.identity
    host = made.repository.add_cluster("main", made.root)
    root = keyring.next_root(made.root)
    wrap = keyring.wrap_for_recipient(root, keyring.recipient_of(made.identity))
    storage.put(wrap.key, wrap.data)
    newest = rotate(made.repository, host, root)
    found = host_key_from_root(storage, "main", Repository.open(storage).unlock(made.identity))
    assert (found.keys, found.older) == (newest, (host.keys,))
    # The first root key does not open what the second one sealed.
    assert host_key_from_root(storage, "main", made.root).keys == host.keys
    assert ClusterStore.from_identity(storage, "main", made.identity).scope.older == (host.keys,)


def test_a_host_key_file_holds_older_generations_in_order(tmp_path: Path) -> None:
    one, two, three = (Keys.of_sealed(number, bytes([number]) * 32, b"i" * 32) for number in (1, 2, 3))
    key = HostKey(bytes(16), bytes(16), "main", three, (one, two))
    write_host_key(tmp_path / "key", key)
    assert read_host_key(tmp_path / "key") == key
    text = canonical.decode(key.encode(), "it")
    wrong: list[object] = [text["older"][::-1], text["older"] * 2, [{**text["older"][0], "generation": 3}], [{}], None]
    for older in wrong:
        with pytest.raises(ObjectDamaged):
            HostKey.decode(canonical.encode({**text, "older": older}), "it")
    plain = HostKey(bytes(16), bytes(16), "main", Keys.of_unsealed(bytes(16), bytes(32)))
    unsealed = canonical.decode(plain.encode(), "it")
    with pytest.raises(ObjectDamaged):
        HostKey.decode(canonical.encode({**unsealed, "older": text["older"]}), "it")
