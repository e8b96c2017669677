"""Running programs as a user, on a stage, without leaving anything: what can be tried without being root."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pgrecall.errors import Refused, UsageError
from pgrecall.postgres.osuser import reexec_unprivileged, run_as
from pgrecall.postgres.processes import is_alive
from pgrecall.postgres.staging import Stage, environment_for, link_tree, staged
from pgrecall.postgres.users import OsUser, become, find_user, is_root, owner_of, unreachable

ME = OsUser(str(os.getuid()), os.getuid(), os.getgid())
not_as_root = pytest.mark.skipif(is_root(), reason="root may do everything")


def python_as_me(tmp_path: Path, code: str) -> int:
    return run_as(ME, [sys.executable, "-c", textwrap.dedent(code)], dict(os.environ), directory=tmp_path)


def supervised(code: str) -> str:
    """A program that runs `code` by run_as as itself."""
    return textwrap.dedent(f"""
        import os, sys
        from pathlib import Path
        from pgrecall.postgres.osuser import run_as, terminable
        from pgrecall.postgres.users import OsUser
        me = OsUser("me", os.getuid(), os.getgid())
        with terminable():
            argv = [sys.executable, "-c", {textwrap.dedent(code)!r}]
            sys.exit(run_as(me, argv, dict(os.environ), directory=Path.cwd()))
    """)


@pytest.mark.parametrize("status", [0, 1, 77])
def test_the_exit_status_comes_back(tmp_path: Path, status: int) -> None:
    assert python_as_me(tmp_path, f"raise SystemExit({status})") == status


def test_death_by_a_signal_comes_back_as_a_shell_says_it(tmp_path: Path) -> None:
    assert python_as_me(tmp_path, "import os; os.kill(os.getpid(), 9)") == 128 + 9


def test_a_program_that_cannot_run_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_as(ME, [str(tmp_path / "missing")], {}, directory=tmp_path) == 127
    assert "cannot run" in capfd.readouterr().err


def test_what_the_program_left_running_is_killed(tmp_path: Path) -> None:
    code = """
        import subprocess
        left = subprocess.Popen(["sleep", "60"], start_new_session=True)
        print(left.pid, flush=True)
    """
    done = subprocess.run([sys.executable, "-c", supervised(code)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not is_alive(int(done.stdout))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_program(tmp_path: Path, number: signal.Signals) -> None:
    code = f"""
        import signal, sys, time
        signal.signal({number.value}, lambda *_: sys.exit(42))
        print("ready", flush=True)
        time.sleep(60)
    """
    program = subprocess.Popen([sys.executable, "-c", supervised(code)], stdout=subprocess.PIPE, cwd=tmp_path)
    assert program.stdout is not None
    with program.stdout:
        assert program.stdout.readline() == b"ready\n"
        program.send_signal(number)
        assert program.wait(20) == 42


def test_the_program_ends_when_we_are_killed(tmp_path: Path) -> None:
    code = """
        import os, time
        print(os.getpid(), flush=True)
        time.sleep(60)
    """
    program = subprocess.Popen([sys.executable, "-c", supervised(code)], stdout=subprocess.PIPE, cwd=tmp_path)
    assert program.stdout is not None
    with program.stdout:
        child = int(program.stdout.readline())
        program.kill()
        program.wait()
        assert program.stdout.read() == b""  # its end of the pipe is closed: it is going
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline, "the program outlived us"


def test_a_linked_tree_has_the_content_and_can_be_read_by_all(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "private").mkdir(parents=True, mode=0o700)
    (source / "private/secret.py").write_text("x = 1")
    (source / "private/secret.py").chmod(0o600)
    (source / "shared").write_text("y")
    (source / "shared").chmod(0o644)
    (source / "open").write_text("anyone may write")
    (source / "open").chmod(0o666)
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o700)
    (source / "link").symlink_to("shared")
    copy = tmp_path / "copy"
    link_tree(source, copy)
    assert (copy / "private").stat().st_mode & 0o777 == 0o755
    assert (copy / "private/secret.py").stat().st_mode & 0o777 == 0o644
    assert (copy / "run").stat().st_mode & 0o777 == 0o755
    assert (copy / "link").readlink() == Path("shared")
    assert (copy / "shared").samefile(source / "shared")
    assert not (copy / "open").samefile(source / "open")  # a write to the stage must not reach the source
    assert (source / "private/secret.py").stat().st_mode & 0o777 == 0o600


def test_nothing_moves_when_the_user_reaches_everything(tmp_path: Path) -> None:
    tree = tmp_path / "tool" / "bin"
    tree.mkdir(parents=True)
    with staged(ME, [tree]) as stage:
        assert stage.moved == {}
        assert stage.python == Path(sys.prefix) / "bin" / Path(sys.executable).name
        root = stage.root
    assert not root.exists()


def test_the_environment_keeps_what_is_not_of_the_callers_home(tmp_path: Path) -> None:
    stage = Stage(tmp_path, ME)
    given = {"CI": "true", "XDG_CACHE_HOME": "/private/cache", "MAKEFLAGS": "w", "HOME": "/private", "PATH": "/bin"}
    made = environment_for(stage, given)
    assert (made["CI"], made["HOME"], made["TMPDIR"]) == ("true", str(tmp_path / "tmp"), str(tmp_path / "tmp"))
    assert "XDG_CACHE_HOME" not in made and "MAKEFLAGS" not in made
    assert made["PATH"].endswith(":/bin")


def test_arguments_follow_what_moved(tmp_path: Path) -> None:
    stage = Stage(tmp_path, ME, {Path("/hidden/pg"): tmp_path / "need-0"})
    assert stage.translate_argument("--postgres=/hidden/pg/bin") == f"--postgres={tmp_path}/need-0/bin"
    assert stage.translate_argument("/hidden/pg/bin") == f"{tmp_path}/need-0/bin"
    assert stage.translate_argument("--size=/elsewhere") == "--size=/elsewhere"
    assert stage.translate_argument("/hidden/pgsql") == "/hidden/pgsql"


@not_as_root
def test_what_a_user_cannot_read_is_found_by_trying(tmp_path: Path) -> None:
    fine, hidden = tmp_path / "fine", tmp_path / "hidden"
    for tree in (fine, hidden):
        (tree / "deep").mkdir(parents=True)
        (tree / "deep/file").touch()
    (hidden / "deep/file").chmod(0)
    assert unreachable(ME, [fine, hidden, tmp_path / "missing"]) == [hidden, tmp_path / "missing"]


@not_as_root
def test_becoming_another_user_without_being_root_is_refused_with_the_command_that_works() -> None:
    with pytest.raises(Refused) as refused:
        become(owner_of(Path("/")))
    assert refused.value.hint is not None and "sudo -u root" in refused.value.hint


def test_becoming_who_we_are_changes_nothing() -> None:
    become(ME)
    assert os.getuid() == ME.uid


def test_root_and_unknown_users_are_not_unprivileged_users() -> None:
    with pytest.raises(UsageError, match="PostgreSQL does not run as root"):
        find_user("root")
    with pytest.raises(UsageError, match="no user no-such-user"):
        find_user("no-such-user")
    assert find_user().uid != 0


@not_as_root
def test_who_is_not_root_goes_on_in_this_process() -> None:
    assert reexec_unprivileged(["-c", "raise SystemExit(9)"]) is None
