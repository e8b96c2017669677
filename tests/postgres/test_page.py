"""Page scans: C and numpy agree on every input, and both agree with PostgreSQL's own pg_checksums."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrecall.domain.lsn import Lsn
from pgrecall.postgres import crc, page, page_numpy
from pgrecall.postgres.accel import load_native
from pgrecall.postgres.scratch import ScratchServer
from tests.conftest import NewServer

NATIVE = load_native()
BACKENDS = [page_numpy] if NATIVE is None else [page_numpy, NATIVE]
NAMES = ["numpy", "native"][: len(BACKENDS)]
RELSEG_BLOCKS = 131072
FAR = 2**63

each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=NAMES)
with_native = pytest.mark.skipif(NATIVE is None, reason="the C module is not built")


def scan(
    backend: Any, data: bytes, *, size: int = 8192, first: int = 0, verify: bool = True, since: int = FAR
) -> tuple[list[int], tuple[int, ...]]:
    flags = np.full(len(data) // size + 1, 0xAA, np.uint8)
    found = backend.scan_pages(data, size, first, verify, since, flags)
    assert flags[-1] == 0xAA, "no flag is written beyond the last page"
    return flags[:-1].tolist(), found


def made_page(
    *,
    size: int = 8192,
    block: int = 0,
    lsn: int = 0x1_0000_0028,
    flags: int = 0,
    body: bytes = b"tuple",
    good: bool = True,
) -> bytearray:
    made = bytearray(size)
    made[0:8] = (lsn >> 32).to_bytes(4, sys.byteorder) + (lsn & 0xFFFFFFFF).to_bytes(4, sys.byteorder)
    for at, value in ((10, flags), (12, 28), (14, size - 16 - len(body)), (16, size - 16), (18, size | 4)):
        made[at : at + 2] = value.to_bytes(2, sys.byteorder)
    made[size - 16 - len(body) : size - 16] = body
    checksum = page.page_checksum(made, block) ^ (0 if good else 1)
    made[8:10] = checksum.to_bytes(2, sys.byteorder)
    return made


# twins ----------------------------------------------------------------------------------------------------------------
@st.composite
def page_bytes(draw: st.DrawFn) -> bytes:
    """Pages of every kind: good ones, with one byte changed, zero, nearly zero, and noise."""
    size = draw(st.sampled_from([1024, 8192]))
    kinds = draw(st.lists(st.sampled_from(["good", "flipped", "zero", "nearly zero", "noise", "unused"]), max_size=6))
    made = bytearray()
    for block, kind in enumerate(kinds):
        lsn = draw(st.integers(0, 2**64 - 1))
        one = made_page(
            size=size, block=block, lsn=lsn, flags=draw(st.sampled_from([0, 7, 8])), body=b"x" * (size // 9)
        )
        if kind == "flipped":
            one[draw(st.integers(0, size - 1))] ^= 1 << draw(st.integers(0, 7))
        elif kind == "unused":
            one[14:16] = b"\0\0"
        elif kind == "noise":
            one = bytearray(draw(st.randoms(use_true_random=False)).randbytes(size))
        elif "zero" in kind:
            one = bytearray(size)
            if kind == "nearly zero":
                one[draw(st.integers(0, size - 1))] = 1
        made += one
    return bytes(made) + bytes(draw(st.integers(0, 7)))


@with_native
@settings(deadline=None, max_examples=150)
@given(
    page_bytes(),
    st.sampled_from([1024, 2048, 8192, 32768]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.integers(0, 2**64 - 1),
)
def test_native_and_numpy_agree_on_every_page(data: bytes, size: int, first: int, verify: bool, since: int) -> None:
    answers = [scan(each, data, size=size, first=first, verify=verify, since=since) for each in BACKENDS]
    assert answers[0] == answers[1]


@with_native
@given(st.binary(min_size=1024, max_size=1024), st.integers(0, 2**32 - 1))
def test_native_and_numpy_agree_on_checksums(data: bytes, block: int) -> None:
    assert NATIVE is not None
    assert NATIVE.page_checksum(data, block) == page_numpy.page_checksum(data, block)


@with_native
@given(st.binary(max_size=300), st.integers(0, 20))
def test_native_and_python_agree_on_crc32c(data: bytes, cut: int) -> None:
    assert NATIVE is not None
    whole = crc.crc32c_python(data)
    assert NATIVE.crc32c(data) == whole
    assert NATIVE.crc32c(data[cut:], NATIVE.crc32c(data[:cut])) == whole
    assert crc.crc32c_python(data[cut:], crc.crc32c_python(data[:cut])) == whole


def test_crc32c_of_the_check_string_is_the_published_one() -> None:
    assert crc.crc32c(b"123456789") == crc.crc32c_python(b"123456789") == 0xE3069283  # RFC 3720, B.4


# meaning --------------------------------------------------------------------------------------------------------------
@each_backend
def test_a_good_page_has_no_flag_but_changed(backend: ModuleType) -> None:
    good = bytes(made_page(lsn=500))
    assert scan(backend, good, since=501) == ([0], (1, 0, 0, 0, 0, 500))
    assert scan(backend, good, since=500) == ([page.CHANGED], (1, 0, 0, 1, 0, 500))


@each_backend
def test_a_page_of_another_block_number_has_a_bad_checksum(backend: ModuleType) -> None:
    assert scan(backend, bytes(made_page(block=7)), first=8)[0] == [page.BAD_CHECKSUM]
    assert scan(backend, bytes(made_page(block=7)), first=8, verify=False)[0] == [0]


@each_backend
def test_a_page_of_zeros_is_new_and_changed(backend: ModuleType) -> None:
    assert scan(backend, bytes(8192)) == ([page.NEW | page.CHANGED], (1, 0, 1, 1, 0, 0))


@each_backend
@pytest.mark.parametrize("at", [0, 8, 12, 18, 24, 8191])
def test_a_page_that_says_it_is_new_must_be_all_zeros(backend: ModuleType, at: int) -> None:
    data = bytearray(8192)
    data[at] = 1
    assert scan(backend, bytes(data))[0][0] & (page.NEW | page.HEADER_BAD) == page.HEADER_BAD


@each_backend
@pytest.mark.parametrize(("at", "value"), [(10, 8), (12, 9000), (14, 8190), (16, 8188), (16, 8200)])
def test_a_header_that_the_server_refuses_is_bad(backend: ModuleType, at: int, value: int) -> None:
    data = made_page()
    data[at : at + 2] = value.to_bytes(2, sys.byteorder)
    data[8:10] = page.page_checksum(data, 0).to_bytes(2, sys.byteorder)
    assert scan(backend, bytes(data))[0] == [page.HEADER_BAD]


@each_backend
def test_block_numbers_count_over_the_whole_call(backend: ModuleType) -> None:
    first = RELSEG_BLOCKS * 3
    data = b"".join(bytes(made_page(block=first + number)) for number in range(300))  # more than one numpy block
    assert scan(backend, data, first=first)[1][1] == 0


@each_backend
def test_bytes_after_the_last_whole_page_are_left_alone(backend: ModuleType) -> None:
    assert scan(backend, bytes(made_page()) + bytes(8191)) == ([0], (1, 0, 0, 0, 0, 0x1_0000_0028))
    assert scan(backend, b"") == ([], (0, 0, 0, 0, 0, 0))


@each_backend
@pytest.mark.parametrize("size", [0, -8192, 512, 8191, 65536])
def test_page_sizes_that_no_server_has_are_refused(backend: ModuleType, size: int) -> None:
    with pytest.raises(ValueError, match="page size"):
        backend.scan_pages(bytes(8192), size, 0, True, 0, np.zeros(9, np.uint8))


@each_backend
def test_too_few_flags_are_refused(backend: ModuleType) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        backend.scan_pages(bytes(16384), 8192, 0, True, 0, np.zeros(1, np.uint8))
    read_only = np.zeros(2, np.uint8)
    read_only.flags.writeable = False
    with pytest.raises((ValueError, BufferError, TypeError)):
        backend.scan_pages(bytes(16384), 8192, 0, True, 0, read_only)


@each_backend
@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 5000, 600_000])
def test_all_zero_sees_a_one_at_every_end(backend: ModuleType, length: int) -> None:
    data = bytearray(length)
    assert backend.all_zero(data)
    for at in {0, length // 2, length - 1} if length else ():
        data[at] = 1
        assert not backend.all_zero(data)
        data[at] = 0


def test_the_summary_names_its_counts() -> None:
    out = np.zeros(3, np.uint8)
    data = bytes(made_page(good=False)) + bytes(8192) + bytes(made_page(block=2, lsn=77))
    found = page.scan_pages(data, page_size=8192, first_block=0, verify=True, since=Lsn(78), out=out)
    assert found == page.PageSummary(3, 1, 1, 2, 0, Lsn(0x1_0000_0028))
    assert out.tolist() == [page.BAD_CHECKSUM | page.CHANGED, page.NEW | page.CHANGED, 0]


def test_numpy_can_be_asked_for() -> None:
    code = "from pgrecall.postgres.page import IMPLEMENTATION as i; import sys; sys.exit(i != 'numpy')"
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PGRECALL_PURE": "1"}, check=False).returncode
        == 0
    )


@with_native
def test_scans_of_two_threads_share_one_buffer() -> None:
    assert NATIVE is not None
    data = b"".join(bytes(made_page(block=number)) for number in range(256))
    found: list[tuple[int, ...]] = []
    work: Callable[[], None] = lambda: found.append(scan(NATIVE, data)[1])  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


# real clusters --------------------------------------------------------------------------------------------------------
RELATION_FILE = re.compile(r"(\d+)(?:_(?:fsm|vm|init))?(?:\.(\d+))?\Z")


def relation_files(pgdata: Path) -> list[tuple[Path, int]]:
    """(file, block number of its first page)"""
    found = []
    for path in [*pgdata.glob("base/*/*"), *pgdata.glob("global/*")]:
        name = RELATION_FILE.match(path.name)
        if name:
            found.append((path, int(name[2] or 0) * RELSEG_BLOCKS))
    return found


def bad_blocks(pgdata: Path, backend: Any) -> set[tuple[Path, int]]:
    """What our scan says is wrong, as pg_checksums counts: block number in the relation."""
    wrong = set()
    for path, first in relation_files(pgdata):
        flags, found = scan(backend, path.read_bytes(), first=first)
        assert found[4] == 0, f"{path} has headers that the server would refuse"
        wrong |= {(path, first + number) for number, flag in enumerate(flags) if flag & page.BAD_CHECKSUM}
    return wrong


def pg_checksums_says(server: ScratchServer) -> set[tuple[Path, int]]:
    done = server.run("pg_checksums", "--check", "-D", str(server.pgdata), check=False)
    return {
        (Path(path), int(block))
        for path, block in re.findall(r'checksum verification failed in file "(.+)", block (\d+):', done.stderr)
    }


def a_cluster_with_tables(server: ScratchServer) -> Path:
    server.execute(
        "create table wide (id int primary key, filler text)",
        "insert into wide select n, repeat(md5(n::text), 40) from generate_series(1, 3000) n",
        "create index on wide using gin (to_tsvector('simple', left(filler, 20)))",
        "create unlogged table short as select generate_series(1, 500) n",
        "create sequence numbers",
        "delete from wide where id % 3 = 0",
        "vacuum wide",
        "checkpoint",
    )
    path = server.pgdata / str(server.value("select pg_relation_filepath('wide')"))
    server.stop()
    return path


@each_backend
def test_damage_is_found_at_the_block_that_pg_checksums_names(new_server: NewServer, backend: ModuleType) -> None:
    server = new_server()
    table = a_cluster_with_tables(server)
    assert bad_blocks(server.pgdata, backend) == pg_checksums_says(server) == set()

    with table.open("r+b") as file:
        for at in (5 * 8192 + 4000, 11 * 8192 + 8191, 17 * 8192 + 8):  # a tuple, the last byte, the checksum itself
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x10]))
    wrong = bad_blocks(server.pgdata, backend)
    assert wrong == {(table, 5), (table, 11), (table, 17)}
    assert wrong == pg_checksums_says(server)


@pytest.mark.newest
def test_a_second_segment_counts_its_blocks_from_the_relations_start(new_server: NewServer) -> None:
    server = new_server()
    table = a_cluster_with_tables(server)
    second = table.with_name(table.name + ".1")
    second.write_bytes(bytes(made_page(block=RELSEG_BLOCKS)) + bytes(made_page(block=1)))
    expected = {(second, RELSEG_BLOCKS + 1)}
    assert bad_blocks(server.pgdata, BACKENDS[-1]) == expected
    assert {(path, RELSEG_BLOCKS + block) for path, block in pg_checksums_says(server)} == expected
