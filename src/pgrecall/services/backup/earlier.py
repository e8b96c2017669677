"""Owns looking up what the parent knows of a file: its entry, its span, whether it is the same file at all.

A map of the parent that cannot be read any more must not stop a new backup: what it describes counts as not stored.
"""

import contextlib
from collections.abc import Iterator

from pgrecall.errors import DamageFound, ObjectMissing
from pgrecall.repository.fileblock import FileEntry, StoredFile
from pgrecall.repository.manifest_reader import DirectoryIndex, ManifestReader
from pgrecall.services.backup.spans import ParentSpan
from pgrecall.services.backup.units import LargeFile

NODES_AT_ONCE = 16


class EarlierFiles:
    """The parent's files, by directory. Safe to share between threads."""

    def __init__(self, reader: ManifestReader) -> None:
        self._reader = reader
        self.unreadable: list[str] = []
        """Why maps of the parent could not be read."""

    def directory(self, path: bytes) -> DirectoryIndex:
        with self._forgiving():
            return self._reader.index(path)
        return DirectoryIndex([])

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except (DamageFound, ObjectMissing) as error:
            self.unreadable.append(error.message)

    def look_up(self, file: LargeFile, index: DirectoryIndex) -> None:
        """Find the parent's entry and node list of a large file, once."""
        if file.parent_looked_up:
            return
        file.parent_looked_up = True
        stored = index.get(file.item.name)
        if stored is None:
            return
        file.parent_entry = stored.entry
        if stored.node_list is None:
            file.parent_small = small_span(stored)
            return
        with self._forgiving():
            file.parent_list = self._reader.node_list(stored)
            file.parent_pointer = stored.node_list

    def node_span(self, file: LargeFile, index: int) -> ParentSpan | None:
        """The parent's span where node number index lies; None if it has none. Call with the file's lock held, once."""
        if file.parent_small is not None:
            return file.parent_small if index == 0 else None
        nodes = file.parent_list
        if nodes is None or index >= len(nodes):
            return None
        if index not in file.parent_nodes:
            wanted = range(index, min(index + NODES_AT_ONCE, len(nodes)))
            with self._forgiving():
                for number, node in zip(wanted, self._reader.nodes(nodes, wanted), strict=True):
                    file.parent_nodes[number] = ParentSpan(node.extents, node.ranges.digests())
        return file.parent_nodes.pop(index, None)

    def small_file_span(self, stored: StoredFile) -> ParentSpan | None:
        """The parent's first node of a file that is small now, however large it was."""
        if stored.node_list is None:
            return small_span(stored)
        with self._forgiving():
            node = next(self._reader.nodes(self._reader.node_list(stored), [0]))
            return ParentSpan(node.extents, node.ranges.digests())
        return None


def small_span(stored: StoredFile) -> ParentSpan:
    assert stored.extents is not None and stored.ranges is not None
    return ParentSpan(stored.extents, stored.ranges.digests())


def is_same_file(entry: FileEntry, *, inode: int, birth: int) -> bool:
    """A path is no identity: a file dropped and made anew under one name differs in birth time (or inode).

    Where the file system tells no birth times, nothing is proven.
    """
    return entry.birth != 0 and entry.birth == birth and entry.inode == inode
