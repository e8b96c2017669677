"""Owns which keys a storage takes."""

import re

from pgrecall.errors import StorageError

MAX_KEY_BYTES = 900
_PART = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~+=@-]+"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*\Z")
_PARTIAL = re.compile(r"[A-Za-z0-9._~+=@-]*\Z")


def is_key(text: str) -> bool:
    return len(text) <= MAX_KEY_BYTES and _KEY.match(text) is not None


def check_key(key: str) -> str:
    if not is_key(key):
        raise StorageError(f"'{key}' cannot be the key of an object", key=key)
    return key


def check_prefix(prefix: str) -> str:
    """A beginning of keys: whole parts each followed by `/`, then perhaps a part of a part."""
    folder, slash, beginning = prefix.rpartition("/")
    if (slash and not is_key(folder)) or not _PARTIAL.match(beginning):
        raise StorageError(f"'{prefix}' cannot begin the key of an object", prefix=prefix)
    return prefix
