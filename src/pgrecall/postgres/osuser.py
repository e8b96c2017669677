"""Running a program as an unprivileged user, because PostgreSQL refuses root, and leaving nothing of it behind."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from pgrecall.postgres.processes import descendants, is_alive
from pgrecall.postgres.staging import environment_for, staged
from pgrecall.postgres.users import OsUser, drop_privileges, find_user, is_root

PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
PR_SET_CHILD_SUBREAPER = 36
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CANNOT_RUN = 127


def reexec_unprivileged(
    python_argv: Sequence[str], *, needs: Iterable[Path] = (), user: str | None = None, keep: bool = False
) -> int | None:
    """Started as root: run this interpreter again, with these arguments, as an unprivileged user; its exit status.

    None if we are not root: the caller goes on by itself. Interpreter, package and `needs` are staged where that user
    can reach them; processes and files of the run are gone afterwards, also when interrupted, unless `keep` says
    otherwise. Arguments that name a staged path are translated.
    """
    if not is_root():
        return None
    account = find_user(user)
    with terminable(), staged(account, needs, keep=keep) as stage:
        argv = [str(stage.python), *(stage.translate_argument(argument) for argument in python_argv)]
        environment = environment_for(stage, dict(os.environ))
        return run_as(account, argv, environment, directory=stage.temporary, keep=keep)


def run_as(
    user: OsUser, argv: Sequence[str], environment: Mapping[str, str], *, directory: Path, keep: bool = False
) -> int:
    """Run a program as user and wait: its exit status, 128 + n if signal n ended it.

    SIGINT, SIGTERM and SIGHUP are passed on. Whatever the program leaves running is killed, unless `keep`. If we are
    killed ourselves, the program gets SIGTERM.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the program become ours, so that none is lost
    before = set(descendants(os.getpid()))
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()  # Ctrl-C reaches it once, from us
            if os.geteuid() != user.uid:
                drop_privileges(user)
            _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # after the change of user, which clears it
            if os.getppid() == parent:
                os.chdir(directory)
                os.execve(argv[0], list(argv), dict(environment))
        except OSError as error:
            sys.stderr.write(f"cannot run {argv[0]} as {user.name}: {error}\n")
            sys.stderr.flush()
        finally:
            os._exit(CANNOT_RUN)
    try:
        with _forwarding(child):
            _, status = os.waitpid(child, 0)
    finally:
        if not keep:
            _kill_leftovers(before)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that what was made is removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handling((signal.SIGTERM, signal.SIGHUP), interrupt):
        yield


@contextlib.contextmanager
def _forwarding(child: int) -> Iterator[None]:
    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    with _handling(FORWARDED, forward):
        yield


@contextlib.contextmanager
def _handling(numbers: Iterable[signal.Signals], handler: "signal._HANDLER") -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _kill_leftovers(before: set[int]) -> None:
    """Kill until nothing new is alive: what a killed process leaves is handed to us, and may have started more."""
    while leftovers := [pid for pid in descendants(os.getpid()) if pid not in before and is_alive(pid)]:
        for pid in leftovers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in leftovers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere, and where it is refused, we do without."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
