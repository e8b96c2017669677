"""Owns history files in the archive: each is stored once and claims its timeline's number (rule 22)."""

from pathlib import Path

from blake3 import blake3

from pgrecall.domain.timeline import History
from pgrecall.domain.wal import history_name
from pgrecall.errors import ObjectDamaged, ObjectExists, ObjectMissing, ValueInvalid, WalConflict
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.envelope import ObjectType
from pgrecall.repository.layout import wal_name
from pgrecall.services.archive.owner import OwnerState


def store_history(store: ClusterStore, state: OwnerState, pg_wal: Path, system_identifier: int, timeline: int) -> int:
    """Store pg_wal's history of a timeline; bytes stored, 0 if it was there. No request where a mark vouches for it.

    Raise WalConflict if the number is another history's. A server may have lost its own file: then nothing is said.
    """
    file = history_name(timeline)
    try:
        text = (pg_wal / file).read_bytes()
    except FileNotFoundError:
        return 0
    digest = blake3(text).hexdigest()
    if state.mark("history", timeline) == digest:
        return 0
    History.parse(text.decode("utf-8", "replace"), timeline)
    name = wal_name(system_identifier, file)
    stored = 0
    try:
        stored = store.put(ObjectType.HISTORY, name, clear={"timeline": timeline}, frames=[text]).size
    except ObjectExists:
        there = store.read(ObjectType.HISTORY, name).payload()
        if there != text:
            _keep_beside(store, state, system_identifier, timeline, text)
            raise WalConflict(
                f"timeline {timeline} is taken: the stored {file} says {_said(there)}, this server's {_said(text)}",
                hint="Two servers were recovered to one timeline number. Restore one again: it finds the next.",
                timeline=timeline,
            ) from None
    state.remember("history", timeline, digest)
    return stored


def read_history(store: ClusterStore, system_identifier: int, timeline: int) -> History | None:
    """The stored history of a timeline; timeline 1 has none; None where it should have one and has not."""
    if timeline == 1:
        return History.root(1)
    name = wal_name(system_identifier, history_name(timeline))
    try:
        text = store.read(ObjectType.HISTORY, name).payload().decode("utf-8", "replace")
    except ObjectMissing:
        return None
    try:
        return History.parse(text, timeline)
    except ValueInvalid as error:
        raise ObjectDamaged(f"{name}: {error}") from error


def _keep_beside(store: ClusterStore, state: OwnerState, system_identifier: int, timeline: int, text: bytes) -> None:
    name = wal_name(system_identifier, history_name(timeline), fork=state.token8)
    try:
        store.put(ObjectType.HISTORY, name, clear={"timeline": timeline}, frames=[text])
    except ObjectExists:
        return


def _said(text: bytes) -> str:
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return f"'{' '.join(lines[-1].split())}'" if lines else "nothing"
