"""Doing one thing as another operating-system user, in a child process, while we stay root."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import TypeVar

from pgrecall.errors import Internal, PgrecallError
from pgrecall.postgres.users import OsUser, drop_privileges

T = TypeVar("T")


def as_user(user: OsUser, act: Callable[[], T]) -> T:
    """What act() returns, or the PgrecallError it raises, when run by that user. Its result must be picklable.

    Called directly when we are that user already. What act changes in memory is lost.
    """
    if os.geteuid() == user.uid:
        return act()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            drop_privileges(user)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(_answer(act))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    if not answer:
        raise Internal(f"the part that runs as {user.name} ended without an answer")
    result, error = pickle.loads(answer)  # from our own child
    if error is not None:
        raise error
    value: T = result
    return value


def _answer(act: Callable[[], object]) -> bytes:
    try:
        return pickle.dumps((act(), None))
    except PgrecallError as error:
        return pickle.dumps((None, error))
    except OSError as error:
        return pickle.dumps((None, OSError(error.errno, error.strerror, error.filename)))
    except Exception as error:  # noqa: BLE001  the parent tells it
        return pickle.dumps((None, Internal(f"{type(error).__name__}: {error}")))
