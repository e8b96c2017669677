"""Owns which storage a URL of the configuration means."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pgrecall.errors import ConfigInvalid
from pgrecall.storage.base import Storage
from pgrecall.storage.posix import PosixStorage

_KINDS = "file:///absolute/path or just /absolute/path"


def open_storage(url: str) -> Storage:
    """Nothing is touched yet: a storage that is not there shows with the first request."""
    if url.startswith("/"):
        return PosixStorage(Path(url))
    parts = urlsplit(url)
    if not parts.scheme:
        raise ConfigInvalid(f"'{url}' is a relative path", hint=f"Write {_KINDS}.", url=url)
    if parts.scheme != "file":
        raise ConfigInvalid(
            f"this version stores nothing at {parts.scheme}://",
            hint=f"A repository lies at {_KINDS}.",
            scheme=parts.scheme,
        )
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or parts.query or parts.fragment:
        raise ConfigInvalid(f"'{url}' is no URL of a local directory", hint=f"Write {_KINDS}.", url=url)
    return PosixStorage(Path(path))
