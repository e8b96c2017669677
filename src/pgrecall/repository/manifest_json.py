"""Owns how a manifest is written in canonical JSON, and reading one without believing it (format.md §5)."""

from itertools import pairwise
from typing import Any

from pgrecall.errors import ObjectDamaged
from pgrecall.repository import canonical
from pgrecall.repository.columns import MAP_CHUNK_MAX, PACK_MAX, RUN_TABLE_MAX, ChunkRef
from pgrecall.repository.fields import U16, U32, U64, Fields, base64_text, time_text, unhex
from pgrecall.repository.manifest import (
    Boundary,
    ClusterFacts,
    DamagedPage,
    DirectoryEntry,
    Link,
    Manifest,
    OutsideFile,
    PackKeyhole,
    RunEntry,
    Scalar,
    SourceServer,
    Tablespace,
)
from pgrecall.repository.paths import OUTSIDE, check_directory, check_name, check_path, quote, split, unquote

_CLUSTER_FIELDS = frozenset(ClusterFacts.__dataclass_fields__) - {"other"}


def encode_manifest(manifest: Manifest) -> bytes:
    return canonical.encode(
        {
            "label": str(manifest.label),
            "kind": manifest.kind.value,
            "parent": str(manifest.parent) if manifest.parent else None,
            "cluster": _cluster_json(manifest.cluster),
            "server": {
                "host": manifest.server.host,
                "data_directory": manifest.server.data_directory,
                "device": str(manifest.server.device),
                "inode": str(manifest.server.inode),
                "postmaster_start": time_text(start) if (start := manifest.server.postmaster_start) else None,
                "checksum_version": manifest.server.checksum_version,
            },
            "start": _point_json(manifest.start),
            "stop": _point_json(manifest.stop) | {"archived": manifest.stop.archived},
            "backup_label": base64_text(manifest.backup_label),
            "tablespace_map": base64_text(manifest.tablespace_map),
            "principals": list(manifest.principals),
            "directories": [_directory_json(each) for each in manifest.directories],
            "tablespaces": [
                {"oid": each.oid, "path": quote(each.path), "in_place": each.in_place} for each in manifest.tablespaces
            ],
            "links": [{"path": quote(each.path), "target": quote(each.target)} for each in manifest.links],
            "outside": [
                {"setting": each.setting, "source": quote(each.source), "path": quote(each.path)}
                for each in manifest.outside
            ],
            "runs": [_run_json(each) for each in manifest.runs],
            "damage": [
                {"path": quote(each.path), "block": each.block, "reason": each.reason} for each in manifest.damage
            ],
        }
    )


def decode_manifest(data: bytes, what: str = "manifest") -> Manifest:
    """Raise ObjectDamaged unless data is a manifest in every detail."""
    fields = Fields(canonical.decode(data, what), what)
    label = fields.label("label")
    if fields.kind("kind") != label.kind:
        raise ObjectDamaged(f"{what}: its kind is not its label's")
    manifest = Manifest(
        label=label,
        parent=fields.optional("parent", fields.label),
        cluster=_cluster(fields.object("cluster")),
        server=_server(fields.object("server")),
        start=_point(fields.object("start"), archived=False),
        stop=_point(stop := fields.object("stop"), archived=stop.flag("archived")),
        backup_label=fields.base64("backup_label"),
        tablespace_map=fields.base64("tablespace_map"),
        principals=fields.texts("principals"),
        directories=tuple(_directory(each) for each in fields.objects("directories")),
        tablespaces=tuple(_tablespace(each) for each in fields.objects("tablespaces")),
        links=tuple(_link(each) for each in fields.objects("links")),
        outside=tuple(_outside(each) for each in fields.objects("outside")),
        runs=tuple(_run(each) for each in fields.objects("runs")),
        damage=tuple(_damage(each) for each in fields.objects("damage")),
    )
    _check_tree(manifest, what)
    return manifest


def _check_tree(manifest: Manifest, what: str) -> None:
    """Directories in order, each inside another; nothing in two places; every number points to something."""
    paths = [each.path for each in manifest.directories]
    for before, path in pairwise(paths):
        if path <= before:
            raise ObjectDamaged(f"{what}: directory {quote(path)} comes twice or out of order")
    known = set(paths)
    for path in paths:
        if path not in (b"", OUTSIDE) and split(path)[0] not in known:
            raise ObjectDamaged(f"{what}: directory {quote(path)} lies in none")
    places = known | {each.path for each in manifest.links}
    if len(places) != len(known) + len(manifest.links):
        raise ObjectDamaged(f"{what}: a link lies where something else does")
    if len({each.oid for each in manifest.tablespaces}) != len(manifest.tablespaces):
        raise ObjectDamaged(f"{what}: a tablespace comes twice")
    most = len(manifest.principals)
    if any(max(each.owner, each.group) >= most for each in manifest.directories):
        raise ObjectDamaged(f"{what}: a directory's owner is not among the principals")
    runs = [each.run for each in manifest.runs]
    if runs != sorted(set(runs)):
        raise ObjectDamaged(f"{what}: runs come twice or out of order")
    for entry in manifest.runs:
        if (entry.table.run, entry.table.pack) != (entry.run.number, entry.pack.seq):
            raise ObjectDamaged(f"{what}: the table of {entry.run} is not in the pack that should hold it")


def _cluster_json(cluster: ClusterFacts) -> dict[str, Any]:
    known = {name: getattr(cluster, name) for name in _CLUSTER_FIELDS}
    return {**cluster.other, **known, "system_identifier": str(cluster.system_identifier)}


def _cluster(fields: Fields) -> ClusterFacts:
    other: dict[str, Scalar] = {}
    for name, value in fields.rest(_CLUSTER_FIELDS).items():
        if value is not None and not isinstance(value, str | int | bool):
            raise fields.damaged(name, "a text, number or flag")
        other[name] = value
    return ClusterFacts(
        system_identifier=fields.decimal("system_identifier"),
        postgres_version=fields.text("postgres_version"),
        version_num=fields.integer("version_num", 0, U32),
        control_version=fields.integer("control_version", 0, U32),
        catalog_version=fields.integer("catalog_version", 0, U32),
        page_size=_power(fields, "page_size", 1 << 10, 1 << 15),
        relation_segment_pages=fields.integer("relation_segment_pages", 1, U32),
        wal_page_size=_power(fields, "wal_page_size", 1 << 10, 1 << 16),
        wal_segment_size=_power(fields, "wal_segment_size", 1 << 20, 1 << 30),
        checksums=fields.flag("checksums"),
        wal_log_hints=fields.flag("wal_log_hints"),
        wal_level=fields.text("wal_level"),
        max_connections=fields.integer("max_connections", 0, U32),
        max_worker_processes=fields.integer("max_worker_processes", 0, U32),
        max_wal_senders=fields.integer("max_wal_senders", 0, U32),
        max_prepared_transactions=fields.integer("max_prepared_transactions", 0, U32),
        max_locks_per_transaction=fields.integer("max_locks_per_transaction", 0, U32),
        track_commit_timestamp=fields.flag("track_commit_timestamp"),
        other=other,
    )


def _power(fields: Fields, name: str, low: int, high: int) -> int:
    value = fields.integer(name, low, high)
    if value & (value - 1):
        raise fields.damaged(name, "a power of two")
    return value


def _server(fields: Fields) -> SourceServer:
    return SourceServer(
        host=fields.text("host"),
        data_directory=fields.text("data_directory"),
        device=fields.decimal("device"),
        inode=fields.decimal("inode"),
        postmaster_start=fields.optional("postmaster_start", fields.time),
        checksum_version=fields.integer("checksum_version", 0, U32),
    )


def _point_json(point: Boundary) -> dict[str, Any]:
    return {"lsn": str(point.lsn), "timeline": point.timeline, "time": time_text(point.time), "wal": point.wal}


def _point(fields: Fields, *, archived: bool) -> Boundary:
    return Boundary(
        lsn=fields.lsn("lsn"),
        timeline=fields.integer("timeline", 1, U32),
        time=fields.time("time"),
        wal=fields.text("wal"),
        archived=archived,
    )


def _directory_json(directory: DirectoryEntry) -> dict[str, Any]:
    return {
        "path": quote(directory.path),
        "mode": directory.mode,
        "owner": directory.owner,
        "group": directory.group,
        "files": directory.files,
        "bytes": directory.size,
        "blocks": [pointer.to_bytes().hex() for pointer in directory.blocks],
    }


def _directory(fields: Fields) -> DirectoryEntry:
    path = unquote(fields.text("path"), fields.what)
    check_directory(path, fields.what)
    return DirectoryEntry(
        path=path,
        mode=fields.integer("mode", 0, 0o7777),
        owner=fields.integer("owner", 0, U16),
        group=fields.integer("group", 0, U16),
        files=fields.integer("files"),
        size=fields.integer("bytes"),
        blocks=tuple(_pointer(text, fields.what) for text in fields.texts("blocks")),
    )


def _pointer(text: str, what: str, *, largest: int = MAP_CHUNK_MAX) -> ChunkRef:
    return ChunkRef.from_bytes(unhex(text, 48, what), what, largest=largest)


def _tablespace(fields: Fields) -> Tablespace:
    path, in_place = unquote(fields.text("path"), fields.what), fields.flag("in_place")
    parts = path.split(b"/")
    if not in_place and (not path.startswith(b"/") or b"\0" in path or b".." in parts or len(path) > 4096):
        raise fields.damaged("path", "an absolute path")
    return Tablespace(oid=fields.integer("oid", 1, U32), path=path, in_place=in_place)


def _link(fields: Fields) -> Link:
    path = unquote(fields.text("path"), fields.what)
    if path != b"pg_wal":
        raise fields.damaged("path", "pg_wal, the only link that is kept")
    return Link(path, unquote(fields.text("target"), fields.what))


def _outside(fields: Fields) -> OutsideFile:
    path = unquote(fields.text("path"), fields.what)
    check_name(path, fields.what)
    return OutsideFile(fields.text("setting"), unquote(fields.text("source"), fields.what), path)


def _run_json(entry: RunEntry) -> dict[str, Any]:
    pack = entry.pack
    return {
        "run": str(entry.run),
        "packs": entry.packs,
        "table": entry.table.to_bytes().hex(),
        "pack": {"seq": pack.seq, "generation": pack.generation, "flags": pack.flags, "salt": pack.salt.hex()},
    }


def _run(fields: Fields) -> RunEntry:
    pack = fields.object("pack")
    return RunEntry(
        run=fields.label("run"),
        packs=fields.integer("packs", 1, U32),
        table=_pointer(fields.text("table"), fields.what, largest=RUN_TABLE_MAX),
        pack=PackKeyhole(
            seq=pack.integer("seq", 1, PACK_MAX),
            generation=pack.integer("generation", 0, U32),
            flags=pack.integer("flags", 0, U32),
            salt=pack.hex("salt", 32),
        ),
    )


def _damage(fields: Fields) -> DamagedPage:
    path = unquote(fields.text("path"), fields.what)
    check_path(path, fields.what)
    return DamagedPage(path, fields.integer("block", 0, U64), fields.text("reason"))
