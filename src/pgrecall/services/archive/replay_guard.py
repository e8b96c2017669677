"""Owns the last look at WAL that arrived after a restore was planned: replay must not write into others' tablespaces.

Replay of CREATE TABLESPACE takes the record's path literally (rule 2). The plan of a restore judged all WAL that was
stored then; a recovery to the end of the archive, beside the original that goes on, also meets what came since.
"""

from pathlib import Path

from pgrecall.domain.wal import WalSegment
from pgrecall.errors import ObjectMissing, WalWithheld
from pgrecall.postgres.walscan import TablespaceCreate
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.envelope import ObjectReader, ObjectType
from pgrecall.repository.layout import wal_name
from pgrecall.services.archive.events import Events
from pgrecall.services.archive.segment import facts_of, read_index


def refuse_foreign_tablespaces(
    store: ClusterStore, reader: ObjectReader, segment: WalSegment, size: int, *, pgdata: Path
) -> None:
    """WalWithheld if the segment creates a tablespace in a directory that somebody else uses."""
    events = Events()
    if read_index(reader).head is not None:  # it begins within a record
        _add_one_before(events, store, reader, segment, size)
    events.add(facts_of(reader.clear, segment, reader.name), read_index(reader))
    for created in events.tablespaces:
        if created.path and not _is_ours(created, pgdata) and not _is_free(Path(created.path)):
            raise WalWithheld(
                f"{segment.name(size)} is withheld: at {created.lsn} it creates tablespace {created.oid} in "
                f"{created.path}, which is in use on this host, and replay would write into it",
                hint=f"Restore to a moment before it: --at lsn:{created.lsn} --exclusive; or on a host without "
                "that directory.",
                path=created.path,
            )


def _add_one_before(events: Events, store: ClusterStore, reader: ObjectReader, segment: WalSegment, size: int) -> None:
    before = segment._replace(number=segment.number - 1)
    system = int(str(reader.clear["system_identifier"]))
    try:
        earlier = store.read(ObjectType.WAL, wal_name(system, before.name(size)))
    except ObjectMissing:
        return  # of the parent's timeline, whose last record was not continued
    events.add(facts_of(earlier.clear, before, earlier.name), read_index(earlier))
    events.tablespaces.clear()  # it was served already


def _is_ours(created: TablespaceCreate, pgdata: Path) -> bool:
    """Replayed here before: then our link leads there."""
    try:
        return str((pgdata / "pg_tblspc" / str(created.oid)).readlink()) == created.path
    except OSError:
        return False


def _is_free(path: Path) -> bool:
    try:
        return not any(path.iterdir())
    except FileNotFoundError:
        return not path.is_symlink()
    except OSError:
        return False  # what cannot be seen is not free
