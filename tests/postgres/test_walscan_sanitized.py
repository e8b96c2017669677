"""The C module under AddressSanitizer and UndefinedBehaviorSanitizer, fed with noise and with mangled WAL and pages."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src" / "pgrecall" / "postgres"
FLAGS = ["-O1", "-g", "-fPIC", "-shared", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ROUNDS = 10_000

FUZZ = """
import importlib.machinery, importlib.util, random, struct, sys
path, rounds = sys.argv[1], int(sys.argv[2])
loader = importlib.machinery.ExtensionFileLoader("pgrecall.postgres._native", path)
native = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
loader.exec_module(native)
from tests.support.walbuilder import WalBuilder
ORIGIN, TOPLEVEL = b"\\xfd\\0\\0", b"\\xfc\\0\\0\\0\\0"
rng = random.Random(20261120)
for round in range(rounds):
    page = rng.choice([1024, 2048])
    wal = WalBuilder(page_size=page, start=rng.choice([0, 1 << 20, 3 << 40]))
    for _ in range(rng.randrange(6)):
        before = rng.choice([b"", ORIGIN * rng.randrange(1, 500), TOPLEVEL, b"\\xfe\\xff\\xff\\xff\\xff"])
        main = rng.randbytes(rng.choice([0, 8, 72, 1500]))
        wal.append(rmid=rng.choice([0, 1, 5]), info=rng.randrange(256), main=main, before_main=before)
    data = bytearray(wal.take(len(wal.data) // page + 1))
    for _ in range(rng.randrange(4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if round % 10 == 0:
        data = bytearray(rng.randbytes(len(data)))
        flags, rest = rng.randrange(16) | 2, rng.randrange(1 << 32)
        struct.pack_into("=HHIQI4xQII", data, 0, 0xD118, flags, 1, wal.start, rest, 5, 9, page)
    exact = bytes(data)  # so that one byte too far is outside the allocation
    native.scan_wal(exact, wal.start, page)
    size = rng.choice([1024, 8192])
    noise = rng.choice([exact, bytes(rng.randrange(20000)), rng.randbytes(rng.randrange(20000))])
    flags = bytearray(len(noise) // size)
    native.scan_pages(memoryview(noise), size, rng.randrange(1 << 32), bool(round & 1), rng.randrange(1 << 64), flags)
    odd = noise[rng.randrange(9):]
    native.crc32c(odd, rng.randrange(1 << 32)), native.all_zero(odd)
print("survived")
"""


@pytest.mark.slow
def test_no_input_makes_the_c_module_touch_foreign_memory(tmp_path: Path) -> None:
    library = tmp_path / "_native.abi3.so"
    include = sysconfig.get_path("include")
    sources = [str(path) for path in SOURCES.glob("_native*.c")]
    try:
        asan = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
        subprocess.run(["gcc", *FLAGS, f"-I{include}", *sources, "-o", str(library)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no compiler with sanitizers here: {error}")
    environment = {
        **os.environ,
        "LD_PRELOAD": asan.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(SOURCES.parents[1]), str(Path(__file__).parents[2])]),
        "PYTHONMALLOC": "malloc",
        "PGRECALL_PURE": "1",  # the Python side must not load the other build of the module
    }
    argv = [sys.executable, "-c", FUZZ, str(library), str(ROUNDS)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr[-5000:]
