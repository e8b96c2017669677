"""Owns `wal push`: one file of pg_wal becomes durable in the repository, or the reason is told.

Rules 11 of the format and 22 of PostgreSQL: the same bytes again are a success; other bytes under a name that is
taken are kept beside it, under the sender's token, and are an error if the sender owns the timeline, else an alert.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from pgrecall.clock import Clock
from pgrecall.domain.wal import (
    WalSegment,
    check_segment_size,
    is_backup_history_name,
    is_history_name,
    is_partial_name,
    is_segment_name,
)
from pgrecall.errors import ObjectExists, WalConflict, WalForked, WalInvalid, WalNameInvalid, WrongCluster
from pgrecall.postgres.control import read_system_identifier
from pgrecall.postgres.walpage import check_segment_header, read_segment_identity
from pgrecall.postgres.walscan import SegmentFacts, scan_segment
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.envelope import ObjectType
from pgrecall.repository.layout import wal_name
from pgrecall.services.archive.continuity import continues_the_archive
from pgrecall.services.archive.history import store_history
from pgrecall.services.archive.owner import DataDirectory, OwnerState, Standing, claim, read_owner
from pgrecall.services.archive.presence import require_presence
from pgrecall.services.archive.segment import build_segment, raw_ids, stored_ids

SEGMENT_NAME_LENGTH = 24

Systems = Callable[[], Mapping[int, int]]
"""The cluster's system identifiers and the major version of each; asked once per data directory."""


class Outcome(StrEnum):
    STORED = "stored"
    ALREADY = "already stored"


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of the file. `notes` are for the log; `warnings` are worth an alert although the file is safe."""

    name: str
    outcome: Outcome
    raw_bytes: int
    stored_bytes: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def push_wal(
    store: ClusterStore, path: Path, *, pgdata: Path, state_dir: Path, systems: Systems, clock: Clock
) -> PushResult:
    """Store one file that PostgreSQL wants archived; when this returns, it is durable.

    path is %p, pgdata the data directory it belongs to, state_dir this host's for the cluster.

    Raise WalForked when the file is durable, but under our own token: another server writes this timeline. WalConflict
    when we own the timeline and the name holds other bytes (ours are kept as evidence). WrongCluster, WalInvalid for a
    file that is not this cluster's, or not the one that its name says.
    """
    require_presence(store)
    push = _Push(store, path, pgdata, state_dir, clock)
    push.refuse_other_cluster(systems)
    if is_segment_name(path.name) or is_partial_name(path.name):
        return push.segment()
    if is_history_name(path.name):
        return push.history()
    if is_backup_history_name(path.name):
        return push.note()
    raise WalNameInvalid(f"'{path.name}' is no name of a file that PostgreSQL archives", name=path.name)


@dataclass
class _Push:
    store: ClusterStore
    path: Path
    pgdata: Path
    state_dir: Path
    clock: Clock
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def system_identifier(self) -> int:
        return read_system_identifier(self.pgdata)

    @cached_property
    def directory(self) -> DataDirectory:
        return DataDirectory.of(self.pgdata)

    @cached_property
    def state(self) -> OwnerState:
        return OwnerState.load(self.state_dir, self.store.scope.repository, self.system_identifier, self.directory)

    @cached_property
    def raw(self) -> bytes:
        return self.path.read_bytes()

    # Checks -------------------------------------------------------------------------------------------------------
    def refuse_other_cluster(self, systems: Systems) -> None:
        """The server must be one that the cluster knows. One of a newer major version is let in: after pg_upgrade
        archiving goes on until somebody says --new-identity.
        """
        if self.state.mark("system", 0) == "known":
            return
        known = systems()
        if self.system_identifier in known:
            self.state.remember("system", 0, "known")
            return
        major = int((self.pgdata / "PG_VERSION").read_text("ascii").strip())
        newest = max(known.values(), default=0)
        names = ", ".join(f"{system} ({version})" for system, version in known.items()) or "none"
        if major <= newest or not known:
            raise WrongCluster(
                f"this server is system {self.system_identifier} ({major}), '{self.store.name}' is {names}",
                hint=f"after pg_upgrade: pgrecall init -c {self.store.name} --new-identity; else give it another name",
            )
        self.warnings.append(
            f"this server is system {self.system_identifier} ({major}), '{self.store.name}' is {names}: "
            f"its WAL is stored; say so: pgrecall init -c {self.store.name} --new-identity"
        )

    def _checked_segment(self) -> tuple[WalSegment, int]:
        size = check_segment_size(read_segment_identity(self.raw).segment_size)
        segment = WalSegment.parse(self.path.name[:SEGMENT_NAME_LENGTH], size)
        check_segment_header(self.raw, system_id=self.system_identifier, segment=segment, size=size)
        if len(self.raw) != size:
            raise WalInvalid(f"{self.path.name} has {len(self.raw)} bytes, a segment of this cluster has {size}")
        return segment, size

    # Segments -----------------------------------------------------------------------------------------------------
    def segment(self) -> PushResult:
        segment, size = self._checked_segment()
        facts = scan_segment(self.raw, segment_start=segment.start(size))
        self._tell(facts)
        partial = is_partial_name(self.path.name)
        standing = claim(self.store, self.state, self.directory, self.system_identifier, segment.timeline, self.clock)
        if segment.timeline > 1:
            store_history(self.store, self.state, self.path.parent, self.system_identifier, segment.timeline)
        if standing is Standing.OTHER and not partial and not self._is_rightful(segment, size, facts):
            return self._fork(facts, segment)
        name = wal_name(self.system_identifier, self.path.name)
        data, ids = self._build(name, facts, segment)
        try:
            self.store.put_built(name, data)
        except ObjectExists:
            if self._stored_ids(name) == ids:
                return self._result(Outcome.ALREADY, 0)
            if standing is Standing.OWNER and not partial:
                raise self._conflict(facts, segment) from None
            return self._fork(facts, segment)
        return self._result(Outcome.STORED, len(data))

    def _is_rightful(self, segment: WalSegment, size: int, facts: SegmentFacts) -> bool:
        """Whether a server that does not own the timeline may write this name: same bytes, or proven continuity."""
        name = wal_name(self.system_identifier, self.path.name)
        if self.store.exists(name):
            return self._stored_ids(name) == raw_ids(self.store.scope, self.raw)
        return continues_the_archive(
            self.store, self.system_identifier, segment, size, facts, pg_wal=self.path.parent, token8=self.state.token8
        )

    def _fork(self, facts: SegmentFacts, segment: WalSegment) -> PushResult:
        self._keep_beside(facts, segment)
        raise WalForked(
            f"two servers archive as '{self.store.name}': timeline {segment.timeline} belongs to "
            f"{self._owner(segment.timeline)}, and this server's {self.path.name} does not continue it. "
            f"It is kept apart, under {segment.timeline:08X}~{self.state.token8}",
            hint="Stop one of them, or its archiving; what only this one wrote is no part of the recovery window.",
            segment=self.path.name,
            token=self.state.token8,
        )

    def _conflict(self, facts: SegmentFacts, segment: WalSegment) -> WalConflict:
        self._keep_beside(facts, segment)
        return WalConflict(
            f"{self.path.name} is stored with other bytes than this server sends, which owns timeline "
            f"{segment.timeline}: two servers archive as '{self.store.name}', or WAL was written twice. Kept both",
            hint="Stop the other server; then take a new backup, since the stored WAL is not this server's.",
            segment=self.path.name,
            kept=wal_name(self.system_identifier, self.path.name, fork=self.state.token8),
        )

    def _keep_beside(self, facts: SegmentFacts, segment: WalSegment) -> None:
        name = wal_name(self.system_identifier, self.path.name, fork=self.state.token8)
        data, ids = self._build(name, facts, segment)
        try:
            self.store.put_built(name, data)
        except ObjectExists:
            if self._stored_ids(name) != ids:
                raise WalConflict(
                    f"{self.path.name} was sent twice with different bytes by this server, and once by another one",
                    hint="Save pg_wal of this server, then stop it: its WAL cannot be archived.",
                    segment=self.path.name,
                ) from None

    def _build(self, name: str, facts: SegmentFacts, segment: WalSegment) -> tuple[memoryview, list[bytes]]:
        return build_segment(
            self.store.scope,
            name,
            self.raw,
            file=self.path.name,
            timeline=segment.timeline,
            system_identifier=self.system_identifier,
            facts=facts,
            writer=self.state.token8,
        )

    def _stored_ids(self, name: str) -> list[bytes]:
        return stored_ids(self.store.read(ObjectType.WAL, name))

    def _tell(self, facts: SegmentFacts) -> None:
        for each in facts.tablespaces:
            self.notes.append(
                f"tablespace {each.oid} was created at {each.lsn} in '{each.path}': take a backup soon, since recovery "
                "from an older one creates it in that very directory"
            )
        if not facts.complete and is_segment_name(self.path.name):
            self.warnings.append(
                f"{self.path.name} holds valid WAL only up to {facts.end}: recovery from older backups ends there, "
                "so take a backup"
            )

    def _owner(self, timeline: int) -> str:
        owner = read_owner(self.store, self.system_identifier, timeline)
        return "another server" if owner is None else f"{owner.host} (token {owner.writer}, since {owner.at})"

    # Other files --------------------------------------------------------------------------------------------------
    def history(self) -> PushResult:
        timeline = int(self.path.name[:8], 16)
        stored = store_history(self.store, self.state, self.path.parent, self.system_identifier, timeline)
        return self._result(Outcome.STORED if stored else Outcome.ALREADY, stored)

    def note(self) -> PushResult:
        """A `.backup` file: for people, and for tools that came before us."""
        clear = {"timeline": int(self.path.name[:8], 16)}
        names = (wal_name(self.system_identifier, self.path.name, fork=fork) for fork in (None, self.state.token8))
        for name in names:
            try:
                info = self.store.put(ObjectType.HISTORY, name, clear=clear, frames=[self.raw])
            except ObjectExists:
                if self.store.read(ObjectType.HISTORY, name).payload() == self.raw:
                    return self._result(Outcome.ALREADY, 0)
            else:
                return self._result(Outcome.STORED, info.size)
        raise WalConflict(f"{self.path.name} is stored twice already, with other bytes", segment=self.path.name)

    def _result(self, outcome: Outcome, stored: int) -> PushResult:
        return PushResult(self.path.name, outcome, len(self.raw), stored, tuple(self.notes), tuple(self.warnings))
