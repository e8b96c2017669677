"""Owns the last word on a run: the commit that makes a backup, or a tombstone that denies it (format.md §6)."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from pgrecall.domain.label import BackupKind, BackupLabel
from pgrecall.domain.lsn import Lsn
from pgrecall.errors import ObjectDamaged
from pgrecall.repository import canonical
from pgrecall.repository.fields import U32, Fields, time_text, unhex
from pgrecall.repository.live import LivePacks

MOST_SEEN = 16


class SeenCommit(NamedTuple):
    """A commit known when another was made: its label and the hash field of its footer."""

    label: BackupLabel
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitDetails:
    """The sealed half: what people read of a run."""

    warnings: tuple[str, ...] = ()
    damage: tuple[dict[str, Any], ...] = ()
    host: str = ""
    took: int = 0
    """Milliseconds."""
    settings: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        return canonical.encode(
            {
                "warnings": [_told(each) for each in self.warnings],
                "damage": list(self.damage),
                "host": self.host,
                "took": self.took,
                "settings": self.settings,
            }
        )

    @classmethod
    def decode(cls, data: bytes, what: str = "commit") -> "CommitDetails":
        fields = Fields(canonical.decode(data, what), what)
        return cls(
            warnings=fields.texts("warnings"),
            damage=tuple(dict(Fields(value, what).rest(frozenset())) for value in fields.list("damage")),
            host=fields.text("host"),
            took=fields.integer("took"),
            settings=dict(fields.mapping("settings")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The clear half of a backup's `backup.json`. size: bytes restored; stored: bytes added; manifest: its hash."""

    label: BackupLabel
    sequence: int
    parent: BackupLabel | None
    system_identifier: int
    timeline: int
    version_num: int
    start_lsn: Lsn
    stop_lsn: Lsn
    wal_segment_size: int
    started: datetime
    stopped: datetime
    self_contained: bool
    size: int
    stored: int
    files: int
    damaged_pages: int
    manifest: bytes
    live: LivePacks
    seen: tuple[SeenCommit, ...]
    newest_wal: str | None

    @property
    def kind(self) -> BackupKind:
        return self.label.kind

    def to_clear(self) -> dict[str, Any]:
        return {
            "state": "committed",
            "label": str(self.label),
            "kind": self.kind.value,
            "sequence": self.sequence,
            "parent": str(self.parent) if self.parent else None,
            "system_identifier": str(self.system_identifier),
            "timeline": self.timeline,
            "version_num": self.version_num,
            "start_lsn": str(self.start_lsn),
            "stop_lsn": str(self.stop_lsn),
            "wal_segment_size": self.wal_segment_size,
            "started": time_text(self.started),
            "stopped": time_text(self.stopped),
            "self_contained": self.self_contained,
            "size": self.size,
            "stored": self.stored,
            "files": self.files,
            "damaged_pages": self.damaged_pages,
            "manifest": self.manifest.hex(),
            "live": self.live.to_json(),
            "seen": [{"label": str(label), "hash": digest.hex()} for label, digest in self.seen[-MOST_SEEN:]],
            "newest_wal": self.newest_wal,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A run that was declared dead: nothing can be committed under its label any more."""

    label: BackupLabel
    sequence: int
    at: datetime
    by: str
    reason: str

    def to_clear(self) -> dict[str, Any]:
        return {
            "state": "aborted",
            "label": str(self.label),
            "kind": self.label.kind.value,
            "sequence": self.sequence,
            "at": time_text(self.at),
            "by": self.by,
            "reason": _told(self.reason),
        }


def from_clear(clear: dict[str, Any], label: BackupLabel, what: str = "commit") -> Commit | Tombstone:
    """What `backup.json` of this label says; ObjectDamaged when it is no commit, or another label's."""
    fields = Fields(clear, what)
    if fields.label("label") != label or fields.kind("kind") != label.kind:
        raise ObjectDamaged(f"{what} is the commit of {fields.text('label')!r:.60}, not of {label}")
    if fields.one_of("state", "committed", "aborted") == "aborted":
        return Tombstone(
            label=label,
            sequence=fields.integer("sequence", 1),
            at=fields.time("at"),
            by=fields.text("by"),
            reason=fields.text("reason"),
        )
    return Commit(
        label=label,
        sequence=fields.integer("sequence", 1),
        parent=fields.optional("parent", fields.label),
        system_identifier=fields.decimal("system_identifier"),
        timeline=fields.integer("timeline", 1, U32),
        version_num=fields.integer("version_num", 0, U32),
        start_lsn=fields.lsn("start_lsn"),
        stop_lsn=fields.lsn("stop_lsn"),
        wal_segment_size=fields.integer("wal_segment_size", 1, U32),
        started=fields.time("started"),
        stopped=fields.time("stopped"),
        self_contained=fields.flag("self_contained"),
        size=fields.integer("size"),
        stored=fields.integer("stored"),
        files=fields.integer("files"),
        damaged_pages=fields.integer("damaged_pages"),
        manifest=fields.hex("manifest", 32),
        live=LivePacks.from_json(fields.mapping("live"), what),
        seen=tuple(_seen(each) for each in fields.objects("seen")),
        newest_wal=fields.optional("newest_wal", fields.text),
    )


def _told(text: str) -> str:
    """Text for people may quote names of files that are no UTF-8, which JSON cannot hold: those bytes as `\\udcNN`."""
    return text.encode("utf-8", "backslashreplace").decode()


def _seen(fields: Fields) -> SeenCommit:
    return SeenCommit(fields.label("label"), unhex(fields.text("hash"), 32, fields.what))
