"""Owns what of a data directory is never copied, by name alone (basebackup.c: excludeFiles, excludeDirContents)."""

import re
from collections.abc import Iterable

from pgrecall.postgres.relation import Fork, is_relation_directory, is_temporary_name, parse_relation_name

# Kept as empty directories: the server clears or fills their contents at start.
EMPTIED_DIRECTORIES = frozenset(
    (
        b"pg_dynshmem",
        b"pg_notify",
        b"pg_replslot",  # a slot in a copy would hold WAL for nobody; logical ones would be ahead or behind
        b"pg_serial",
        b"pg_snapshots",
        b"pg_stat_tmp",
        b"pg_subtrans",
    )
)
WAL_DIRECTORY = b"pg_wal"
WAL_SUBDIRECTORIES = (b"archive_status", b"summaries")
TABLESPACE_DIRECTORY = b"pg_tblspc"
CONTROL_FILE = b"global/pg_control"

# What initdb makes. A symbolic link in these (but for pg_wal and tablespaces) would leave data out of the backup.
OWN_DIRECTORIES = EMPTIED_DIRECTORIES | frozenset(
    (
        b"base",
        b"global",
        b"pg_commit_ts",
        b"pg_logical",
        b"pg_multixact",
        b"pg_stat",
        b"pg_twophase",
        b"pg_xact",
        TABLESPACE_DIRECTORY,
        WAL_DIRECTORY,
    )
)
_ROOT_FILES = frozenset(
    (
        b"postmaster.pid",
        b"postmaster.opts",
        b"backup_label",
        b"backup_label.old",
        b"tablespace_map",
        b"tablespace_map.old",
        b"recovery.signal",
        b"standby.signal",
        b"promote",
        b"logrotate",
        b"backup_manifest",
        b"backup_manifest.tmp",
        b"postgresql.auto.conf.tmp",
        b"current_logfiles.tmp",
    )
)
_EVERYWHERE = re.compile(
    rb"pgsql_tmp|pg_internal\.init|pg_filenode\.map\.tmp\Z|\.s\.PGSQL\.[0-9]+(?:\.lock)?\Z|\.DS_Store\Z"
)


def is_excluded(directory: bytes, name: bytes) -> bool:
    """Whether an entry of a directory (path below the data directory, empty for itself) is left out by its name.

    Unlogged relations need the whole directory's names: see unlogged_numbers.
    """
    if _EVERYWHERE.match(name):
        return True
    if not directory:
        return name in _ROOT_FILES
    if directory == b"global" and name == b"pg_control":
        return True  # read last, by itself
    return name[:1] == b"t" and is_temporary_name(name) and is_relation_directory(directory)


def unlogged_numbers(names: Iterable[bytes]) -> frozenset[int]:
    """Relfilenumbers that have an init fork among the names of one relation directory: tables, indexes, sequences."""
    found = (parse_relation_name(name) for name in names if b"_init" in name)
    return frozenset(each[0] for each in found if each is not None and each[1] is Fork.INIT)


def is_unlogged_content(name: bytes, unlogged: frozenset[int]) -> bool:
    """Whether a file is a fork of an unlogged relation that recovery makes anew from the init fork."""
    parsed = parse_relation_name(name)
    return parsed is not None and parsed[0] in unlogged and parsed[1] is not Fork.INIT
