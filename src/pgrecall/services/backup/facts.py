"""Owns turning what the server said into what the manifest keeps, and back into the identity to compare."""

from pgrecall.postgres.backup_session import StartPoint, StopResult
from pgrecall.postgres.control import ControlFile
from pgrecall.postgres.listing import Listing
from pgrecall.postgres.server import ServerFacts, ServerIdentity
from pgrecall.repository import manifest as stored

_OTHER = (
    "archive_mode", "cluster_name", "config_file", "hba_file", "ident_file", "server_encoding",
    "shared_preload_libraries",
)  # fmt: skip


def cluster_facts(facts: ServerFacts, control: ControlFile) -> stored.ClusterFacts:
    return stored.ClusterFacts(
        system_identifier=facts.system_identifier,
        postgres_version=facts.version,
        version_num=facts.version_num,
        control_version=facts.control_version,
        catalog_version=facts.catalog_version,
        page_size=facts.page_size,
        relation_segment_pages=facts.relation_segment_pages,
        wal_page_size=facts.number("wal_block_size"),
        wal_segment_size=facts.wal_segment_size,
        checksums=facts.data_checksums,
        wal_log_hints=facts.enabled("wal_log_hints"),
        wal_level=facts.setting("wal_level") or "",
        max_connections=control.max_connections,
        max_worker_processes=control.max_worker_processes,
        max_wal_senders=control.max_wal_senders,
        max_prepared_transactions=control.max_prepared_xacts,
        max_locks_per_transaction=control.max_locks_per_xact,
        track_commit_timestamp=control.track_commit_timestamp,
        other={name: facts.setting(name) for name in _OTHER},
    )


def source_server(identity: ServerIdentity) -> stored.SourceServer:
    return stored.SourceServer(
        host=identity.host,
        data_directory=identity.data_directory,
        device=identity.device,
        inode=identity.inode,
        postmaster_start=identity.postmaster_started,
        checksum_version=identity.checksum_version,
    )


def stored_identity(manifest: stored.Manifest) -> ServerIdentity | None:
    """The identity of the server that a backup was made from; None when its start was not kept."""
    cluster, server = manifest.cluster, manifest.server
    if server.postmaster_start is None:
        return None
    return ServerIdentity(
        system_identifier=cluster.system_identifier,
        host=server.host,
        data_directory=server.data_directory,
        device=server.device,
        inode=server.inode,
        postmaster_started=server.postmaster_start,
        checksum_version=server.checksum_version,
        wal_log_hints=cluster.wal_log_hints,
        page_size=cluster.page_size,
        relation_segment_pages=cluster.relation_segment_pages,
        wal_segment_size=cluster.wal_segment_size,
    )


def start_point(start: StartPoint) -> stored.Boundary:
    return stored.Boundary(lsn=start.lsn, timeline=start.timeline, time=start.time, wal=start.wal)


def stop_point(stop: StopResult, *, archived: bool) -> stored.Boundary:
    return stored.Boundary(lsn=stop.lsn, timeline=stop.timeline, time=stop.time, wal=stop.wal, archived=archived)


def tablespaces(listing: Listing) -> tuple[stored.Tablespace, ...]:
    return tuple(stored.Tablespace(each.oid, each.path or b"", each.in_place) for each in listing.tablespaces)


def links(listing: Listing) -> tuple[stored.Link, ...]:
    return tuple(stored.Link(each.path, each.target) for each in listing.links)


def outside_files(listing: Listing) -> tuple[stored.OutsideFile, ...]:
    return tuple(stored.OutsideFile(each.setting, each.source, each.file.name) for each in listing.outside)
