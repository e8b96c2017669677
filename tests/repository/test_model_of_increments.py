"""A model: whatever happens to files between backups, every backup of the history gives back its own bytes."""

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgrecall.domain.label import BackupKind
from pgrecall.repository.manifest_reader import ManifestReader
from tests.support.tiny_engine import PAGE, TinyEngine, label, make_store, restore

SMALL, LARGE = b"base/5/1259", b"base/5/16384"

pages = st.integers(0, 150)
steps = st.one_of(
    st.tuples(st.just("write"), st.sampled_from([SMALL, LARGE]), st.lists(pages, min_size=1, max_size=20)),
    st.tuples(st.just("zero"), st.sampled_from([SMALL, LARGE]), st.lists(pages, min_size=1, max_size=20)),
    st.tuples(st.just("resize"), st.sampled_from([SMALL, LARGE]), st.lists(pages, min_size=1, max_size=1)),
    st.tuples(st.just("odd"), st.sampled_from([SMALL, LARGE]), st.lists(pages, min_size=1, max_size=1)),
    st.tuples(st.just("drop"), st.sampled_from([SMALL, LARGE]), st.just([0])),
)
history = st.lists(st.lists(steps, max_size=4), min_size=1, max_size=6)


def apply(tree: dict[bytes, bytes], step: tuple[str, bytes, list[int]], seed: random.Random) -> None:
    action, path, numbers = step
    content = bytearray(tree.get(path, b""))
    if action == "resize":
        size = numbers[0] * PAGE
        content = content[:size].ljust(size, b"\1")
    elif action == "odd":  # a file whose size is no whole number of pages
        content = content[: numbers[0] * PAGE] + b"tail"
    elif action == "drop":
        tree.pop(path, None)
        return
    else:
        for number in numbers:
            page = bytes(PAGE) if action == "zero" else seed.randbytes(32) * (PAGE // 32)
            if (number + 1) * PAGE <= len(content):
                content[number * PAGE : (number + 1) * PAGE] = page
    tree[path] = bytes(content)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=history, sealed=st.booleans(), know_digests=st.booleans(), seed=st.integers(0, 1000))
def test_every_backup_of_a_history_gives_back_its_own_bytes(
    history: list[list[tuple[str, bytes, list[int]]]], sealed: bool, know_digests: bool, seed: int
) -> None:
    store = make_store(sealed=sealed)
    engine = TinyEngine(store, target=64 << 10, know_digests=know_digests)
    rng = random.Random(seed)
    tree = {SMALL: rng.randbytes(PAGE) * 9, LARGE: rng.randbytes(PAGE) * 140}
    parent = label(0)
    snapshots = {parent: dict(tree)}
    engine.back_up(parent, tree)
    for number, changes in enumerate(history, 1):
        for step in changes:
            apply(tree, step, rng)
        run = label(number, BackupKind.INCR)
        engine.back_up(run, tree, parent, snapshots[parent])
        snapshots[run] = dict(tree)
        parent = run
    for run, expected in snapshots.items():
        assert restore(ManifestReader.open(store, run)) == expected


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=history, seed=st.integers(0, 1000))
def test_a_backup_needs_only_the_packs_that_its_commit_calls_live(
    history: list[list[tuple[str, bytes, list[int]]]], seed: int
) -> None:
    store = make_store()
    engine = TinyEngine(store, target=64 << 10)
    rng = random.Random(seed)
    tree = {SMALL: rng.randbytes(PAGE) * 9, LARGE: rng.randbytes(PAGE) * 140}
    parent, before = label(0), dict(tree)
    written = engine.back_up(parent, tree)
    for number, changes in enumerate(history, 1):
        for step in changes:
            apply(tree, step, rng)
        run = label(number, BackupKind.INCR)
        written = engine.back_up(run, tree, parent, before)
        parent, before = run, dict(tree)
    reader = ManifestReader.open(store, parent)
    needed = {store.key(reader.packs.name(pack)) for pack in written.live}
    storage = store.storage
    for info in list(storage.list(store.key("packs/"))):
        if info.key not in needed:
            storage.delete(info.key)
    assert restore(ManifestReader.open(store, parent)) == before
