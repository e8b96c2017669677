"""Every error that pgrecall tells a user: one class, one stable code, one exit status.

They all stand here, by exit status, so that no code is given twice; docs/errors.md lists them. A message says what
happened with both values; the hint says what to do next; facts are the same values for programs (`--json`). Only `cli`
turns an error into an exit. A bug of ours is an assert, never one of these.
"""

from typing import ClassVar

Fact = str | int | float | bool | None | list[str]


class PgrecallError(Exception):
    """Base of all errors with a name. `str(error)` is the message without the hint."""

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, **facts: Fact) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts


# 1: failed -----------------------------------------------------------------------------------------------------------
class Internal(PgrecallError):
    """A bug of ours reached the edge."""

    code = "internal"


class SystemFailed(PgrecallError):
    """The operating system refused something (a file, a directory) that no part of ours has a better name for."""

    code = "system-failed"


class WalConflict(PgrecallError):
    """Other bytes are stored under the name of a WAL file that its rightful writer sends."""

    code = "wal-conflict"


class WalForked(PgrecallError):
    """A WAL file is safe, but beside the archive: another server writes its timeline. Worth an alert, not a refusal."""

    code = "wal-fork"


class WalWithheld(PgrecallError):
    """A WAL file that recovery asked for and must not take for absent: it would end too early, or go astray."""

    code = "wal-withheld"


class WalGap(WalWithheld):
    """The file is missing although later ones are stored; it may still arrive."""

    code = "wal-gap"


class DestinationFailed(PgrecallError):
    """The file system of the destination refused a write."""

    code = "dest-failed"


class DestinationFull(DestinationFailed):
    """It filled up."""

    code = "dest-full"


# 2: usage and configuration ------------------------------------------------------------------------------------------
class UsageError(PgrecallError):
    code, exit_status = "usage", 2


class ConfigInvalid(PgrecallError):
    code, exit_status = "config-invalid", 2


class ConfSyntax(ConfigInvalid):
    """A line that PostgreSQL would refuse, too."""

    code = "postgres-config-invalid"


class ValueInvalid(PgrecallError):
    """A value typed by a user (LSN, label, target, size…) cannot be read."""

    code, exit_status = "value-invalid", 2


class WalNameInvalid(ValueInvalid):
    code = "wal-name-invalid"


class TimeAmbiguous(ValueInvalid):
    code = "time-ambiguous"


# 4: refused by a safety rule -----------------------------------------------------------------------------------------
class Refused(PgrecallError):
    code, exit_status = "refused", 4


class WrongCluster(Refused):
    code = "wrong-cluster"


class PoolerRefused(Refused):
    """Something between us and the server shares or swaps sessions."""

    code = "pooler-refused"


class RepositoryExists(Refused):
    code = "repository-exists"


class DestinationRunning(Refused):
    code = "dest-running"


class DestinationNotEmpty(Refused):
    code = "dest-not-empty"


class DestinationTooSmall(Refused):
    """Not all that is to be restored fits."""

    code = "dest-too-small"


class TablespaceConflict(Refused):
    """A tablespace of the backup would land on, or write into, something that is there already."""

    code = "tablespace-conflict"


class WontReplay(Refused):
    """The WAL to replay would write outside of what is restored."""

    code = "replay-writes-outside"


class OwnerUnknown(Refused):
    """PostgreSQL refuses root's files, and this host does not know the user whose they were."""

    code = "owner-unknown"


# 5: not there --------------------------------------------------------------------------------------------------------
class NotThere(PgrecallError):
    code, exit_status = "not-there", 5


class RepositoryNotFound(NotThere):
    code = "repository-not-found"


class ClusterNotFound(NotThere):
    code = "cluster-not-found"


class BackupNotFound(NotThere):
    code = "backup-not-found"


class TargetUnreachable(NotThere):
    code = "target-unreachable"


# 6: storage ----------------------------------------------------------------------------------------------------------
class StorageError(PgrecallError):
    code, exit_status = "storage-failed", 6


class StorageFull(StorageError):
    code = "storage-full"


class StorageDenied(StorageError):
    code = "storage-denied"


class ObjectMissing(StorageError):
    code = "object-missing"


class ObjectExists(StorageError):
    """A create-only put found the key taken."""

    code = "object-exists"


# 7: PostgreSQL -------------------------------------------------------------------------------------------------------
class PostgresError(PgrecallError):
    code, exit_status = "postgres-failed", 7


class ServerUnreachable(PostgresError):
    code = "server-unreachable"


class SessionLost(PostgresError):
    code = "session-lost"


class RightsMissing(PostgresError):
    code = "rights-missing"


class WalMissing(PostgresError):
    """WAL that a backup needs is not, or no longer, in the server's pg_wal."""

    code = "wal-missing"


class WalNotArchived(WalMissing):
    """The server did not hand over the WAL that the backup needs in time."""

    code, exit_status = "wal-not-archived", 1


class BackupLabelUnreadable(PostgresError):
    """pg_backup_stop returned a label that we do not understand, or that is not of the backup we began."""

    code = "backup-label-unreadable"


class NoDataDirectory(PostgresError):
    """There is no global/pg_control where a data directory was named."""

    code = "no-data-directory"


class ControlVersionUnknown(PostgresError):
    """A pg_control of a PostgreSQL that this version does not know."""

    code = "control-version-unknown"


class BinariesNotFound(PostgresError):
    """No directory of PostgreSQL programs fits what was asked for."""

    code = "postgres-binaries-missing"


class ScratchFailed(PostgresError):
    """The scratch server did not do what was asked; the message carries the end of its log."""

    code = "scratch-server-failed"


class FileUnreadable(PgrecallError):
    """A file of the cluster that must be in the backup cannot be read."""

    code, exit_status = "file-unreadable", 7


# 8: keys -------------------------------------------------------------------------------------------------------------
class KeyProblem(PgrecallError):
    code, exit_status = "key-not-found", 8


class KeyMismatch(KeyProblem):
    code = "key-mismatch"


# 9: damage -----------------------------------------------------------------------------------------------------------
class DamageFound(PgrecallError):
    code, exit_status = "damage-found", 9


class ObjectDamaged(DamageFound):
    """A stored object is not what was written: truncated, changed, or in another object's place."""

    code = "object-damaged"


class WalInvalid(DamageFound):
    """Bytes that should be WAL of one place are not."""

    code = "wal-invalid"


class ControlFileDamaged(DamageFound):
    """pg_control is missing bytes, fails its CRC, or holds what no server writes."""

    code = "control-file-damaged"


class FilenodeMapDamaged(DamageFound):
    """pg_filenode.map fails its CRC: which files hold the catalogs is not known."""

    code = "filenode-map-damaged"


class FormatUnknown(PgrecallError):
    """Written by a newer pgrecall, or not by pgrecall at all."""

    code, exit_status = "format-unknown", 2


# 10: busy ------------------------------------------------------------------------------------------------------------
class Busy(PgrecallError):
    code, exit_status = "busy", 10
