"""Started as root: servers run as somebody else, who reaches what lies in root's own directories."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgrecall
from pgrecall.postgres.binaries import wheel_bindirs
from pgrecall.postgres.processes import is_alive
from pgrecall.postgres.users import find_user, owner_of, unreachable

NOBODY = find_user()
START_A_SERVER = """
    import json, os, sys, tempfile
    from pathlib import Path
    from pgrecall.postgres.binaries import find_binaries
    from pgrecall.postgres.scratch import ScratchServer
    server = ScratchServer(find_binaries(sys.argv[1]), Path(tempfile.mkdtemp()) / "pg").initdb().start()
    print(json.dumps({
        "uid": os.getuid(), "groups": os.getgroups(), "stage": os.environ["STAGE"],
        "pid": server.pid, "owner": server.value("select current_user"),
    }), flush=True)
"""


@pytest.fixture
def private_package(tmp_path: Path) -> Iterator[Path]:
    """Our package and a PostgreSQL where only root may enter; the directory to put into PYTHONPATH."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(pgrecall.__file__).parent, private / "pgrecall", ignore=ignore)
    installed = wheel_bindirs()[-1]
    package = installed.parent.parent
    shutil.copytree(installed.parent, private / "site" / package.name / installed.parent.name, symlinks=True)
    libraries = f"{package.name}.libs"  # found by the programs relative to their own place
    shutil.copytree(package.parent / libraries, private / "site" / libraries)
    yield private


def start_as_root(private: Path, code: str) -> subprocess.Popen[str]:
    program = f"""
        import sys
        from pathlib import Path
        from pgrecall.postgres.osuser import reexec_unprivileged
        site = Path({str(private / "site")!r})
        bindir = next(site.glob("*/*/bin"))
        sys.exit(reexec_unprivileged(["-c", {textwrap.dedent(code)!r}, str(bindir)], needs=[site]))
    """
    environment = {**os.environ, "PYTHONPATH": str(private), "PYTHONSAFEPATH": "1"}
    argv = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True, cwd=private)


def test_a_server_runs_as_an_unprivileged_user_from_roots_own_directory(private_package: Path) -> None:
    assert unreachable(NOBODY, [private_package / "pgrecall"])
    program = start_as_root(private_package, START_A_SERVER)
    output, _ = program.communicate(timeout=60)
    assert program.returncode == 0
    seen = json.loads(output)
    assert (seen["uid"], seen["owner"]) == (NOBODY.uid, "postgres")
    assert 0 not in seen["groups"]
    assert not is_alive(seen["pid"])
    assert not Path(seen["stage"]).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_no_file(private_package: Path, number: signal.Signals) -> None:
    program = start_as_root(private_package, START_A_SERVER + "\n    import time; time.sleep(60)")
    assert program.stdout is not None
    with program.stdout:
        seen = json.loads(program.stdout.readline())
        assert is_alive(seen["pid"]) and Path(seen["stage"]).exists()
        program.send_signal(number)
        assert program.wait(30) != 0
    assert not is_alive(seen["pid"])
    assert not Path(seen["stage"]).exists()


def in_a_child(code: str, private: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PYTHONPATH": str(private), "PYTHONSAFEPATH": "1"} if private else {})}
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, cwd="/")


def test_root_becomes_the_owner_of_a_directory_for_good(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY.uid, NOBODY.gid)
    code = f"""
        import os
        from pathlib import Path
        from pgrecall.postgres import users
        users.unreachable = lambda *_: []  # the checkout under test may itself lie where only root may enter
        users.become(users.owner_of(Path({str(tmp_path)!r})))
        assert os.getresuid() == ({NOBODY.uid},) * 3 and 0 not in os.getgroups()
        try:
            os.setuid(0)
        except PermissionError:
            print("no way back", os.environ["USER"])
    """
    done = in_a_child(code)
    assert done.stdout.strip() == f"no way back {NOBODY.name}", done.stderr


def test_becoming_an_owner_who_cannot_read_our_program_is_refused(private_package: Path) -> None:
    code = """
        from pgrecall.errors import Refused
        from pgrecall.postgres.users import become, find_user
        try:
            become(find_user())
        except Refused as refused:
            print(refused.message, refused.hint)
    """
    done = in_a_child(code, private_package)
    assert f"{NOBODY.name}, who owns the data directory, cannot read" in done.stdout, done.stderr
    assert "install pgrecall where every user can read it" in done.stdout


def test_the_owner_of_a_data_directory_is_named(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY.uid, NOBODY.gid)
    assert owner_of(tmp_path) == NOBODY
    os.chown(tmp_path, 54321, 54321)
    assert owner_of(tmp_path).name == "54321"
