"""Owns `wal fetch`: a file is brought whole and checked, or proven absent, or the answer is withheld.

PostgreSQL takes "absent" as the end of the archive and promotes (rule 7), and takes a parent's file where the
child's is absent (rule 8). So absence is said only when the repository answered and stores nothing later on the way.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from pgrecall.clock import Clock
from pgrecall.domain.timeline import History
from pgrecall.domain.wal import WalSegment, is_backup_history_name, is_history_name, is_partial_name, is_segment_name
from pgrecall.durable import replace_whole
from pgrecall.errors import ObjectDamaged, ObjectMissing, PgrecallError, WalGap, WalNameInvalid, WalWithheld
from pgrecall.postgres.control import read_system_identifier
from pgrecall.postgres.walpage import check_segment_header
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.envelope import ObjectType
from pgrecall.repository.layout import parse_wal_name, wal_name, wal_prefix
from pgrecall.services.archive.inventory import WalInventory
from pgrecall.services.archive.presence import require_presence
from pgrecall.services.archive.recovery_file import SERVED_FILE, RecoveryPath
from pgrecall.services.archive.replay_guard import refuse_foreign_tablespaces
from pgrecall.services.archive.segment import read_raw

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30.0
STANDBY_PATIENCE_SECONDS = 5.0
"""A standby asks again by itself, and must be able to stop and to promote meanwhile."""
_KNOWN_NAMES = (is_segment_name, is_history_name, is_partial_name, is_backup_history_name)


class Fetched(StrEnum):
    FOUND = "fetched"
    ABSENT = "not in the archive"
    """Proven: PostgreSQL may take it as the end of the archive."""


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """name is %f, target is %p. path is where the recovery goes, as far as that is known."""

    name: str
    target: Path
    system_identifier: int
    path: RecoveryPath | None
    standby: bool = False
    keeps_served: bool = False
    """Remember the histories served: they are all that tells where this recovery goes."""
    pgdata: Path = Path()
    """The server's; what PostgreSQL calls runs in it."""

    @classmethod
    def of_server(cls, name: str, target: Path, pgdata: Path, *, standby: bool = False) -> "FetchRequest":
        """What the data directory says of itself: the file that restore wrote, else pg_control and histories served."""
        system_identifier = read_system_identifier(pgdata)
        path = RecoveryPath.read(pgdata)
        if path is not None and path.system_identifier != system_identifier:
            path = None  # left from another cluster
        keeps_served = path is None or standby
        if keeps_served:
            served = RecoveryPath.read_file(target.parent / SERVED_FILE)
            if served is not None and (path is None or served.history.timeline > path.history.timeline):
                path = served
        return cls(name, target, system_identifier, path, standby, keeps_served, pgdata)

    @property
    def history(self) -> History | None:
        return self.path.history if self.path else None


def fetch_wal(
    open_store: Callable[[], ClusterStore],
    request: FetchRequest,
    *,
    patience: timedelta,
    clock: Clock,
    say: Callable[[str], None] = log.warning,
) -> Fetched:
    """Bring the file to its target, or prove that it is absent. Trouble is retried with growing pauses for `patience`.

    Then the last error is raised, and the caller must end with a status above 125 (for a standby: 1). open_store is
    called for each attempt: a wrong key file may be mended meanwhile.
    """
    if not any(known(request.name) for known in _KNOWN_NAMES):
        raise WalNameInvalid(f"'{request.name}' is no name of a file that PostgreSQL recovers", name=request.name)
    allowed = patience.total_seconds()
    deadline = clock.monotonic() + (min(allowed, STANDBY_PATIENCE_SECONDS) if request.standby else allowed)
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return _fetch_once(open_store(), request)
        except PgrecallError as trouble:
            left = deadline - clock.monotonic()
            is_final = isinstance(trouble, WalWithheld) and not isinstance(trouble, WalGap)
            if is_final or left <= 0:
                raise
            say(f"{request.name}: {trouble.message}; trying again for {left:.0f} s")
        clock.sleep(min(pause, left))
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def _fetch_once(store: ClusterStore, request: FetchRequest) -> Fetched:
    if is_segment_name(request.name):
        return _fetch_segment(store, request)
    if is_partial_name(request.name):
        return Fetched.ABSENT  # never served as a whole segment
    return _fetch_small(store, request)


def _fetch_small(store: ClusterStore, request: FetchRequest) -> Fetched:
    try:
        data = store.read(ObjectType.HISTORY, wal_name(request.system_identifier, request.name)).payload()
    except ObjectMissing:
        require_presence(store)
        return Fetched.ABSENT
    if request.keeps_served and is_history_name(request.name):
        _keep_served(request, data)
    _write(request.target, data)
    return Fetched.FOUND


def _keep_served(request: FetchRequest, data: bytes) -> None:
    """Before it is served: from then on the parent's segments past the switch are refused."""
    history = History.parse(data.decode("utf-8", "replace"), int(request.name[:8], 16))
    if request.history is None or history.timeline > request.history.timeline:
        served = RecoveryPath(request.system_identifier, history)
        _write(request.target.parent / SERVED_FILE, served.encode())


def _fetch_segment(store: ClusterStore, request: FetchRequest) -> Fetched:
    name = wal_name(request.system_identifier, request.name)
    try:
        reader = store.read(ObjectType.WAL, name)
    except ObjectMissing:
        _refuse_absent_parent(store, request)
        require_presence(store)
        if not request.standby:
            _refuse_gap(store, request)
        return Fetched.ABSENT
    size = reader.clear.get("size")
    said = (reader.clear.get("segment"), reader.clear.get("system_identifier"))
    if not isinstance(size, int) or said != (request.name, str(request.system_identifier)):
        raise ObjectDamaged(f"{name} says that it holds {said[0]} of system {said[1]}")
    segment = WalSegment.parse(request.name, size)
    _refuse_past_switch(request, segment, size)
    if not request.standby and request.path is not None and not request.path.is_planned(request.name):
        refuse_foreign_tablespaces(store, reader, segment, size, pgdata=request.pgdata)
    raw = read_raw(reader)
    check_segment_header(raw, system_id=request.system_identifier, segment=segment, size=size)
    _write(request.target, raw)
    return Fetched.FOUND


def _refuse_past_switch(request: FetchRequest, segment: WalSegment, size: int) -> None:
    """The switch segment comes from the child or not at all: the parent's holds what the target never saw."""
    if request.history is None or segment.timeline >= request.history.timeline:
        return
    expected = request.history.segment(segment.number, size)
    if expected.timeline != segment.timeline:
        raise WalWithheld(
            f"{request.name} is withheld: the way to timeline {request.history.timeline} takes {expected.name(size)} "
            "instead, which is missing",
            hint="With the parent's file, recovery would go on in WAL that its target never saw.",
            wanted=expected.name(size),
        )


def _refuse_absent_parent(store: ClusterStore, request: FetchRequest) -> None:
    """As _refuse_past_switch, for a file that is not stored: "absent" would end recovery on the parent's timeline."""
    if request.history is None or int(request.name[:8], 16) >= request.history.timeline:
        return
    size = WalInventory(store, request.system_identifier).segment_size
    if size is not None:
        _refuse_past_switch(request, WalSegment.parse(request.name, size), size)


def _refuse_gap(store: ClusterStore, request: FetchRequest) -> None:
    """Raise if a later segment of the way to the target is stored: then this one is a hole, not the end."""
    timeline = int(request.name[:8], 16)
    history = request.history
    if history is None or timeline not in history.path():  # after an earlier recovery's path: this server went on
        history = History.root(timeline)
    later = request.name[8:]
    for each in history.path():
        if each < timeline:
            continue
        for info in store.list(wal_prefix(request.system_identifier, each)):
            place = parse_wal_name(info.key)
            if place is not None and is_segment_name(place.file) and place.file[8:] > later:
                raise WalGap(
                    f"{request.name} is missing although {place.file} is stored: the archive has a gap here",
                    hint="Wait until it arrives, or recover to a moment before the gap.",
                    later=place.file,
                )


def _write(target: Path, data: bytes) -> None:
    """Under one name beside it: fetches that are killed must not fill pg_wal."""
    replace_whole(target, data, temporary=f"{target.name}.pgrecall")
