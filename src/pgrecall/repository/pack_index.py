"""Owns how to open any pack that a backup needs: its run tables, read once, and openers, kept for the packs in use."""

import threading
from collections import OrderedDict
from collections.abc import Iterable

from pgrecall.domain.label import BackupLabel
from pgrecall.errors import DamageFound, ObjectDamaged, ObjectMissing, ValueInvalid
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import ChunkRef, PackRef
from pgrecall.repository.envelope import FrameOpener
from pgrecall.repository.header import HEADER_SIZE, Header, ObjectType
from pgrecall.repository.layout import pack_name
from pgrecall.repository.manifest import PackKeyhole, RunEntry
from pgrecall.repository.runtable import RunTable

_OPENERS_KEPT = 512


class PackIndex:
    """Openers of packs by (run, seq). Safe to share between threads."""

    def __init__(self, store: ClusterStore, runs: Iterable[RunEntry]) -> None:
        self._store = store
        self._runs = {entry.run.number: entry for entry in runs}
        self._tables: dict[int, RunTable] = {}
        self._lost_tables: dict[int, DamageFound | ObjectMissing] = {}
        self._openers: OrderedDict[PackRef, FrameOpener] = OrderedDict()
        self._lock = threading.Lock()

    def opener(self, pack: PackRef) -> FrameOpener:
        """ObjectDamaged when no table knows the pack."""
        with self._lock:
            if opener := self._openers.get(pack):
                self._openers.move_to_end(pack)
                return opener
        made = self._opener(pack, self._keyhole(pack))
        with self._lock:
            self._openers[pack] = made
            if len(self._openers) > _OPENERS_KEPT:
                self._openers.popitem(last=False)
        return made

    def table(self, run: int) -> RunTable:
        """The packs of a run but its last; read from storage the first time."""
        with self._lock:
            if table := self._tables.get(run):
                return table
            if lost := self._lost_tables.get(run):
                raise lost
        try:
            table = self._read_table(self._entry(run))
        except (DamageFound, ObjectMissing) as error:
            with self._lock:
                self._lost_tables[run] = error
            raise
        with self._lock:
            self._tables[run] = table
        return table

    def name(self, pack: PackRef) -> str:
        """The pack's name within its cluster."""
        return pack_name(_label(pack.run), pack.pack)

    def _entry(self, run: int) -> RunEntry:
        entry = self._runs.get(run)
        if entry is None:
            raise ObjectDamaged(f"the manifest does not name run {_label(run)}, whose packs it needs")
        return entry

    def _keyhole(self, pack: PackRef) -> PackKeyhole:
        entry = self._entry(pack.run)
        if entry.pack.seq == pack.pack:
            return entry.pack
        try:
            record = self.table(pack.run).find(pack.pack)
        except (DamageFound, ObjectMissing):
            return self._keyhole_of_header(pack)
        if record is None:
            raise ObjectDamaged(f"the table of run {entry.run} does not name pack {pack.pack}", object=self.name(pack))
        return PackKeyhole(record.seq, record.generation, record.flags, record.salt)

    def _keyhole_of_header(self, pack: PackRef) -> PackKeyhole:
        """Where the table is lost: the pack itself says it, for one more request. Opening a chunk proves it."""
        name = self.name(pack)
        header = Header.decode(self._store.get_range(name, 0, HEADER_SIZE), name)
        if header.type is not ObjectType.PACK or header.clear_length:
            raise ObjectDamaged(f"{name} holds no pack", object=name)
        return PackKeyhole(pack.pack, header.generation, header.flags, header.salt)

    def _opener(self, pack: PackRef, keyhole: PackKeyhole) -> FrameOpener:
        scope = self._store.scope
        return FrameOpener(scope, ObjectType.PACK, self.name(pack), keyhole.generation, keyhole.flags, keyhole.salt)

    def _read_table(self, entry: RunEntry) -> RunTable:
        place: ChunkRef = entry.table
        name = self.name(place.pack_ref)
        stored = self._store.get_range(name, place.offset, place.stored)
        raw = self._opener(place.pack_ref, entry.pack).open(stored, place.chunk, place.raw, place.id16)
        table = RunTable.decode(raw, f"run table in {name}")
        if table.run != entry.run.number:
            raise ObjectDamaged(f"{name} holds the table of {_label(table.run)}, not of {entry.run}")
        return table


def _label(number: int) -> BackupLabel:
    try:
        return BackupLabel.from_number(number)
    except ValueInvalid:
        raise ObjectDamaged(f"{number} is no number of a run") from None
