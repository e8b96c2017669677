"""A model of spans: whatever happens to a file between backups, the parent's bytes and what is stored make the file."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgrecall.postgres.page import BAD_CHECKSUM, CHANGED, HEADER_BAD
from pgrecall.repository.columns import RANGE_SIZE, ChunkRef, PackRef
from pgrecall.services.backup.spans import Flags, ParentSpan, SpanResult, SpanStore

KEY = bytes(range(32))
PAGE = 8192
PAGES_IN_RANGE = RANGE_SIZE // PAGE
MOST_PAGES = 3 * PAGES_IN_RANGE + 5
CHUNKS_IN_PACK = 3

Step = tuple[str, list[int], int]
"""What happens, to which pages, with which value."""


@dataclass
class Shelf:
    """Chunks of all runs by their place; a few chunks make a pack, so that packs can go bad one by one."""

    run: int = 1
    chunks: dict[tuple[int, int, int], bytes] = field(default_factory=dict)
    bad: set[PackRef] = field(default_factory=set)

    def add(self, raw: memoryview | bytes, chunk_id: bytes) -> ChunkRef:
        assert 0 < len(raw) <= RANGE_SIZE
        assert chunk_id == blake3(raw, key=KEY).digest()
        pack, chunk = divmod(len([place for place in self.chunks if place[0] == self.run]), CHUNKS_IN_PACK)
        self.chunks[self.run, pack + 1, chunk] = bytes(raw)
        return ChunkRef(self.run, pack + 1, chunk, 96, len(raw), len(raw), chunk_id[:16])

    def assemble(self, result: SpanResult) -> bytes:
        """The span's bytes, with every digest proven, and from no bad pack."""
        out = bytearray()
        for row in result.extents.rows.tolist():
            start, length, run, pack, chunk, _, _, _, place, kind, _ = row
            assert start == len(out)
            if kind == 1:
                assert PackRef(run, pack) not in self.bad
                out += self.chunks[run, pack, chunk][place : place + length]
            else:
                out += bytes(length)
        digests = [blake3(out[at : at + RANGE_SIZE], key=KEY).digest()[:16] for at in range(0, len(out), RANGE_SIZE)]
        assert result.ranges.digests() == digests
        return bytes(out)


@dataclass
class ModelFile:
    """Pages with truthful flags: written since the parent's start, or found corrupt."""

    pages: list[bytes]
    """8 bytes each, of which the page is made."""
    tail: bytes = b""
    touched: set[int] = field(default_factory=set)
    corrupt: set[int] = field(default_factory=set)

    @property
    def content(self) -> bytes:
        return b"".join(page * (PAGE // 8) for page in self.pages) + self.tail

    def flags(self) -> Flags:
        flags = np.zeros(len(self.pages), np.uint8)
        for index, page in enumerate(self.pages):
            if index in self.corrupt:
                flags[index] |= BAD_CHECKSUM if index % 2 else HEADER_BAD
            elif index in self.touched or page == bytes(8):
                flags[index] |= CHANGED
        return flags

    def apply(self, step: Step) -> None:
        action, numbers, value = step
        made = bytes(8) if action == "zero" else value.to_bytes(8, "little")
        if action == "resize":
            size = numbers[0] % (MOST_PAGES + 1)
            self.touched |= set(range(len(self.pages), size))
            self.corrupt &= set(range(size))
            self.pages = self.pages[:size] + [made] * (size - len(self.pages))
            self.tail = b""
        elif action == "tail":
            self.tail = b"t" * (1 + value % (PAGE - 1))
        else:
            for index in (each for each in numbers if each < len(self.pages)):
                if action == "corrupt":
                    self.pages[index] = made
                    self.corrupt.add(index)
                    continue
                if action != "touch":
                    self.pages[index] = made
                    self.corrupt.discard(index)
                self.touched.add(index)


steps = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "touch", "zero", "corrupt", "resize", "tail"]),
        st.lists(st.integers(0, MOST_PAGES - 1), min_size=1, max_size=6),
        st.integers(1, 40),
    ),
    max_size=5,
)
backups = st.lists(st.tuples(steps, st.booleans(), st.sampled_from([0, 0, 0, 1, 2])), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pages=st.lists(st.integers(0, 40), max_size=MOST_PAGES), backups=backups)
def test_the_parents_bytes_and_what_is_stored_always_make_the_file(
    pages: list[int], backups: Sequence[tuple[list[Step], bool, int]]
) -> None:
    shelf = Shelf()
    file = ModelFile([number.to_bytes(8, "little") for number in pages])
    store = SpanStore(shelf, KEY, page_size=PAGE)
    content = file.content
    span = store.store_whole(memoryview(content))
    store.flush()
    stored = span.result()
    assert shelf.assemble(stored) == content
    for run, (changes, trusted, lost) in enumerate(backups, 2):
        shelf.run = run
        for step in changes:
            file.apply(step)
        shelf.bad |= set(sorted(stored.extents.packs())[:lost])
        store = SpanStore(shelf, KEY, page_size=PAGE, bad_packs=frozenset(shelf.bad))
        parent = ParentSpan(stored.extents, stored.ranges.digests())
        flags = file.flags() if trusted else None
        content = file.content
        span = store.store_changed(memoryview(content), parent, path="base/5/1", offset=0, flags=flags)
        store.flush()
        stored = span.result()
        assert shelf.assemble(stored) == content
        counts = store.counts
        assert counts.unexplained == []
        assert counts.read == len(content) == counts.unchanged + counts.zeros + counts.shared + counts.stored
        file.touched.clear()


def test_a_page_that_differs_without_a_new_lsn_is_stored_and_named() -> None:
    shelf = Shelf()
    file = ModelFile([bytes([1]) * 8] * 40)
    store = SpanStore(shelf, KEY, page_size=PAGE)
    span = store.store_whole(memoryview(file.content))
    store.flush()
    parent = ParentSpan(span.result().extents, span.result().ranges.digests())
    file.pages[20] = bytes([2]) * 8
    for flags, named in ((file.flags(), [("base/5/1", RANGE_SIZE)]), (None, [])):
        store = SpanStore(shelf, KEY, page_size=PAGE)
        span = store.store_changed(memoryview(file.content), parent, path="base/5/1", offset=0, flags=flags)
        store.flush()
        assert store.counts.unexplained == named
        assert shelf.assemble(span.result()) == file.content


def test_one_changed_page_costs_one_page() -> None:
    shelf = Shelf()
    file = ModelFile([number.to_bytes(8, "big") for number in range(1, 41)])
    store = SpanStore(shelf, KEY, page_size=PAGE)
    span = store.store_whole(memoryview(file.content))
    store.flush()
    parent = ParentSpan(span.result().extents, span.result().ranges.digests())
    file.apply(("write", [17], 99))
    store = SpanStore(shelf, KEY, page_size=PAGE)
    span = store.store_changed(memoryview(file.content), parent, path="x", offset=0, flags=file.flags())
    store.flush()
    assert store.counts.stored == PAGE
    assert shelf.assemble(span.result()) == file.content
