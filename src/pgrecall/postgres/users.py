"""Operating-system users: who owns a data directory, what another user can reach, and becoming that user for good."""

import os
import pwd
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pgrecall
from pgrecall.errors import Refused, UsageError

UNPRIVILEGED = ("nobody", "daemon", "postgres")  # the first that exists


@dataclass(frozen=True)
class OsUser:
    name: str
    uid: int
    gid: int


def is_root() -> bool:
    return os.geteuid() == 0


def find_user(name: str | None = None) -> OsUser:
    """The named user, else an unprivileged one of every system; never root."""
    for candidate in (name,) if name else UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(candidate)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise UsageError(f"{candidate} is root, and PostgreSQL does not run as root", hint="Name another user.")
        return OsUser(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise UsageError(
        f"no user {name or ' or '.join(UNPRIVILEGED)} on this machine", hint="Name an existing unprivileged user."
    )


def owner_of(path: Path) -> OsUser:
    """Who owns a file or directory. A user id without a name gets its number as name."""
    found = path.stat()
    return user_of(found.st_uid, found.st_gid)


def user_of(uid: int, gid: int) -> OsUser:
    """The user of that number; one without a name gets the group given, and its number as name."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return OsUser(str(uid), uid, gid)
    return OsUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def become(user: OsUser) -> None:
    """Be that user from now on, with its groups and no way back; nothing happens if we are that user already.

    Refused when we are neither root nor that user, and when that user could not read our own program files: modules
    that are loaded later would be missing.
    """
    if os.geteuid() == user.uid:
        return
    if not is_root():
        raise Refused(
            f"the files belong to {user.name}, we run as {_name_of(os.geteuid())}",
            hint=f"Run it as their owner: sudo -u {user.name} {Path(sys.argv[0]).name} …",
        )
    refuse_unreachable_runtime(user)
    drop_privileges(user)
    home = _home_of(user)
    os.environ.update(HOME=home, USER=user.name, LOGNAME=user.name)


def refuse_unreachable_runtime(user: OsUser) -> None:
    """Refused when that user could not run us: the interpreter may lie in root's home, behind a readable venv."""
    hidden = unreachable(user, [Path(sys.executable).resolve(), Path(pgrecall.__file__).parent, Path(os.__file__)])
    if hidden:
        raise Refused(
            f"{user.name}, who owns the data directory, cannot read {hidden[0]}, from where we run",
            hint="install pgrecall where every user can read it, with a Python that every user can run: "
            "/usr/bin/python3 -m venv /opt/pgrecall",
        )


def drop_privileges(user: OsUser) -> None:
    """Groups, group, user: in this order, and checked."""
    try:
        os.initgroups(user.name, user.gid)
    except (KeyError, OSError):
        os.setgroups([])
    os.setgid(user.gid)
    os.setuid(user.uid)
    assert os.getresuid() == (user.uid, user.uid, user.uid), "privileges were not dropped"


def unreachable(user: OsUser, paths: Iterable[Path], *, whole: bool = True) -> list[Path]:
    """Those of the paths that user cannot read (of programs: execute; of directories: enter, and with `whole` read
    everything below). Asked by a child that really is that user, so that access lists and mounts count."""
    asked = list(paths)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            if os.geteuid() != user.uid:
                drop_privileges(user)
            os.write(writing, bytes(not _can_use(path, whole) for path in asked))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        hidden = answers.read()
    _, status = os.waitpid(child, 0)
    assert status == 0 and len(hidden) == len(asked), f"could not ask as user {user.name}"
    return [path for path, is_hidden in zip(asked, hidden, strict=True) if is_hidden]


def _can_use(path: Path, whole: bool) -> bool:
    if not os.access(path, os.R_OK):
        return False
    if not path.is_dir():
        return os.access(path, os.X_OK) or not path.stat().st_mode & 0o100
    if not os.access(path, os.X_OK):
        return False
    return not whole or all(_can_use(below, whole) for below in path.iterdir() if not below.is_symlink())


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _home_of(user: OsUser) -> str:
    try:
        return pwd.getpwuid(user.uid).pw_dir
    except KeyError:
        return "/"
