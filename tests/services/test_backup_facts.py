"""What the manifest keeps of the server is all that the next run compares."""

from dataclasses import fields, replace
from datetime import UTC, datetime

from pgrecall.postgres.server import ServerIdentity
from pgrecall.repository.manifest_json import decode_manifest, encode_manifest
from pgrecall.services.backup.facts import source_server, stored_identity
from tests.support.tiny_engine import PAGE, TinyEngine, facts, label, make_store

IDENTITY = ServerIdentity(
    system_identifier=7_298_000_000_000_000_041,
    host="db1",
    data_directory="/srv/pg",
    device=64,
    inode=12_345_678_901_234_567,
    postmaster_started=datetime(2026, 11, 20, 1, 0, 3, 123456, tzinfo=UTC),
    checksum_version=2,
    wal_log_hints=True,
    page_size=PAGE,
    relation_segment_pages=131072,
    wal_segment_size=16 << 20,
)


def test_an_identity_comes_back_from_the_manifest_in_every_part() -> None:
    run = label(0)
    plain = facts(run)
    shared = {name: getattr(IDENTITY, name) for name in (each.name for each in fields(plain.cluster))
              if hasattr(IDENTITY, name)}  # fmt: skip
    described = replace(plain, server=source_server(IDENTITY), cluster=replace(plain.cluster, **shared))
    made = TinyEngine(make_store(), describe=lambda *_: described).back_up(run, {b"PG_VERSION": b"18\n"})
    assert stored_identity(decode_manifest(encode_manifest(made.manifest))) == IDENTITY


def test_without_the_server_s_start_nothing_is_compared() -> None:
    run = label(0)
    plain = facts(run)
    described = replace(plain, server=replace(plain.server, postmaster_start=None))
    made = TinyEngine(make_store(), describe=lambda *_: described).back_up(run, {b"PG_VERSION": b"18\n"})
    assert stored_identity(made.manifest) is None
