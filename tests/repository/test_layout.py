"""Keys of a repository: every key that is built is understood, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.domain.label import BackupLabel
from pgrecall.errors import ValueInvalid
from pgrecall.repository import layout
from pgrecall.storage.keys import is_key

LABEL = BackupLabel.parse("20261120T010003Z-full")
SYSTEM = (1 << 64) - 1


def test_keys_are_those_of_the_specification() -> None:
    assert layout.format_key(0) == "format/0.json"
    assert layout.root_wrap_key(1, "age1xyz") == "keys/1/age1xyz.age"
    assert layout.cluster_key("main", layout.pack_name(LABEL, 7)) == (
        "clusters/main/packs/20261120T010003Z-full/00000007"
    )
    assert layout.bad_mark_name(LABEL, 7) == "bad/20261120T010003Z-full/00000007"
    assert layout.claim_name(LABEL) == "backups/20261120T010003Z-full/claim"
    assert layout.manifest_name(LABEL) == "backups/20261120T010003Z-full/manifest"
    assert layout.commit_name(LABEL) == "backups/20261120T010003Z-full/backup.json"
    assert layout.owner_name(SYSTEM, 0x1A) == f"wal/{SYSTEM}/0000001A/owner"
    assert layout.wal_name(7, "0000001A0000000000000001") == "wal/7/0000001A/0000001A0000000000000001"
    assert layout.wal_name(7, "00000002.history") == "wal/7/00000002/00000002.history"
    fork = layout.wal_name(7, "0000001A0000000000000001.partial", fork="0123abcd")
    assert fork == "wal/7/0000001A~0123abcd/0000001A0000000000000001.partial"
    assert layout.identity_name(3) == "identity/3"
    assert layout.data_key_name(1) == "keys/1/root"


def test_what_is_built_is_understood() -> None:
    assert layout.parse_format_key(layout.format_key(12)) == 12
    assert layout.parse_root_wrap_key(layout.root_wrap_key(2, "passphrase-00ff")) == (2, "passphrase-00ff")
    assert layout.parse_run_name(layout.pack_name(LABEL, 99_999_999)) == (LABEL, 99_999_999)
    assert layout.parse_run_name(layout.bad_mark_name(LABEL, 1)) == (LABEL, 1)
    for build in (layout.claim_name, layout.manifest_name, layout.commit_name):
        assert layout.parse_backup_name(build(LABEL)) == (LABEL, build(LABEL).rpartition("/")[2])
    assert layout.parse_numbered_name(layout.identity_name(0)) == 0
    assert layout.parse_numbered_name(layout.data_key_name(5)) == 5


@pytest.mark.parametrize("file", ["0000001A0000000000000001", "0000001A.history", "0000001A0000000000000001.partial"])
@pytest.mark.parametrize("fork", [None, "0123abcd"])
def test_places_of_wal_are_understood(file: str, fork: str | None) -> None:
    name = layout.wal_name(SYSTEM, file, fork=fork)
    assert layout.parse_wal_name(name) == layout.WalPlace(SYSTEM, 0x1A, fork, file)


@pytest.mark.parametrize(
    "name",
    [
        "packs/20261120T010003Z-full/00000000",
        "packs/20261120T010003Z-full/1",
        "packs/20261320T010003Z-full/00000001",
        "packs/20261120T010003Z-diff/00000001",
        "packs/20261120T010003Z-full/00000001/x",
        "wal/7/0000001A/0000001B0000000000000001",
        "wal/7/0000001a/0000001A0000000000000001",
        "wal/7/0000001A/owner",
        "wal/7/0000001A~xyz/0000001A0000000000000001",
        "identity/00",
        "identity/-1",
        "keys/1/root/x",
        "backups/20261120T010003Z-full/other",
        "packs/２0261120T010003Z-full/00000001",
    ],
)
def test_what_was_never_built_is_nothing(name: str) -> None:
    assert layout.parse_run_name(name) is None
    assert layout.parse_backup_name(name) is None
    assert layout.parse_wal_name(name) is None
    assert layout.parse_numbered_name(name) is None


@given(text=st.text("/abcdefpksw0123456789AZT~.-_", max_size=60))
def test_any_text_is_understood_or_not_but_never_an_error(text: str) -> None:
    for parse in (
        layout.parse_format_key,
        layout.parse_root_wrap_key,
        layout.parse_run_name,
        layout.parse_backup_name,
        layout.parse_wal_name,
        layout.parse_numbered_name,
    ):
        parse(text)


@pytest.mark.parametrize("name", ["main", "a", "0", "team-a_orders", "x" * 63])
def test_names_of_clusters_make_keys(name: str) -> None:
    assert is_key(layout.cluster_key(name, layout.pack_name(LABEL, 1)))


@pytest.mark.parametrize("name", ["", "Main", "-a", "_a", "a/b", "..", "a b", "ä", "x" * 64, "main\n"])
def test_other_names_of_clusters_are_refused(name: str) -> None:
    with pytest.raises(ValueInvalid):
        layout.cluster_key(name, "identity/0")


def test_a_file_that_is_no_wal_has_no_place() -> None:
    for file in ("../../etc/passwd", "0000001A000000000000000", "0000001A.history.gz", ""):
        with pytest.raises(ValueInvalid):
            layout.wal_name(7, file)
