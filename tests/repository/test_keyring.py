"""Keys and who may have them: wraps that other age programs open, host key files, secrets that never show."""

import contextlib
import os
import stat
from pathlib import Path

import pyrage  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrecall.errors import KeyMismatch, KeyProblem, ObjectDamaged, PgrecallError, Refused
from pgrecall.repository import agefile, canonical, keyring
from pgrecall.repository.hostkey import HostKey, read_host_key, write_host_key
from pgrecall.repository.secrets import Keys
from pgrecall.storage.posix import PosixStorage

REPOSITORY = bytes(range(16))
PASSPHRASE = "k3v9-x2mq-7dhn-w4rt-p8sc-j6ba"


@pytest.fixture
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """One test proves the real work factor; the others need not pay for it."""
    monkeypatch.setattr(agefile, "WORK_FACTOR", 4)


@pytest.fixture
def storage(tmp_path: Path) -> PosixStorage:
    return PosixStorage(tmp_path / "repo")


def test_age_opens_what_we_wrote_with_the_documented_work_factor() -> None:
    data = agefile.encrypt(b"the root key", PASSPHRASE)
    assert data.splitlines()[1].endswith(b" 17")
    assert pyrage.passphrase.decrypt(data, PASSPHRASE) == b"the root key"


@pytest.mark.usefixtures("cheap_scrypt")
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000])
def test_payloads_of_every_length_are_the_same_for_age_and_for_us(size: int) -> None:
    plaintext = os.urandom(size)
    data = agefile.encrypt(plaintext, PASSPHRASE)
    assert pyrage.passphrase.decrypt(data, PASSPHRASE) == plaintext
    assert agefile.decrypt(data, PASSPHRASE, "it") == plaintext


@pytest.mark.usefixtures("cheap_scrypt")
def test_another_passphrase_is_a_mismatch_and_not_damage() -> None:
    with pytest.raises(KeyMismatch, match="does not open it"):
        agefile.decrypt(agefile.encrypt(b"x", PASSPHRASE), PASSPHRASE + "!", "it")


@pytest.mark.usefixtures("cheap_scrypt")
def test_a_changed_age_file_is_never_opened() -> None:
    data = agefile.encrypt(b"the root key", PASSPHRASE)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        # A changed work factor must not make this test, or a rescue, take for ever.
        if data[place - 1 : place] == b" " and data[place : place + 1] == b"4":
            continue
        with pytest.raises((ObjectDamaged, KeyMismatch)):
            agefile.decrypt(bytes(changed), PASSPHRASE, "it")
    for length in range(len(data)):
        with pytest.raises((ObjectDamaged, KeyMismatch)):
            agefile.decrypt(data[:length], PASSPHRASE, "it")
    with pytest.raises(ObjectDamaged):
        agefile.decrypt(data + b"x", PASSPHRASE, "it")


@pytest.mark.usefixtures("cheap_scrypt")
@pytest.mark.parametrize("factor", [b"21", b"30", b"63", b"99", b"0", b"04", b"171", b"-1"])
def test_an_absurd_work_factor_is_refused_without_working(factor: bytes) -> None:
    data = agefile.encrypt(b"x", PASSPHRASE).replace(b" 4\n", b" " + factor + b"\n", 1)
    with pytest.raises(ObjectDamaged):
        agefile.decrypt(data, PASSPHRASE, "it")


@given(data=st.binary(max_size=300))
def test_random_bytes_are_no_age_file(data: bytes) -> None:
    for text in (data, b"age-encryption.org/v1\n" + data, b"age-encryption.org/v1\n-> scrypt " + data):
        with pytest.raises(ObjectDamaged):
            agefile.decrypt(text, PASSPHRASE, "it")


def test_generated_passphrases_are_long_and_different() -> None:
    made = {keyring.new_passphrase() for _ in range(50)}
    assert len(made) == 50
    assert {len(each.replace("-", "")) for each in made} == {24}  # of 32 letters: 120 bits


@settings(max_examples=20)
@given(st.data())
def test_a_passphrase_typed_from_paper_is_forgiven_its_looks(data: st.DataObject) -> None:
    printed = keyring.new_passphrase()
    typed = printed.replace("-", data.draw(st.sampled_from(["-", "", " ", " - "])))
    typed = typed.replace("0", data.draw(st.sampled_from("0oO"))).replace("1", data.draw(st.sampled_from("1iIlL")))
    typed = data.draw(st.sampled_from([typed, typed.upper(), f" {typed}\n"]))
    assert keyring.as_generated(typed) == printed


def test_a_passphrase_of_ones_own_is_taken_as_it_is() -> None:
    assert keyring.as_generated("Correct Horse-Battery oil\n") == "Correct Horse-Battery oil"


def store(storage: PosixStorage, *wraps: keyring.Wrap) -> None:
    for wrap in wraps:
        storage.put(wrap.key, wrap.data)


@pytest.mark.usefixtures("cheap_scrypt")
def test_each_recipient_opens_the_root(storage: PosixStorage) -> None:
    root = keyring.new_root()
    identity, other = keyring.new_identity(), keyring.new_identity()
    store(
        storage,
        keyring.wrap_for_recipient(root, keyring.recipient_of(identity)),
        keyring.wrap_for_recipient(root, keyring.recipient_of(other)),
        keyring.wrap_for_passphrase(root, PASSPHRASE),
    )
    as_file = f"# created: today\n# public key: {keyring.recipient_of(identity)}\n{identity}\n"
    for secret in (identity, other, as_file, PASSPHRASE, PASSPHRASE.upper()):
        assert keyring.unwrap_root(storage, secret, root.repository) == root
        assert keyring.unwrap_root(storage, secret, None) == root


@pytest.mark.usefixtures("cheap_scrypt")
def test_a_secret_that_opens_nothing_is_told_who_could(storage: PosixStorage) -> None:
    root = keyring.new_root()
    recipient = keyring.recipient_of(keyring.new_identity())
    store(storage, keyring.wrap_for_recipient(root, recipient))
    for secret in (keyring.new_identity(), PASSPHRASE):
        with pytest.raises(KeyProblem) as caught:
            keyring.unwrap_root(storage, secret, root.repository)
        assert recipient in caught.value.message
        assert secret not in caught.value.message
    store(storage, keyring.wrap_for_passphrase(root, PASSPHRASE))
    with pytest.raises(KeyMismatch):
        keyring.unwrap_root(storage, keyring.new_passphrase(), root.repository)


@pytest.mark.usefixtures("cheap_scrypt")
def test_a_root_that_somebody_else_wrapped_for_us_is_not_ours(storage: PosixStorage) -> None:
    """Anybody can encrypt to a public key: a wrap counts only for its repository and generation."""
    identity = keyring.new_identity()
    root, foreign = keyring.new_root(), keyring.new_root()
    store(storage, keyring.wrap_for_recipient(root, keyring.recipient_of(identity)))
    newer = keyring.next_root(foreign)
    store(storage, keyring.wrap_for_recipient(newer, keyring.recipient_of(identity)))
    misplaced = keyring.wrap_for_recipient(root, keyring.recipient_of(identity))
    storage.put(misplaced.key.replace("keys/1/", "keys/3/"), misplaced.data)
    assert keyring.unwrap_root(storage, identity, root.repository) == root


def test_a_damaged_wrap_is_damage(storage: PosixStorage) -> None:
    identity = keyring.new_identity()
    wrap = keyring.wrap_for_recipient(keyring.new_root(), keyring.recipient_of(identity))
    storage.put(wrap.key, wrap.data[:-1])
    with pytest.raises(ObjectDamaged):
        keyring.unwrap_root(storage, identity, REPOSITORY)


@pytest.mark.usefixtures("cheap_scrypt")
def test_garbage_under_a_newer_generation_does_not_stop_a_rescue(storage: PosixStorage) -> None:
    identity, root = keyring.new_identity(), keyring.new_root()
    recipient = keyring.recipient_of(identity)
    store(storage, keyring.wrap_for_recipient(root, recipient), keyring.wrap_for_passphrase(root, PASSPHRASE))
    for name in (recipient, "passphrase-00000000"):
        storage.put(f"keys/7/{name}.age", b"garbage")
    for secret in (identity, PASSPHRASE):
        assert keyring.unwrap_root(storage, secret, root.repository) == root


def test_nobody_makes_a_newer_root_key_but_a_holder_of_the_first(storage: PosixStorage) -> None:
    """The recipient is public and so is the repository's id: neither is enough."""
    identity, root = keyring.new_identity(), keyring.new_root()
    recipient = keyring.recipient_of(identity)
    store(storage, keyring.wrap_for_recipient(root, recipient))
    store(storage, keyring.wrap_for_recipient(keyring.RootKey(root.repository, 2, b"E" * 32, (b"E" * 32,)), recipient))
    assert keyring.unwrap_root(storage, identity, root.repository) == root
    assert keyring.unwrap_root(storage, identity, None) == root


def test_a_root_key_opens_what_those_before_it_did(storage: PosixStorage) -> None:
    identity, first = keyring.new_identity(), keyring.new_root()
    third = keyring.next_root(keyring.next_root(first))
    for each in (first, third):
        store(storage, keyring.wrap_for_recipient(each, keyring.recipient_of(identity)))
    found = keyring.unwrap_root(storage, identity, first.repository)
    assert found == third
    assert [each.generation for each in found.older_keys] == [1, 2]
    assert found.older_keys[0] == first.keys


def test_a_root_key_without_those_before_it_is_damage() -> None:
    text = canonical.decode(keyring.next_root(keyring.new_root()).encode(), "root")
    for older in ([], text["older"] * 2, ["AAAA"], [1], ["-"]):
        with pytest.raises(ObjectDamaged):
            keyring.RootKey.decode(canonical.encode({**text, "older": older}), "root")


def test_a_mistyped_identity_or_recipient_is_a_problem_with_a_name(storage: PosixStorage) -> None:
    identity = keyring.new_identity()
    with pytest.raises(KeyProblem):
        keyring.unwrap_root(storage, identity[:-1] + ("A" if identity[-1] != "A" else "B"), REPOSITORY)
    with pytest.raises(KeyProblem):
        keyring.wrap_for_recipient(keyring.new_root(), "age1nonsense")


# Host key files -------------------------------------------------------------------------------------------------------
SEALED = HostKey(REPOSITORY, bytes(16), "main", Keys.of_sealed(3, b"d" * 32, b"i" * 32))
UNSEALED = HostKey(REPOSITORY, bytes(16), "main", Keys.of_unsealed(bytes(16), b"m" * 32))


@pytest.mark.parametrize("key", [SEALED, UNSEALED], ids=["sealed", "unsealed"])
def test_a_host_key_file_reads_back_and_is_for_our_eyes(tmp_path: Path, key: HostKey) -> None:
    path = tmp_path / "main.key"
    write_host_key(path, key)
    assert read_host_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["main.key"]


def test_a_host_key_file_is_not_replaced_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "main.key"
    write_host_key(path, SEALED)
    with pytest.raises(Refused):
        write_host_key(path, UNSEALED)
    assert read_host_key(path) == SEALED
    write_host_key(path, UNSEALED, replace=True)
    assert read_host_key(path) == UNSEALED
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_host_key_file_that_others_may_read_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "main.key"
    write_host_key(path, SEALED)
    path.chmod(mode)
    with pytest.raises(KeyProblem) as caught:
        read_host_key(path)
    assert caught.value.hint == f"chmod 600 {path}"


def test_a_missing_or_odd_key_file_has_an_error_with_a_name(tmp_path: Path) -> None:
    with pytest.raises(KeyProblem, match="cannot read"):
        read_host_key(tmp_path / "nothing")
    with pytest.raises(KeyProblem, match="cannot write"):
        write_host_key(tmp_path / "no" / "folder", SEALED)
    with pytest.raises(KeyProblem):
        read_host_key(tmp_path)
    path = tmp_path / "main.key"
    for data in (b"", b"{}", SEALED.encode()[:-2], SEALED.encode().replace(b"true", b"false"), b"x" * 100_000):
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(KeyProblem, match="no key file"):
            read_host_key(path)


@given(data=st.binary(max_size=200))
def test_random_bytes_are_no_host_key(data: bytes) -> None:
    with contextlib.suppress(PgrecallError):
        HostKey.decode(data, "it")


def test_secrets_never_show_themselves() -> None:
    root = keyring.new_root()
    for text in (repr(SEALED), repr(UNSEALED), repr(root), repr(root.keys), repr(keyring.Wrap("k", b"ddd"))):
        assert "ddd" not in text
        assert "mmm" not in text
        assert repr(root.key) not in text


def test_the_fingerprint_names_a_key_without_giving_it_away() -> None:
    assert SEALED.keys.fingerprint == Keys.of_sealed(9, b"d" * 32, b"x" * 32).fingerprint
    assert len(SEALED.keys.fingerprint or "") == 16
    assert UNSEALED.keys.fingerprint is None
