"""What the file system of the destination refuses, as errors with a name."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pgrecall.errors import DestinationFailed, DestinationFull


@contextmanager
def writing(place: str) -> Iterator[None]:
    """Errors of the file system below `place` become one clear error."""
    try:
        yield
    except OSError as error:
        raise explain(error, place) from error


def explain(error: OSError, place: str) -> DestinationFailed:
    hint = "Nothing there can start: make room and run the same restore again, it cleans up what this one left."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DestinationFull(f"{place} is full: {error.strerror}", hint=hint, path=place)
    where = f" at {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    return DestinationFailed(f"{place} cannot be written{where}: {error.strerror}", path=place)
