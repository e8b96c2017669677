"""Owns writing a backup's manifest: directories as they finish, then the run table, and the root twice."""

import threading
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields

from pgrecall.domain.label import BackupLabel
from pgrecall.errors import Refused
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import ChunkRef, PackRef
from pgrecall.repository.directory_writer import DirectoryFacts, DirectoryWriter
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import manifest_name
from pgrecall.repository.live import LivePacks
from pgrecall.repository.manifest import BackupFacts, DirectoryEntry, Manifest, RunEntry
from pgrecall.repository.manifest_json import decode_manifest, encode_manifest
from pgrecall.repository.map_writer import MapWriter
from pgrecall.repository.node import Node
from pgrecall.repository.pack import PACK_TARGET, PackBuilder
from pgrecall.repository.runtable import PackRecord, RunTable

FRAME_SIZE = 1024 * 1024
_MOST_PRINCIPALS = 1 << 16
_USUAL_MAPS = 1 << 20


@dataclass(frozen=True, slots=True)
class WrittenManifest:
    """hash: the hash field of the manifest's footer; live: every pack the backup needs; packs: all that the run stored;
    stored: bytes of those packs and of the manifest."""

    manifest: Manifest
    hash: bytes
    live: LivePacks
    packs: tuple[PackRecord, ...]
    stored: int


class ManifestWriter:
    """The maps and the manifest of one run. Everything but `finish` is safe to share between threads."""

    def __init__(
        self,
        store: ClusterStore,
        run: BackupLabel,
        next_seq: Callable[[], int],
        *,
        parent: Manifest | None = None,
        absent: AbstractSet[PackRef] = frozenset(),
        level: int = 3,
        padded: bool = False,
        target: int = PACK_TARGET,
    ) -> None:
        """`parent`: what this run compares with; its principals keep their numbers and its equal maps are taken over.
        `absent`: packs with a bad mark, from which nothing is."""
        self.run = run
        self._store = store
        self._builder = PackBuilder(
            store, run, next_seq, level=level, padded=padded, target=target, capacity=_USUAL_MAPS
        )
        self._absent = absent
        self._maps = MapWriter(self._builder, store.scope.keys, absent)
        self._lock = threading.Lock()
        self._principals = {name: index for index, name in enumerate(parent.principals if parent else ())}
        self._parent_blocks = {each.path: each.blocks for each in parent.directories} if parent else {}
        self._parent_runs = {each.run.number: each for each in parent.runs} if parent else {}
        self._directories: list[DirectoryEntry] = []

    def principal(self, name: str) -> int:
        """The index of a user's or group's name."""
        with self._lock:
            index = self._principals.setdefault(name, len(self._principals))
        if index >= _MOST_PRINCIPALS:
            raise Refused(f"these files have more than {_MOST_PRINCIPALS} owners and groups: '{name}' is one more")
        return index

    def directory(self, facts: DirectoryFacts) -> DirectoryWriter:
        """Begin a directory (also an empty one); hand it to `finish_directory` when all its files are added."""
        return DirectoryWriter(facts, self._maps, self._parent_blocks.get(facts.path, ()))

    def finish_directory(self, directory: DirectoryWriter) -> DirectoryEntry:
        entry = directory.finish()
        with self._lock:
            self._directories.append(entry)
        return entry

    def put_node(self, node: Node, known: ChunkRef | None = None) -> ChunkRef:
        """Store a node; `known` is the parent's at the same place, taken over where equal."""
        return self._maps.put(node.encode(), (known,) if known else ())

    def finish(self, facts: BackupFacts, data_packs: Iterable[PackRecord]) -> WrittenManifest:
        """Write run table and manifest. All directories are finished; every other builder of the run is closed and its
        records are among data_packs."""
        assert facts.label == self.run, "another run's facts"
        others = list(data_packs)
        self._be_last(others)
        packs = others + self._builder.records
        keyhole = self._builder.keyhole()
        table = self._builder.append(RunTable.of(self.run.number, packs).encode())
        self._maps.need((table.pack_ref,))
        own = RunEntry(self.run, len(packs) + 1, table, keyhole)
        manifest = self._manifest(facts, own)
        payload = encode_manifest(manifest)
        assert decode_manifest(payload) == manifest, "we could not read our own manifest"
        frames = _frames(payload)
        for frame in frames:
            self._builder.append(frame)
        self._builder.close()
        written = self._store.put(
            ObjectType.MANIFEST, manifest_name(self.run), clear={"label": str(self.run)}, frames=frames
        )
        all_packs = tuple(sorted(others + self._builder.records))
        stored = sum(each.size for each in all_packs) + written.size
        return WrittenManifest(manifest, written.hash, self._maps.live, all_packs, stored)

    def _be_last(self, others: Sequence[PackRecord]) -> None:
        """The run's last pack, where a lost manifest is looked for first, has the highest seq."""
        highest = max((each.seq for each in others), default=0)
        if self._builder.seq is not None and self._builder.seq < highest:
            self._builder.close()

    def _manifest(self, facts: BackupFacts, own: RunEntry) -> Manifest:
        runs = self._runs(own)
        return Manifest(
            **{each.name: getattr(facts, each.name) for each in fields(BackupFacts)},
            principals=tuple(self._principals),
            directories=tuple(sorted(self._directories, key=lambda each: each.path)),
            runs=runs,
        )

    def _runs(self, own: RunEntry) -> tuple[RunEntry, ...]:
        """Every run that is needed, with its table's pack, which is needed too."""
        entries = []
        for number in self._maps.live.runs():
            entry = own if number == self.run.number else self._parent_runs[number]
            if entry.table.pack_ref not in self._absent:  # readers manage without a table
                self._maps.need((entry.table.pack_ref,))
            entries.append(entry)
        return tuple(entries)


def _frames(payload: bytes) -> list[bytes]:
    return [payload[at : at + FRAME_SIZE] for at in range(0, len(payload), FRAME_SIZE)]
