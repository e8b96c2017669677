"""Whether everything a recovery will need works now: each topic is tried, not believed."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from pgrecall.clock import Clock
from pgrecall.config import ClusterSettings, Settings
from pgrecall.domain.humanize import format_bytes
from pgrecall.errors import ObjectExists, PgrecallError, UsageError
from pgrecall.postgres.connection import Connection
from pgrecall.postgres.requirements import (
    Level,
    Mode,
    ServerFinding,
    command_program,
    program_problem,
    review_settings,
)
from pgrecall.postgres.server import ServerFacts, prove_same_server, read_facts
from pgrecall.postgres.session import query
from pgrecall.postgres.users import OsUser, is_root, owner_of
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.layout import identity_name
from pgrecall.services.check_archiving import check_archiving
from pgrecall.services.context import connect_cluster, data_directory, open_cluster
from pgrecall.services.findings import Finding, sentence
from pgrecall.services.impersonate import as_user
from pgrecall.services.init.local import program_words
from pgrecall.services.init.server import archive_command
from pgrecall.services.listing import State, list_backups

SKEW_WARN_SECONDS, SKEW_DANGER_SECONDS = 5, 300


class Topic(StrEnum):
    CONFIG = "config"
    KEY = "key"
    REPOSITORY = "repository"
    SERVER = "server"
    CLOCK = "clock"
    ARCHIVE = "archive"
    BACKUP = "backup"
    NOTIFY = "notify"


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    topics: frozenset[Topic]
    archive_wait_seconds: float
    identity: str | None = None


def topics_of(words: Collection[str]) -> frozenset[Topic]:
    """The topics named by --only; all without any."""
    names = [name.strip() for word in words for name in word.split(",")]
    unknown = [name for name in names if name not in list(Topic)]
    if unknown:
        raise UsageError(f"'{unknown[0]}' is no topic of check", hint=f"there are: {', '.join(Topic)}")
    return frozenset(map(Topic, names)) or frozenset(Topic)


def check_clusters(
    settings: Settings,
    clusters: Sequence[ClusterSettings],
    request: CheckRequest,
    *,
    environ: Mapping[str, str],
    clock: Clock,
) -> list[Finding]:
    """Every finding, worst first; the good ones, too."""
    found = [*_check_notify(settings, request)]
    for cluster in clusters:
        found += _as_owner(cluster, _Check(settings, cluster, request, environ, clock).run)
    return sorted(found, key=lambda each: list(Level).index(each.level))


def _as_owner(cluster: ClusterSettings, act: Callable[[], list[Finding]]) -> list[Finding]:
    """As the user that archives: what root could read proves nothing."""
    owner: OsUser | None = None
    if is_root() and cluster.pgdata is not None and cluster.pgdata.exists():
        owner = owner_of(cluster.pgdata)
    return as_user(owner, act) if owner else act()


def _check_notify(settings: Settings, request: CheckRequest) -> Iterator[Finding]:
    if Topic.NOTIFY in request.topics:
        told = bool(settings.notify.on_failure)
        what = "somebody hears of failures" if told else "nobody hears of a failed backup"
        cure = None if told else '[notify] on_failure = ["https://…"]'
        yield Finding(level=Level.OK if told else Level.WARN, topic=Topic.NOTIFY, what=what, cure=cure)


class _Check:
    """One cluster. A topic that fails leaves a finding and does not stop the others."""

    def __init__(
        self,
        settings: Settings,
        cluster: ClusterSettings,
        request: CheckRequest,
        environ: Mapping[str, str],
        clock: Clock,
    ) -> None:
        self.settings, self.cluster, self.request = settings, cluster, request
        self.environ, self.clock = environ, clock
        self.findings: list[Finding] = []

    def run(self) -> list[Finding]:
        wanted = self.request.topics
        if Topic.CONFIG in wanted:
            self.guarded(Topic.CONFIG, self.check_config)
        store = self.guarded(Topic.KEY, self.check_key) if wanted & {*Topic} - {Topic.CONFIG, Topic.NOTIFY} else None
        if store is not None and Topic.REPOSITORY in wanted:
            self.guarded(Topic.REPOSITORY, lambda: self.check_repository(store))
        if wanted & {Topic.SERVER, Topic.CLOCK, Topic.ARCHIVE}:
            self.guarded(Topic.SERVER, lambda: self.check_server(store))
        if store is not None and Topic.BACKUP in wanted:
            self.guarded(Topic.BACKUP, lambda: self.check_backups(store))
        return self.findings

    def guarded(self, topic: Topic, act: Callable[[], ClusterStore | None]) -> ClusterStore | None:
        try:
            return act()
        except PgrecallError as error:
            self.add(Level.DANGER, topic, error.message, error.hint)
            return None

    def add(self, level: Level, topic: Topic, what: str, cure: str | None = None) -> None:
        self.findings.append(Finding(level=level, topic=topic, what=what, cure=cure, cluster=self.cluster.name))

    # Topics -------------------------------------------------------------------------------------------------------
    def check_config(self) -> None:
        """That it could be read is proven by our being here; what it points to is looked at."""
        directory = self.settings.state_directory(self.cluster.name)
        place = next(path for path in (directory, *directory.parents) if path.exists())
        if not os.access(place, os.W_OK | os.X_OK):
            self.add(
                Level.DANGER,
                Topic.CONFIG,
                f"state directory {directory} cannot be written",
                "chown it, or set state_dir",
            )
            return
        if self.cluster.pgdata is not None:
            data_directory(self.cluster).stat()
        self.add(Level.OK, Topic.CONFIG, f"configuration {self.settings.path}, state in {directory}")

    def check_key(self) -> ClusterStore:
        store = open_cluster(self.settings, self.cluster, identity=self.request.identity, environ=self.environ)
        store.identity()
        sealed = f"sealed, key {store.keys.fingerprint}" if store.keys.sealed else "unsealed"
        if Topic.KEY in self.request.topics:
            self.add(Level.OK, Topic.KEY, f"the key opens {store.storage.place} ({sealed})")
            identity = self.settings.source.base / "identity"
            if store.keys.sealed and identity.exists():
                what = f"the identity that opens every backup lies on this host: {identity}"
                self.add(Level.WARN, Topic.KEY, what, "keep a copy elsewhere, then remove it here")
        return store

    def check_repository(self, store: ClusterStore) -> None:
        name = identity_name(0)
        content = store.storage.get(store.key(name))
        try:
            store.storage.put(store.key(name), content)  # the same bytes: harmless where it is not refused
        except ObjectExists:
            free = store.storage.free_bytes()
            space = f", {format_bytes(free)} free" if free is not None else ""
            self.add(Level.OK, Topic.REPOSITORY, f"{store.storage.place} is there, creates only{space}")
        else:
            what = f"{store.storage.place} overwrites objects: two writers could destroy each other's"
            self.add(Level.DANGER, Topic.REPOSITORY, what, "put the repository on another file system or service")

    def check_server(self, store: ClusterStore | None) -> None:
        with connect_cluster(self.cluster, self.environ) as conn:
            if self.cluster.pgdata is not None:
                prove_same_server(conn, self.cluster.pgdata, self.clock)
            facts = read_facts(conn)
            if Topic.SERVER in self.request.topics:
                self.check_settings(facts)
            if Topic.CLOCK in self.request.topics:
                self.check_clock(conn)
            if Topic.ARCHIVE in self.request.topics and store is not None:
                wait = self.request.archive_wait_seconds
                found = check_archiving(conn, facts, store, self.cluster.pgdata, wait_seconds=wait, clock=self.clock)
                self.findings.append(replace(found, cluster=self.cluster.name))

    def check_settings(self, facts: ServerFacts) -> None:
        ours = None
        if self.settings.path is not None:
            ours = archive_command(program_words(), self.settings.path, self.cluster.name)
        for finding in review_settings(
            facts, mode=Mode.ARCHIVE, archive_command=ours, problem=self._program_problem(facts)
        ):
            self.add(finding.level, Topic.SERVER, sentence(finding), _cure(finding))

    def _program_problem(self, facts: ServerFacts) -> str | None:
        program = command_program(facts.setting("archive_command") or "")
        if program is None or self.cluster.pgdata is None:
            return None
        owner = owner_of(self.cluster.pgdata)
        return program_problem(Path(program), uid=owner.uid, gids=[owner.gid, *os.getgroups()])

    def check_clock(self, conn: Connection) -> None:
        ((theirs,),) = query(conn, "SELECT clock_timestamp()")
        skew = abs((self.clock.now() - theirs).total_seconds())
        if skew > SKEW_WARN_SECONDS:
            level = Level.DANGER if skew > SKEW_DANGER_SECONDS else Level.WARN
            self.add(
                level,
                Topic.CLOCK,
                f"our clock and the server's differ by {skew:.0f} s",
                "synchronise them (chrony, ntp)",
            )
        else:
            self.add(Level.OK, Topic.CLOCK, f"our clock and the server's differ by {skew:.1f} s")

    def check_backups(self, store: ClusterStore) -> None:
        backups = list_backups(store)
        complete = [each for each in backups if each.state is State.COMPLETE]
        if not complete:
            self.add(Level.WARN, Topic.BACKUP, "no complete backup yet", f"pgrecall backup -c {self.cluster.name}")
        else:
            self.add(Level.OK, Topic.BACKUP, f"{len(complete)} complete backups, newest {complete[0].label}")


def _cure(finding: ServerFinding) -> str | None:
    return finding.cure or " ".join(finding.cure_sql) or None
