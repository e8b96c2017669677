"""Owns filling packs: chunks go in, whole packs go to storage (format.md §3)."""

import itertools
from collections.abc import Callable

import zstandard

from pgrecall.domain.label import BackupLabel
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.columns import ChunkRef
from pgrecall.repository.envelope import ObjectWriter
from pgrecall.repository.frames import compressor
from pgrecall.repository.header import MAX_FRAMES, ObjectType
from pgrecall.repository.layout import pack_name
from pgrecall.repository.manifest import PackKeyhole
from pgrecall.repository.runtable import PackRecord
from pgrecall.repository.secrets import ChunkId
from pgrecall.repository.sending import PackSender
from pgrecall.storage.base import Buffer

PACK_TARGET = 32 * 1024 * 1024
_SLACK = 1024 * 1024
_MOST_FRAMES = MAX_FRAMES // 2  # the manifest's second copy is appended to whatever is open


class PackNumbers:
    """Hands out the seqs of one run's packs; safe to share between threads."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self.last = 0

    def __call__(self) -> int:
        seq = next(self._count)  # atomic
        self.last = max(self.last, seq)
        return seq


class PackBuilder:
    """Packs of one run, filled by one thread; each is stored, by one put, when it passes `target` bytes or at `close`.

    `next_seq` is shared by all builders of the run. A reference returned by `add` can be read back only after its pack
    was stored: nothing may be committed before `close`, and, where a `sender` stores the packs meanwhile, before its
    `finish`. One buffer is held and reused: of about target, or of `capacity` at first where little is expected.
    """

    def __init__(
        self,
        store: ClusterStore,
        run: BackupLabel,
        next_seq: Callable[[], int],
        *,
        target: int = PACK_TARGET,
        level: int = 3,
        padded: bool = False,
        capacity: int | None = None,
        sender: PackSender | None = None,
    ) -> None:
        self.run = run
        self.records: list[PackRecord] = []
        """The packs stored, or sent, so far."""
        self._number = run.number
        self._store = store
        self._next_seq = next_seq
        self._target = target
        self._capacity = target + _SLACK if capacity is None else capacity
        self._padded = padded
        self._sender = sender
        self._zstd: zstandard.ZstdCompressor = compressor(level)
        self._buffer: bytearray | None = None
        self._writer: ObjectWriter | None = None
        self._seq = 0

    @property
    def stored(self) -> int:
        """Bytes of packs stored so far."""
        return sum(record.size for record in self.records)

    def add(self, raw: Buffer, chunk_id: ChunkId | None = None) -> ChunkRef:
        """Store raw (not empty) as one chunk; chunk_id is its whole keyed hash (32 bytes) where the caller knows it."""
        reference = self.append(raw, chunk_id)
        if self._writer is not None and (self._writer.size >= self._target or len(self._writer.frames) == _MOST_FRAMES):
            self.close()
        return reference

    def append(self, raw: Buffer, chunk_id: ChunkId | None = None) -> ChunkRef:
        """Like `add`, but the pack stays open however large it becomes."""
        assert len(raw), "an empty chunk"
        frame = self._open().add(raw, chunk_id)
        return ChunkRef(self._number, self._seq, frame.number, frame.offset, frame.stored, frame.raw, frame.id[:16])

    def keyhole(self) -> PackKeyhole:
        """What opens the pack that is being filled (begun, if there is none)."""
        writer = self._open()
        return PackKeyhole(self._seq, writer.generation, writer.flags, writer.salt)

    @property
    def seq(self) -> int | None:
        """Number of the pack that is being filled."""
        return self._seq if self._writer is not None else None

    @property
    def filled(self) -> int:
        """Bytes in the pack that is being filled."""
        return self._writer.size if self._writer is not None else 0

    def close(self) -> None:
        """Store the pack that is being filled, if any; more may be added afterwards."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        data = writer.finish()
        assert writer.hash is not None
        if self._sender is not None:
            self._sender.send(writer.name, data, writer.buffer)
        else:
            self._buffer = writer.buffer
            self._store.put_built(writer.name, data)
        self.records.append(
            PackRecord(
                self._seq, writer.generation, writer.flags, len(writer.frames), writer.size, writer.salt, writer.hash
            )
        )

    def _open(self) -> ObjectWriter:
        if self._writer is None:
            self._seq = self._next_seq()
            self._writer = ObjectWriter(
                self._store.scope,
                ObjectType.PACK,
                pack_name(self.run, self._seq),
                capacity=self._capacity,
                buffer=self._buffer if self._sender is None else self._sender.buffer(),
                zstd=self._zstd,
                padded=self._padded,
            )
        return self._writer
