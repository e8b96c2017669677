"""A campaign: every object of a repository is spoiled in every way. Verify names it, and reading is never wrong."""

import itertools
import random
import zlib
from collections.abc import Callable, Iterator

import pytest

from pgrecall.clock import ManualClock
from pgrecall.errors import PgrecallError
from pgrecall.observe.reporter import Silent
from pgrecall.repository import agefile
from pgrecall.repository.catalog import Catalog
from pgrecall.repository.layout import parse_root_wrap_key
from pgrecall.repository.recovery import open_manifest
from pgrecall.services.verify.objects import kind_of
from pgrecall.services.verify.report import Kind, VerifyReport
from pgrecall.services.verify.run import VerifyRequest, verify
from tests.support.memory import MemoryStorage
from tests.support.small_repository import SmallRepository, build
from tests.support.tiny_engine import restore

CLOCK = ManualClock("2026-11-21T00:00:00Z")
CLUSTER = "clusters/main/"
# What nothing else speaks of: the newest WAL of a timeline, a fork, a mark, one of several wraps, a run that was killed
# before it stored anything. Losing these loses no backup, and only a memory outside the repository could notice.
NOBODY_MISSES = ("~", "/bad/", "0000000300", "keys/1/age", "keys/1/pass", "T100003Z-incr/claim")


@pytest.fixture(scope="module", params=[True, False], ids=["sealed", "unsealed"])
def small(request: pytest.FixtureRequest) -> Iterator[SmallRepository]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agefile, "WORK_FACTOR", 4)
        yield build(sealed=request.param)


def look(small: SmallRepository, storage: MemoryStorage) -> VerifyReport:
    asked = VerifyRequest(secrets=small.secrets, mark=False)
    return verify(asked, small.store(storage), clock=CLOCK, reporter=Silent())


def named(report: VerifyReport) -> set[str]:
    """Keys of what verify found wrong."""
    names = [each.object for each in report.findings if each.kind is not Kind.NOTE]
    return {name if is_shared(name) else CLUSTER + name for name in names}


def is_shared(name: str) -> bool:
    return name == "README.txt" or name.startswith("format/") or parse_root_wrap_key(name) is not None


def read_all(small: SmallRepository, storage: MemoryStorage, report: VerifyReport) -> None:
    """Each backup gives its own bytes or an error with a name, and verify knew which of the two."""
    store = small.store(storage)
    catalog = Catalog(store)
    told = {each.label: each for each in report.backups}
    for label, tree in small.trees.items():
        record = catalog.get(label)
        if record is None or record.commit is None:
            assert label not in told
            continue
        try:
            reader, _ = open_manifest(store, label, record.commit)
            found = restore(reader)
        except PgrecallError:
            assert told[label].lost_files or told[label].problems
            continue
        assert found == tree
        assert not told[label].lost_files


def spoil(small: SmallRepository, key: str, how: Callable[[bytes, random.Random], bytes | None], seed: int) -> None:
    """Spoil one object, and look."""
    storage = small.storage()
    spoiled = how(small.objects[key], random.Random(zlib.crc32(f"{key} {seed}".encode())))
    if spoiled is None:
        del storage.objects[key]
    else:
        storage.objects[key] = spoiled
    report = look(small, storage)
    read_all(small, storage, report)
    assert named(report) == {key}, report.findings


def flip_a_bit(data: bytes, dice: random.Random) -> bytes:
    spoiled = bytearray(data)
    spoiled[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(spoiled)


def cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data))]


def append(data: bytes, dice: random.Random) -> bytes:
    return data + dice.randbytes(dice.choice([1, 16, 4096]))


def append_itself(data: bytes, dice: random.Random) -> bytes:
    """Its end is the right footer."""
    return data + data


def forget(data: bytes, dice: random.Random) -> bytes:
    """A block of a lost sector comes back as zeros."""
    at = dice.randrange(len(data))
    zeros = bytes(min(512, len(data) - at))
    changed = data[:at] + zeros + data[at + len(zeros) :]
    return changed if changed != data else flip_a_bit(data, dice)


def delete(data: bytes, dice: random.Random) -> None:
    return None


@pytest.mark.parametrize("how", [flip_a_bit, cut, append, append_itself, forget])
def test_a_spoiled_object_is_named_and_no_other(
    small: SmallRepository, how: Callable[[bytes, random.Random], bytes | None]
) -> None:
    for key in small.objects:
        spoil(small, key, how, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 22))
def test_a_spoiled_object_is_named_whatever_the_bit(small: SmallRepository, seed: int) -> None:
    for key in small.objects:
        for how in (flip_a_bit, cut, forget):
            spoil(small, key, how, seed)


def test_a_lost_object_is_named_if_anything_speaks_of_it(small: SmallRepository) -> None:
    for key in small.objects:
        missed = not any(part in key for part in NOBODY_MISSES)
        if missed:
            spoil(small, key, delete, seed=1)


def test_objects_in_each_others_place_are_both_named(small: SmallRepository) -> None:
    """Whoever can write the storage can swap two objects, or serve one twice."""
    for one, two in neighbours(small):
        storage = small.storage()
        storage.objects[one], storage.objects[two] = small.objects[two], small.objects[one]
        report = look(small, storage)
        read_all(small, storage, report)
        assert named(report) == {one, two}, report.findings
        storage.objects[two] = small.objects[two]
        report = look(small, storage)
        read_all(small, storage, report)
        assert named(report) == {one}, report.findings


def neighbours(small: SmallRepository) -> Iterator[tuple[str, str]]:
    """Pairs of objects of one type."""
    by_kind: dict[object, list[str]] = {}
    for key in small.objects:
        kind = (parse_root_wrap_key(key) and "wrap") or kind_of(key.removeprefix(CLUSTER))
        by_kind.setdefault(kind, []).append(key)
    for keys in by_kind.values():
        yield from itertools.pairwise(keys)
