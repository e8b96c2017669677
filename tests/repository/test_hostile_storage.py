"""What somebody can do who may write the storage but has no key: be in the way, at most, and never be believed."""

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
from blake3 import blake3

from pgrecall.clock import ManualClock
from pgrecall.domain.label import BackupKind
from pgrecall.errors import FormatUnknown, KeyMismatch, ObjectDamaged, PgrecallError
from pgrecall.repository import agefile, keyring
from pgrecall.repository.envelope import ObjectReader
from pgrecall.repository.formatfile import FormatFile
from pgrecall.repository.header import HASHED_END, MAX_FRAMES, Footer, Header, ObjectType
from pgrecall.repository.live import LivePacks
from pgrecall.repository.repository import ClusterStore, CreatedRepository, Repository, SystemIdentity
from pgrecall.repository.secrets import Keys, Scope
from pgrecall.storage.posix import PosixStorage

CLOCK = ManualClock("2026-11-20T15:31:27Z")
NONE: frozenset[str] = frozenset()
SYSTEM = SystemIdentity(7_298_000_000_000_000_041, 160_014, datetime(2026, 11, 20, tzinfo=UTC))


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agefile, "WORK_FACTOR", 4)


@pytest.fixture
def storage(tmp_path: Path) -> PosixStorage:
    return PosixStorage(tmp_path / "repo")


@pytest.fixture
def made(storage: PosixStorage) -> CreatedRepository:
    return Repository.create(storage, sealed=True, clock=CLOCK)


def identity_of(made: CreatedRepository) -> str:
    assert made.identity
    return made.identity


def wrap_evil_root(storage: PosixStorage, made: CreatedRepository, repository: bytes) -> keyring.RootKey:
    evil = keyring.RootKey(repository, 2, b"E" * 32, (b"e" * 32,))
    wrap = keyring.wrap_for_recipient(evil, keyring.recipient_of(identity_of(made)))
    storage.put(wrap.key, wrap.data)
    return evil


def test_a_newer_root_key_of_somebody_else_is_never_taken(storage: PosixStorage, made: CreatedRepository) -> None:
    """Else the next cluster's keys were sealed for him."""
    evil = wrap_evil_root(storage, made, made.repository.id)
    assert Repository.open(storage).unlock(identity_of(made)) == made.root
    storage.put("format/1.json", FormatFile(made.repository.id, True, CLOCK.now()).encode(evil))
    with pytest.raises(KeyMismatch):
        Repository.open(storage).unlock(identity_of(made))


def test_no_file_turns_a_repository_into_another(storage: PosixStorage, made: CreatedRepository) -> None:
    evil = wrap_evil_root(storage, made, keyring.repository_id(b"e" * 32))
    storage.put("format/1.json", FormatFile(evil.repository, True, CLOCK.now()).encode(evil))
    with pytest.raises(KeyMismatch, match=r"format/1\.json .* says otherwise"):
        Repository.open(storage)


def test_what_one_format_file_demands_no_other_takes_back(storage: PosixStorage, made: CreatedRepository) -> None:
    pin = made.repository.add_cluster("main", made.root)
    demanding = FormatFile(made.repository.id, True, CLOCK.now(), (NONE, frozenset({"moves"}), frozenset({"gc"})))
    storage.put("format/1.json", demanding.encode(made.root))
    storage.put("format/2.json", FormatFile(made.repository.id, True, CLOCK.now()).encode(made.root))
    opened = Repository.open(storage, pin)
    for act in ("write", "remove"):
        with pytest.raises(FormatUnknown):
            opened.format.require(act)
        with pytest.raises(FormatUnknown):
            Repository.open(storage, pin, act)


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
def test_an_identity_that_our_keys_do_not_prove_stops_nobody(storage: PosixStorage, sealed: bool) -> None:
    made = Repository.create(storage, sealed=sealed, clock=CLOCK)
    pin = made.repository.add_cluster("main", made.root, systems=[SYSTEM])
    storage.put("clusters/main/identity/1", b"garbage")
    stores = [ClusterStore.from_host_key(storage, pin)]
    stores += (
        [ClusterStore.from_identity(storage, "main", identity_of(made))]
        if sealed
        else [ClusterStore.without_key(storage, "main")]
    )
    for store in stores:
        assert store.identity().systems == (SYSTEM,)
    assert stores[0].record_system(SYSTEM).number == 2


def test_a_label_of_the_future_that_nobody_claimed_moves_no_other(storage: PosixStorage) -> None:
    made = Repository.create(storage, sealed=True, clock=CLOCK)
    store = ClusterStore.from_host_key(storage, made.repository.add_cluster("main", made.root))
    storage.put("clusters/main/backups/99981231T235959Z-full/claim", b"garbage")
    claimed = store.claim_label(BackupKind.FULL, CLOCK.now(), "db1", b"token")
    assert str(claimed) == "20261120T153127Z-full"
    later = store.claim_label(BackupKind.FULL, datetime(2026, 11, 20, 15, tzinfo=UTC), "db1", b"token")
    assert str(later) == "20261120T153128Z-full"


def test_a_table_of_a_million_frames_is_refused_before_it_unfolds() -> None:
    frames = MAX_FRAMES + 1
    head = Header(ObjectType.PACK, 0, 0, 0, bytes(32), bytes(32)).encode()
    size = len(head) + 9 * frames + 500 + 128
    body = head + bytes(9 * frames + 500)
    body += Footer(len(head) + 9 * frames, 500, 48 * frames, frames, size).encode()
    assert len(body) == size - 128 + HASHED_END
    data = body + blake3(body).digest() + bytes(32)
    scope = Scope(bytes(16), bytes(16), Keys.of_unsealed(bytes(16), None))
    with pytest.raises(ObjectDamaged, match="damaged footer"):
        ObjectReader(scope, ObjectType.PACK, "packs/20261120T153127Z-full/00000001", data)


@pytest.mark.parametrize(
    "bitmap",
    ["", "AA==", "AQA=", "AR==", "/////w", "A" * 16_666_664 + "AAB/", "A" * 17_000_000],
    ids=["empty", "no bit", "zero at the end", "odd base64", "no padding", "no such pack", "all zeros"],
)
def test_a_bitmap_of_packs_that_no_writer_makes_is_damage(bitmap: str) -> None:
    with pytest.raises(ObjectDamaged):
        LivePacks.from_json({"20261120T153127Z-full": bitmap}, "commit")


def test_the_highest_pack_has_a_bit_and_the_next_has_none() -> None:
    bitmap = bytearray(12_500_000)
    bitmap[-1] = 1 << 6
    text = base64.b64encode(bitmap).decode()
    (pack,) = LivePacks.from_json({"20261120T153127Z-full": text}, "commit")
    assert pack.pack == 99_999_999
    bitmap[-1] = 1 << 7
    with pytest.raises(PgrecallError):
        LivePacks.from_json({"20261120T153127Z-full": base64.b64encode(bitmap).decode()}, "commit")
