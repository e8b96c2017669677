"""Owns the keys of a repository (format.md §1): building each, and reading each back from a listing.

A *name* is a key relative to its cluster: what objects are bound to and what `ClusterStore` takes.
"""

import re
from typing import NamedTuple

from pgrecall.domain.label import BackupLabel
from pgrecall.errors import ValueInvalid

README = "README.txt"
FORMAT_PREFIX = "format/"
KEYS_PREFIX = "keys/"
CLUSTERS_PREFIX = "clusters/"

BACKUPS = "backups/"
PACKS = "packs/"
BAD_MARKS = "bad/"
WAL = "wal/"
IDENTITY = "identity/"
CLUSTER_KEYS = "keys/"

_CLUSTER = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")
_NUMBER = r"(0|[1-9][0-9]{0,9})"
_LABEL = r"([0-9]{8}T[0-9]{6}Z-(?:full|incr|dump))"
_FORMAT = re.compile(rf"format/{_NUMBER}\.json\Z")
_ROOT_WRAP = re.compile(rf"keys/{_NUMBER}/([a-z0-9-]+)\.age\Z")
_NUMBERED = re.compile(rf"(?:identity/{_NUMBER}|keys/{_NUMBER}/root)\Z")
_IN_RUN = re.compile(rf"(?:packs|bad)/{_LABEL}/([0-9]{{8}})\Z")
_OF_BACKUP = re.compile(rf"backups/{_LABEL}/(claim|manifest|backup\.json)\Z")
_WAL_FILE = re.compile(r"([0-9A-F]{8})(?:[0-9A-F]{16}(?:\.partial|\.[0-9A-F]{8}\.backup)?|\.history)\Z")
_WAL_NAME = re.compile(r"wal/([0-9]{1,20})/([0-9A-F]{8})(?:~([0-9a-f]{8}))?/([^/]+)\Z")
_OWNER_NAME = re.compile(r"wal/([0-9]{1,20})/([0-9A-F]{8})/owner\Z")
_MAX_SEQ = 99_999_999


def is_cluster_name(text: str) -> bool:
    return _CLUSTER.match(text) is not None


def check_cluster_name(text: str) -> str:
    if not is_cluster_name(text):
        raise ValueInvalid(
            f"'{text}' cannot name a cluster",
            hint="A name has up to 63 of a–z, 0–9, _ and -, and begins with a letter or digit.",
            value=text,
        )
    return text


# Of the whole repository ----------------------------------------------------------------------------------------------
def format_key(number: int) -> str:
    return f"format/{number}.json"


def parse_format_key(key: str) -> int | None:
    match = _FORMAT.match(key)
    return int(match[1]) if match else None


def root_wrap_key(generation: int, recipient: str) -> str:
    return f"keys/{generation}/{recipient}.age"


def parse_root_wrap_key(key: str) -> tuple[int, str] | None:
    """(generation, recipient)"""
    match = _ROOT_WRAP.match(key)
    return (int(match[1]), match[2]) if match else None


def cluster_prefix(cluster: str) -> str:
    return f"clusters/{check_cluster_name(cluster)}/"


def cluster_key(cluster: str, name: str) -> str:
    """The key of the object `name` of a cluster."""
    return cluster_prefix(cluster) + name


# Names within a cluster -----------------------------------------------------------------------------------------------
def identity_name(number: int) -> str:
    return f"identity/{number}"


def data_key_name(generation: int) -> str:
    return f"keys/{generation}/root"


def parse_numbered_name(name: str) -> int | None:
    """The number of an identity or the generation of a data key."""
    match = _NUMBERED.match(name)
    return int(match[1] or match[2]) if match else None


def pack_name(run: BackupLabel, seq: int) -> str:
    return f"packs/{run}/{_seq(seq)}"


def bad_mark_name(run: BackupLabel, seq: int) -> str:
    return f"bad/{run}/{_seq(seq)}"


def parse_run_name(name: str) -> tuple[BackupLabel, int] | None:
    """(run, seq) of a pack or a bad mark."""
    match = _IN_RUN.match(name)
    if match is None or int(match[2]) == 0:
        return None
    label = _label(match[1])
    return None if label is None else (label, int(match[2]))


def claim_name(label: BackupLabel) -> str:
    return f"backups/{label}/claim"


def manifest_name(label: BackupLabel) -> str:
    return f"backups/{label}/manifest"


def commit_name(label: BackupLabel) -> str:
    return f"backups/{label}/backup.json"


def parse_backup_name(name: str) -> tuple[BackupLabel, str] | None:
    """(label, "claim" | "manifest" | "backup.json")"""
    match = _OF_BACKUP.match(name)
    label = _label(match[1]) if match else None
    return (label, match[2]) if match and label else None


class WalPlace(NamedTuple):
    """Where a WAL file lies. `fork` is the token of a server that does not own the timeline, else None."""

    system_identifier: int
    timeline: int
    fork: str | None
    file: str


def owner_name(system_identifier: int, timeline: int) -> str:
    return f"wal/{system_identifier}/{timeline:08X}/owner"


def parse_owner_name(name: str) -> tuple[int, int] | None:
    """(system identifier, timeline)"""
    match = _OWNER_NAME.match(name)
    return (int(match[1]), int(match[2], 16)) if match else None


def wal_prefix(system_identifier: int, timeline: int, *, fork: str | None = None) -> str:
    """Everything of one timeline, as one server wrote it."""
    return f"wal/{system_identifier}/{timeline:08X}{f'~{fork}' if fork else ''}/"


def wal_name(system_identifier: int, file: str, *, fork: str | None = None) -> str:
    """For a segment, `.partial`, `.backup` or `.history` file: its timeline is in its name."""
    match = _WAL_FILE.match(file)
    if match is None:
        raise ValueInvalid(f"'{file}' is no name of a WAL file", value=file)
    return wal_prefix(system_identifier, int(match[1], 16), fork=fork) + file


def parse_wal_name(name: str) -> WalPlace | None:
    """The place of a WAL file; None also for `owner`."""
    match = _WAL_NAME.match(name)
    file = match and _WAL_FILE.match(match[4])
    if not match or not file or file[1] != match[2]:
        return None
    return WalPlace(int(match[1]), int(match[2], 16), match[3], match[4])


def _seq(seq: int) -> str:
    assert 0 < seq <= _MAX_SEQ
    return f"{seq:08d}"


def _label(text: str) -> BackupLabel | None:
    try:
        return BackupLabel.parse(text)
    except ValueInvalid:
        return None
