"""The demo's outer process: a private place, a user that PostgreSQL accepts, and nothing left of the inner one."""

import os
import pwd
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pgrecall.errors import PostgresError
from pgrecall.postgres.binaries import Binaries
from pgrecall.postgres.osuser import run_as
from pgrecall.postgres.processes import descendants
from pgrecall.postgres.staging import environment_for, staged
from pgrecall.postgres.users import OsUser, find_user, is_root
from pgrecall.services.demo.interrupts import first_unwinds
from pgrecall.services.demo.place import START_SCRIPT, Place

HOME_VARIABLE = "PGRECALL_DEMO_HOME"
"""Tells the inner process that it is the inner one, and where its directory is to be."""
DEMO_DIRECTORY = "demo"
KEPT_MARK = "KEPT"
SIGNALLED = 128  # exit statuses above it: 128 + the number of a signal


def supervise(argv: Sequence[str], binaries: Binaries, *, keep: bool, environ: Mapping[str, str]) -> int:
    """Run this interpreter with these arguments as a user that is not root; its exit status.

    Its environment has none of the caller's PG… variables; HOME and TMPDIR are private. What it leaves, processes or
    files, is removed, also when we are interrupted; with `keep`, what it marked as kept stays and is started.
    """
    user = find_user() if is_root() else current_user()
    with first_unwinds() as ignore_further, staged(user, [binaries.bindir], keep=keep) as stage:
        place = Place(stage.temporary / DEMO_DIRECTORY)
        kept = False
        try:
            command = [str(stage.python), *(stage.translate_argument(argument) for argument in argv)]
            environment = {**environment_for(stage, _without_postgres(environ)), HOME_VARIABLE: str(place.home)}
            status = run_as(user, command, environment, directory=stage.temporary)
            if status > SIGNALLED:
                ignore_further()
            elif (place.home / KEPT_MARK).exists():
                _start_kept(place, user, environment)
                kept = True
            return status
        finally:
            if not kept:
                _kill_all_below()
                shutil.rmtree(stage.root, ignore_errors=True)


def _kill_all_below() -> None:
    """What an impatient second signal kept `run_as` from ending."""
    for pid in descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def mark_kept(home: Path) -> None:
    (home / KEPT_MARK).touch()


def current_user() -> OsUser:
    name = str(os.getuid())
    with suppress(KeyError):
        name = pwd.getpwuid(os.getuid()).pw_name
    return OsUser(name, os.getuid(), os.getgid())


def _start_kept(place: Place, user: OsUser, environment: Mapping[str, str]) -> None:
    """With the very script that the report names."""
    script = place.home / START_SCRIPT
    status = run_as(user, ["/bin/sh", str(script)], environment, directory=place.home, keep=True)
    if status != 0:
        raise PostgresError(
            f"{script} ended with {status}", hint=f"{place.original}.log and {place.recovered}.log say why"
        )


def _without_postgres(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's own server, and the caller's own pgrecall, are not the demo's."""
    return {name: value for name, value in environ.items() if not name.startswith("PG")}
