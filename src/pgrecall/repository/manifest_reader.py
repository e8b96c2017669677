"""Owns reading a backup's files out of its manifest: directories, blocks, node lists, nodes, each when it is needed."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from pgrecall.domain.label import BackupLabel
from pgrecall.errors import ObjectDamaged
from pgrecall.repository.chunks import ChunkReader
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import NODE_SIZE, PackRef
from pgrecall.repository.fileblock import FileBlock, StoredFile
from pgrecall.repository.header import ObjectType
from pgrecall.repository.layout import manifest_name
from pgrecall.repository.manifest import DirectoryEntry, Manifest
from pgrecall.repository.manifest_json import decode_manifest
from pgrecall.repository.map_reader import MapReader
from pgrecall.repository.node import Node, NodeList, check_node_place
from pgrecall.repository.pack_index import PackIndex
from pgrecall.repository.paths import join, quote, split
from pgrecall.repository.secrets import Keys

_BLOCKS_AT_ONCE = 8
_NODES_AT_ONCE = 16
_LISTS_AT_ONCE = 64
_LIST_BYTES_AT_ONCE = 8 * 1024 * 1024


class ManifestReader:
    """One backup's files. Safe to share between threads; `chunk_reader` makes one for each."""

    def __init__(self, store: ClusterStore, manifest: Manifest) -> None:
        self.manifest = manifest
        self.packs = PackIndex(store, manifest.runs)
        self.maps = MapReader(store, self.packs)
        self._store = store
        self._directories = {each.path: each for each in manifest.directories}
        self._taken = _names_of_directories(manifest)

    @classmethod
    def open(cls, store: ClusterStore, label: BackupLabel, expected_hash: bytes | None = None) -> "ManifestReader":
        """`expected_hash` is the one in the backup's commit; ObjectDamaged when the manifest is another one."""
        found = store.read(ObjectType.MANIFEST, manifest_name(label))
        if expected_hash is not None and found.hash != expected_hash:
            raise ObjectDamaged(f"the manifest of {label} is not the one that was committed", object=found.name)
        manifest = decode_manifest(found.payload(), f"manifest of {label}")
        if manifest.label != label or found.clear.get("label") != str(label):
            raise ObjectDamaged(f"the manifest of {label} is that of {manifest.label}", object=found.name)
        return cls(store, manifest)

    def chunk_reader(self) -> ChunkReader:
        """For one thread."""
        return ChunkReader(self._store, self.packs, self._keys())

    def directories(self) -> tuple[DirectoryEntry, ...]:
        """In the order of their paths: each comes after the one that it lies in."""
        return self.manifest.directories

    def blocks(self, directory: bytes) -> Iterator[FileBlock]:
        """The file blocks of a directory in the order of names, a few fetched at once."""
        pointers = self._directories[directory].blocks
        before = b""
        for at in range(0, len(pointers), _BLOCKS_AT_ONCE):
            for raw in self.maps.read_many(pointers[at : at + _BLOCKS_AT_ONCE]):
                block = FileBlock.decode(raw, f"file block of {quote(directory)}/")
                self._check_block(block, directory, before)
                before = block.name(len(block) - 1)
                yield block

    def files(self, directory: bytes) -> Iterator[StoredFile]:
        """Its files in the order of names, read block by block."""
        for block in self.blocks(directory):
            yield from block

    def all_files(self) -> Iterator[StoredFile]:
        for directory in self.manifest.directories:
            yield from self.files(directory.path)

    def index(self, directory: bytes) -> "DirectoryIndex":
        """All files of a directory in memory (some 150 bytes each), to be asked by name; empty if it is not there."""
        return DirectoryIndex(list(self.blocks(directory)) if directory in self._directories else [])

    def find(self, path: bytes) -> StoredFile | None:
        directory, name = split(path)
        if directory not in self._directories:
            return None
        for block in self.blocks(directory):
            if (index := block.find(name)) is not None:
                return block.file(index)
            if block.name(0) > name:
                break
        return None

    def node_list(self, file: StoredFile) -> NodeList:
        return next(self.node_lists([file]))

    def node_lists(self, files: Iterable[StoredFile]) -> Iterator[NodeList]:
        """The node list of each file, which all are larger than 1 MiB; 64 fetched at once, or fewer of long ones."""
        batch: list[StoredFile] = []
        size = 0
        for file in files:
            batch.append(file)
            size += file.node_list.raw if file.node_list else 0
            if len(batch) == _LISTS_AT_ONCE or size >= _LIST_BYTES_AT_ONCE:
                yield from self._read_lists(batch)
                batch, size = [], 0
        yield from self._read_lists(batch)

    def nodes(self, nodes: NodeList, indexes: Sequence[int] | None = None) -> Iterator[Node]:
        """The nodes of a file in order, all or those of these indexes; 16 fetched at once."""
        wanted = range(len(nodes)) if indexes is None else indexes
        pointers = nodes.nodes()
        for at in range(0, len(wanted), _NODES_AT_ONCE):
            batch = wanted[at : at + _NODES_AT_ONCE]
            for index, raw in zip(batch, self.maps.read_many([pointers[each] for each in batch]), strict=True):
                node = Node.decode(raw, f"node {index} of {quote(nodes.path)}")
                check_node_place(node, nodes.path, index, nodes.size)
                yield node

    def files_on(self, packs: AbstractSet[PackRef]) -> Iterator[bytes]:
        """Paths of the files that cannot be restored whole without these packs.

        Where the packs hold a directory's blocks, its files are unknown: reading those raises as ever.
        """
        for directory in self.manifest.directories:
            for block in self.blocks(directory.path):
                large = []
                for file in block:
                    if file.node_list is not None:
                        large.append(file)
                    elif file.extents is not None and not packs.isdisjoint(file.extents.packs()):
                        yield file.path
                yield from self._large_files_on(large, packs)

    def _large_files_on(self, files: list[StoredFile], packs: AbstractSet[PackRef]) -> Iterator[bytes]:
        readable = []
        for file in files:
            if file.node_list is not None and file.node_list.pack_ref in packs:
                yield file.path
            else:
                readable.append(file)
        for nodes in self.node_lists(readable):
            if not packs.isdisjoint(nodes.packs()):
                yield nodes.path

    def _keys(self) -> Keys:
        """Those that the backup was made under, as its own run's last pack tells."""
        own = next((each for each in self.manifest.runs if each.run == self.manifest.label), None)
        scope = self._store.scope
        return scope.keys if own is None else scope.keys_of(own.pack.generation) or scope.keys

    def _read_lists(self, files: list[StoredFile]) -> Iterator[NodeList]:
        pointers = [file.node_list for file in files if file.node_list is not None]
        assert len(pointers) == len(files), "a small file has no node list"
        for file, raw in zip(files, self.maps.read_many(pointers), strict=True):
            nodes = NodeList.decode(raw, f"node list of {quote(file.path)}")
            if (nodes.path, nodes.size) != (file.path, file.entry.size):
                raise ObjectDamaged(f"the node list of {quote(file.path)} describes {quote(nodes.path)}")
            yield nodes

    def _check_block(self, block: FileBlock, directory: bytes, before: bytes) -> None:
        what = f"a file block of {quote(directory)}/"
        if block.directory != directory:
            raise ObjectDamaged(f"{what} describes {quote(block.directory)}/")
        if block.name(0) <= before:
            raise ObjectDamaged(f"{what} comes twice or out of order")
        most = len(self.manifest.principals)
        if int(block.files["owner"].max()) >= most or int(block.files["group"].max()) >= most:
            raise ObjectDamaged(f"{what} names an owner who is not among the principals")
        for name in self._taken.get(directory, ()):
            if block.find(name) is not None:
                raise ObjectDamaged(f"{quote(join(directory, name))} is a file and a directory or link")


class DirectoryIndex:
    """The files of one directory, by name."""

    def __init__(self, blocks: Sequence[FileBlock]) -> None:
        self._blocks = blocks
        self._firsts = [block.name(0) for block in blocks]

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    def __iter__(self) -> Iterator[StoredFile]:
        for block in self._blocks:
            yield from block

    def get(self, name: bytes) -> StoredFile | None:
        at = bisect_right(self._firsts, name) - 1
        if at < 0 or (index := self._blocks[at].find(name)) is None:
            return None
        return self._blocks[at].file(index)


def node_span(index: int, size: int) -> tuple[int, int]:
    """(offset, length) of node number index of a file of size bytes."""
    return index * NODE_SIZE, min(NODE_SIZE, size - index * NODE_SIZE)


def _names_of_directories(manifest: Manifest) -> dict[bytes, list[bytes]]:
    """By directory, the names in it that are directories or links."""
    taken: dict[bytes, list[bytes]] = {}
    for path in (*(each.path for each in manifest.directories), *(each.path for each in manifest.links)):
        directory, name = split(path)
        if name:
            taken.setdefault(directory, []).append(name)
    return taken
