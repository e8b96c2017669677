"""Owns marking packs as bad, so that the next backup stores their chunks anew (rule 9)."""

from datetime import datetime

from pgrecall.domain.label import BackupLabel
from pgrecall.errors import ObjectExists, StorageError
from pgrecall.observe.reporter import Reporter
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import PackRef
from pgrecall.repository.fields import time_text
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import bad_mark_name, pack_name

_MOST_REASON = 500


def mark_bad(store: ClusterStore, pack: PackRef, reason: str, *, at: datetime, reporter: Reporter) -> str | None:
    """Create the mark; returns the pack's name, None where it carries one already or none can be made.

    `chunks` stays empty: the whole pack counts as absent.
    """
    run = BackupLabel.from_number(pack.run)
    name = pack_name(run, pack.pack)
    clear = {"at": time_text(at), "reason": reason[:_MOST_REASON], "chunks": []}
    try:
        store.put(ObjectType.BAD_MARK, bad_mark_name(run, pack.pack), clear=clear)
    except ObjectExists:
        return None
    except StorageError as error:
        reporter.warn(f"{name} is damaged and could not be marked, so the next backup will rest on it: {error}")
        return None
    return name
