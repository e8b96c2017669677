"""Owns walking one backup's maps for the proof: what cannot be listed is told, everything else goes to the provers."""

from collections.abc import Iterator, Sequence

from pgrecall.errors import ObjectMissing, PgrecallError
from pgrecall.observe.reporter import Reporter
from pgrecall.repository.catalog import BackupRecord
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import ChunkRef, PackRef
from pgrecall.repository.fileblock import FileBlock, StoredFile
from pgrecall.repository.layout import commit_name, manifest_name
from pgrecall.repository.manifest import DirectoryEntry
from pgrecall.repository.manifest_reader import ManifestReader
from pgrecall.repository.node import NodeList
from pgrecall.repository.paths import quote
from pgrecall.repository.recovery import open_manifest
from pgrecall.services.crew import in_parallel
from pgrecall.services.verify.prove import LostSpan, Memory, Proven, Prover, Unit, lost_span
from pgrecall.services.verify.report import BackupReport, Flaws, Kind, LostFile
from pgrecall.services.verify.sweep import Swept

_LISTS_AT_ONCE = 64
_NODES_AT_ONCE = 16
MOST_UNATTRIBUTED = 100


class BackupProof:
    """Proves backups one after the other; remembers what they share."""

    def __init__(self, store: ClusterStore, swept: Swept, findings: Flaws, *, jobs: int, reporter: Reporter) -> None:
        self._store = store
        self._swept = swept
        self._findings = findings
        self._jobs = jobs
        self._reporter = reporter
        self._memory = Memory()

    def prove(self, record: BackupRecord) -> BackupReport:
        commit = record.commit
        assert commit is not None, "only what was committed can be proven"
        try:
            reader, second_copy = open_manifest(self._store, record.label, commit)
        except PgrecallError as error:
            kind = Kind.MISSING if isinstance(error, ObjectMissing) else Kind.DAMAGED
            finding = self._findings.add(kind, manifest_name(record.label), error.message, [record.label])
            finding.lose(LostFile(record.label, "/", None, "no copy of the manifest can be read"))
            return _report(record, Proven(), lost_files=commit.files, problems=("its manifest cannot be read",))
        if second_copy is not None:
            self._say_second_copy(record, second_copy)
        walk = _Walk(self._store, reader, self._swept)
        proven = Proven()
        self._reporter.stage(f"prove {record.label}", reader.manifest.size)

        def work(units: Iterator[Unit]) -> None:
            Prover(self._store, reader, self._swept.chunks, self._memory, proven).run(units, self._reporter)

        walk.check_tables(self._findings, record)
        in_parallel(walk.units(), work, self._jobs)
        lost = self._attribute(record, proven.lost + walk.lost)
        self._check_sums(record, walk)
        return _report(record, proven, lost_files=lost)

    def _say_second_copy(self, record: BackupRecord, problem: str) -> None:
        name = manifest_name(record.label)
        kind = Kind.DAMAGED if self._swept.has(name) else Kind.MISSING
        text = "is not there" if kind is Kind.MISSING else problem.partition(";")[0].removeprefix(name).lstrip(" :")
        self._findings.add(kind, name, f"{text}; the second copy in its run's last pack is used", [record.label])

    def _attribute(self, record: BackupRecord, lost: list[LostSpan]) -> int:
        """Each lost file to the object that cost it; returns how many files there are."""
        paths: set[tuple[str, bytes]] = set()
        for each in sorted(lost, key=lambda span: (span.path, span.offset or 0)):
            known = [name for name in each.objects if not self._swept.is_sound(name)]
            name = (known or [*each.objects, manifest_name(record.label)])[0]
            if (name, each.path) in paths:
                continue
            paths.add((name, each.path))
            finding = self._findings.get(name)
            if finding is None:
                kind = Kind.DAMAGED if self._swept.has(name) else Kind.MISSING
                text = "is not there" if kind is Kind.MISSING else each.problem
                finding = self._findings.add(kind, name, text, [record.label])
            path = quote(each.path.rstrip(b"/")) + ("/" if each.path.endswith(b"/") or not each.path else "")
            finding.lose(LostFile(record.label, path, each.offset, each.problem))
        return len({path for _, path in paths})

    def _check_sums(self, record: BackupRecord, walk: "_Walk") -> None:
        """Liveness decides what may be removed one day, so it must name every pack that was met."""
        assert record.commit is not None
        unnamed = [pack for pack in walk.met if pack not in record.commit.live]
        if unnamed:
            name = commit_name(record.label)
            text = f"does not name {len(unnamed)} packs that the backup needs"
            self._findings.add(Kind.DAMAGED, name, text, [record.label])
        said = (record.commit.files, record.commit.size)
        if not walk.lost and (walk.files, walk.bytes) != said:
            name = manifest_name(record.label)
            text = f"describes {walk.files} files of {walk.bytes} bytes, its commit says {said[0]} of {said[1]}"
            self._findings.add(Kind.DAMAGED, name, text, [record.label])


def _report(record: BackupRecord, proven: Proven, *, lost_files: int, problems: Sequence[str] = ()) -> BackupReport:
    assert record.commit is not None
    return BackupReport(
        label=record.label,
        readable=not lost_files and not problems,
        files=record.commit.files,
        bytes=record.commit.size,
        proven_bytes=proven.proven,
        unknown_bytes=proven.unknown,
        unread_bytes=proven.unread,
        lost_files=lost_files,
        problems=tuple(problems),
    )


class _Walk:
    """Directories, blocks, node lists and nodes of one backup, in the order in which they lie in packs."""

    def __init__(self, store: ClusterStore, reader: ManifestReader, swept: Swept) -> None:
        self._store = store
        self._reader = reader
        self._swept = swept
        self.lost: list[LostSpan] = []
        self.met: set[PackRef] = set()
        self.files = 0
        self.bytes = 0

    def check_tables(self, findings: Flaws, record: BackupRecord) -> None:
        """Each run's table says which packs it stored; those that were read must be these."""
        for entry in self._reader.manifest.runs:
            try:
                table = self._reader.packs.table(entry.run.number)
            except PgrecallError:
                continue  # told with the pack that holds it, and with every file that needs it
            for pack in table.packs():
                facts = self._swept.chunks.pack(PackRef(entry.run.number, pack.seq))
                name = self._reader.packs.name(PackRef(entry.run.number, pack.seq))
                if facts is not None and facts.hash != pack.hash:
                    findings.add(Kind.DAMAGED, name, "is not the pack that its run stored", [record.label])
                    self._swept.unsound[name] = "is not the pack that its run stored"
                elif facts is None and (found := findings.get(name)) and found.kind is Kind.DAMAGED:
                    found.problem = _with_size(found.problem, self._swept.sizes.get(name), pack.size)

    def units(self) -> Iterator[Unit]:
        for directory in self._reader.directories():
            for pointer, block in self._blocks(directory):
                self.met.add(pointer.pack_ref)
                self.met |= block.packs()
                small: list[StoredFile] = []
                large: list[StoredFile] = []
                for file in block:
                    self.files += 1
                    self.bytes += file.entry.size
                    (small if file.node_list is None else large).append(file)
                if small:
                    yield Unit(pointer, tuple(small))
                for at in range(0, len(large), _LISTS_AT_ONCE):
                    for nodes in self._node_lists(large[at : at + _LISTS_AT_ONCE]):
                        self.met |= nodes.packs()
                        yield from self._nodes(nodes)

    def _blocks(self, directory: DirectoryEntry) -> Iterator[tuple[ChunkRef, FileBlock]]:
        blocks = self._reader.blocks(directory.path)
        for number, pointer in enumerate(directory.blocks):
            try:
                block = next(blocks)
            except PgrecallError as error:
                self._lose_map(directory.path + b"/", directory.blocks[number:], error)
                return
            yield pointer, block

    def _node_lists(self, files: Sequence[StoredFile]) -> Iterator[NodeList]:
        try:
            yield from list(self._reader.node_lists(files))
        except PgrecallError:
            for file in files:
                try:
                    yield self._reader.node_list(file)
                except PgrecallError as error:
                    assert file.node_list is not None, "a large file"
                    self._lose_map(file.path, [file.node_list], error)

    def _nodes(self, nodes: NodeList) -> Iterator[Unit]:
        pointers = nodes.nodes()
        for at in range(0, len(nodes), _NODES_AT_ONCE):
            indexes = range(at, min(at + _NODES_AT_ONCE, len(nodes)))
            try:
                found = list(self._reader.nodes(nodes, indexes))
            except PgrecallError:
                yield from self._nodes_one_by_one(nodes, indexes)
                continue
            for index, node in zip(indexes, found, strict=True):
                yield Unit(pointers[index], (node,))

    def _nodes_one_by_one(self, nodes: NodeList, indexes: Sequence[int]) -> Iterator[Unit]:
        for index in indexes:
            try:
                yield Unit(nodes.node(index), tuple(self._reader.nodes(nodes, [index])))
            except PgrecallError as error:
                self._lose_map(nodes.path, [nodes.node(index)], error)

    def _lose_map(self, path: bytes, pointers: Sequence[ChunkRef], error: PgrecallError) -> None:
        """Files whose map cannot be read; it lies in one of the pointers' packs."""
        names = [self._reader.packs.name(pointer.pack_ref) for pointer in pointers]
        unsound = [name for name in names if not self._swept.is_sound(name)]
        found = lost_span(path, None, error)
        text = f"its map cannot be read: {found.problem}"
        self.lost.append(LostSpan(path, None, text, (*unsound, *found.objects, names[0])))


def _with_size(problem: str, found: int | None, stored: int) -> str:
    if found is None or found == stored:
        return problem
    if found < stored:
        return f"is cut off at byte {found} of {stored}"
    return f"has {found - stored} bytes too many"
