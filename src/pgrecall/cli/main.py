"""The process: runs one verb, turns every way it can end into an exit status and, for errors, two lines.

Nothing but the standard library is imported before `main` runs: a broken installation must not make `wal fetch` exit 1,
which PostgreSQL takes as "end of archive".
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pgrecall.cli.invocation import Invocation
    from pgrecall.clock import Clock
    from pgrecall.errors import PgrecallError

FAILED, FETCH_FAILED, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 126, 130, 141, 143
HIGHEST_FOR_PUSH = 125


class Terminated(BaseException):
    """SIGTERM arrived; unwinds like KeyboardInterrupt, so that everything started is ended."""


def main() -> int:
    """The console script: its return value is the exit status."""
    argv = sys.argv[1:]
    _open_closed_streams()
    signal.signal(signal.SIGTERM, _terminate)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's linear algebra, never used, starts threads that spin
    try:
        from pgrecall.clock import SystemClock

        status = run(argv, stdout=sys.stdout, stderr=sys.stderr, environ=os.environ, clock=SystemClock())
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Terminated:
        status = TERMINATED
    except ImportError as error:
        sys.stderr.write(f"error: pgrecall is not completely installed: {error}\n  → install it again  [internal]\n")
        status = error_status(argv, FAILED)
    return _flushed(status)


def run(argv: Sequence[str], *, stdout: TextIO, stderr: TextIO, environ: Mapping[str, str], clock: Clock) -> int:
    """Do what argv says; give the exit status. The result is on stdout, everything else on stderr."""
    from pgrecall.cli.invocation import Invocation
    from pgrecall.cli.output import Output

    invocation = Invocation(Output(stdout, stderr, environ=environ), clock, environ)
    try:
        return invoke(argv, invocation)
    except BrokenPipeError:
        return BROKEN_PIPE
    except (KeyboardInterrupt, Terminated) as reason:
        name, status = ("terminated", TERMINATED) if isinstance(reason, Terminated) else ("interrupted", INTERRUPTED)
        stderr.write(f"\n{name}\n")
        return status
    except Exception as error:  # noqa: BLE001  the process's last line of defence
        return _report(error, argv, invocation)


def invoke(argv: Sequence[str], invocation: Invocation) -> int:
    import click

    from pgrecall.cli.verbs import root

    command = root()
    if "_PGRECALL_COMPLETE" in invocation.environ:
        command.main(list(argv), prog_name="pgrecall")
    try:
        with command.make_context("pgrecall", list(argv), obj=invocation) as context:
            command.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    return invocation.exit_status


def error_status(argv: Sequence[str], status: int) -> int:
    """The status of an error, within what PostgreSQL understands where PostgreSQL is the caller (docs/errors.md)."""
    words = [word for word in argv if not word.startswith("-")]
    if "wal" in words and "fetch" in words:
        return FAILED if "--standby" in argv else FETCH_FAILED
    if "wal" in words and "push" in words:
        return min(status, HIGHEST_FOR_PUSH)
    return status


def _report(error: Exception, argv: Sequence[str], invocation: Invocation) -> int:
    named = _named(error)
    out = invocation.out
    out.json = out.json or "--json" in argv
    if named is not error and (out.verbose > 1 or invocation.environ.get("PGRECALL_DEBUG")):
        import traceback

        traceback.print_exception(error, file=out.stderr)
    with suppress(BrokenPipeError):
        out.error(named)
    return error_status(argv, named.exit_status)


def _named(error: Exception) -> PgrecallError:
    """Every error as one with a name: ours as they are, wrong usage, the system's, and bugs."""
    import click

    from pgrecall.errors import Internal, PgrecallError, SystemFailed, UsageError

    match error:
        case PgrecallError():
            return error
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "pgrecall"
            return UsageError(error.format_message(), hint=f"{path} --help")
        case click.ClickException():
            return UsageError(error.format_message())
        case OSError() if error.strerror:
            place = f"{error.filename}: " if error.filename else ""
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = "make room, then repeat it" if full else "does it exist, and may this user read and write it?"
            return SystemFailed(f"{place}{error.strerror}", hint=hint)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Internal(what, hint="this is a fault of pgrecall; -vv shows where it happened, please report it")


def _open_closed_streams() -> None:
    """Started with stdout or stderr closed (`>&-`), Python has None there: what is said goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  for the process's life


def _flushed(status: int) -> int:
    """Flush here, not in the interpreter's last moment, where a closed pipe would print a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            status = status or BROKEN_PIPE
    return status


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
