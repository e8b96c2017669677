"""Owns the look at the server before a backup: proven to be the one whose files are read, and the cluster we store."""

from dataclasses import dataclass

from pgrecall.clock import Clock
from pgrecall.errors import Refused, WrongCluster
from pgrecall.postgres.connection import Connection
from pgrecall.postgres.control import ControlFile, read_control
from pgrecall.postgres.requirements import CommandKind, classify_command
from pgrecall.postgres.server import (
    ServerFacts,
    ServerIdentity,
    identify,
    prove_same_server,
    read_config_files,
    read_facts,
)
from pgrecall.repository.cluster import ClusterStore
from pgrecall.services.backup.request import BackupRequest, Warnings


@dataclass(frozen=True, slots=True)
class Source:
    """The server as it was found, and how its WAL reaches the repository."""

    facts: ServerFacts
    identity: ServerIdentity
    control: ControlFile
    config_files: tuple[tuple[str, str], ...]
    carries_wal: bool


def inspect_server(
    conn: Connection, request: BackupRequest, store: ClusterStore, clock: Clock, warnings: Warnings
) -> Source:
    """Facts of the server whose files we read, proven to be the server we talk to and the cluster we store."""
    prove_same_server(conn, request.pgdata, clock)
    facts = read_facts(conn)
    if facts.in_recovery:
        raise Refused(
            "this server is a standby; backups from a standby are not supported yet",
            hint="Run the backup on the primary.",
        )
    refuse_other_cluster(facts, store)
    command = classify_command(facts.setting("archive_command"))
    ours = facts.archiving and command is CommandKind.OURS and not facts.setting("archive_library")
    lacking = facts.rights.missing_for_backup(carry_wal=not ours)
    if lacking:
        raise Refused(
            f"role {facts.rights.role} lacks what a backup needs: {', '.join(lacking)}",
            hint="pgrecall init --print sql shows the statements.",
        )
    if not ours and facts.archiving:
        warnings.add(
            f"WAL is archived elsewhere ({command.value} archive_command): "
            "this backup brings its own WAL and can be recovered only to its own end"
        )
    control = read_control(request.pgdata, clock=clock)
    identity = identify(conn, request.pgdata, facts=facts)
    return Source(facts, identity, control, read_config_files(conn, facts), carries_wal=not ours)


def refuse_other_cluster(facts: ServerFacts, store: ClusterStore) -> None:
    known = store.identity().systems
    if any(each.system_identifier == facts.system_identifier for each in known):
        return
    newest = known[-1].system_identifier if known else "none yet"
    raise WrongCluster(
        f"this server is system {facts.system_identifier} ({facts.version}), '{store.name}' is {newest}",
        hint=f"After pg_upgrade: pgrecall init -c {store.name} --new-identity; else give this cluster another name.",
        system_identifier=str(facts.system_identifier),
    )
