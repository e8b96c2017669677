"""Owns the right to write a timeline: this data directory's token, the claim in the repository, and marks of both.

Rule 11 of the format's rules: whoever claims a timeline first owns it. The token lies in the state directory under a
name made of the system identifier and the data directory's device and inode, so that a copied cluster has another one.
"""

import contextlib
import json
import os
import socket
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

from blake3 import blake3

from pgrecall.clock import Clock
from pgrecall.durable import create_whole, make_directories, replace_whole
from pgrecall.errors import ObjectExists, ObjectMissing
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.envelope import ObjectType
from pgrecall.repository.fields import time_text
from pgrecall.repository.layout import owner_name

_TOKEN_BYTES = 32
_SIGNALS = ("standby.signal", "recovery.signal")


class Standing(Enum):
    """Whose timeline it is."""

    OWNER = "owner"
    OTHER = "other"
    UNCLAIMED = "unclaimed"
    """We are in recovery, so we may archive (archive_mode=always) but claim nothing."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """The identity of a data directory on this host."""

    path: Path
    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        found = path.stat()
        return cls(path, found.st_dev, found.st_ino)

    @property
    def in_recovery(self) -> bool:
        return any((self.path / name).exists() for name in _SIGNALS)


class OwnerState:
    """This data directory's token, and marks of what was seen to hold: they save requests."""

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        self._file = file
        self._values = values
        self.token = bytes.fromhex(values["token"])
        self.token_hash = blake3(self.token).hexdigest()

    @property
    def token8(self) -> str:
        return self.token_hash[:8]

    @classmethod
    def load(cls, state_dir: Path, repository: bytes, system_identifier: int, directory: DataDirectory) -> Self:
        """Read it, or make a new token that is durable before anybody sees its hash."""
        place = f"{repository.hex()[:8]}-{system_identifier}-{directory.device:x}-{directory.inode:x}"
        file = state_dir / "archive" / f"{place}.json"
        while True:
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
                return cls(file, json.loads(file.read_text("utf-8")))
            cls._create(file)

    @staticmethod
    def _create(file: Path) -> None:
        make_directories(file.parent, mode=0o700)
        token = _encoded({"token": os.urandom(_TOKEN_BYTES).hex()})
        try:
            create_whole(file, token)  # two first pushes at once: one token wins
        except FileExistsError:
            if not _is_readable(file):  # then it holds no token
                replace_whole(file, token)

    def mark(self, topic: str, timeline: int) -> str | None:
        value = self._values.get(topic, {}).get(f"{timeline:08X}")
        return value if isinstance(value, str) else None

    def remember(self, topic: str, timeline: int, value: str) -> None:
        """The last writer wins; a lost mark costs one request."""
        self._values.setdefault(topic, {})[f"{timeline:08X}"] = value
        replace_whole(self._file, _encoded(self._values))


def claim(store: ClusterStore, state: OwnerState, directory: DataDirectory, system_identifier: int, timeline: int,
          clock: Clock) -> Standing:  # fmt: skip
    """Whose timeline it is; claimed for us if it is nobody's. No request where a mark says that it is ours."""
    if state.mark("owner", timeline) == Standing.OWNER.value:
        return Standing.OWNER
    name = owner_name(system_identifier, timeline)
    if directory.in_recovery:
        owner = read_owner(store, system_identifier, timeline)
        if owner is None:
            return Standing.UNCLAIMED
        return _judge(state, timeline, owner)
    facts = {"token_hash": state.token_hash, "host": socket.gethostname(), "at": time_text(clock.now())}
    try:
        store.put(ObjectType.OWNER, name, clear=facts)
    except ObjectExists:
        owner = read_owner(store, system_identifier, timeline)
        assert owner is not None, "an object that exists can be read"
        return _judge(state, timeline, owner)
    state.remember("owner", timeline, Standing.OWNER.value)
    return Standing.OWNER


@dataclass(frozen=True, slots=True)
class Owner:
    """Who claimed a timeline."""

    token_hash: str
    host: str
    at: str

    @property
    def writer(self) -> str:
        return self.token_hash[:8]


def read_owner(store: ClusterStore, system_identifier: int, timeline: int) -> Owner | None:
    """None: nobody claimed it."""
    try:
        clear = store.read(ObjectType.OWNER, owner_name(system_identifier, timeline)).clear
    except ObjectMissing:
        return None
    return Owner(str(clear.get("token_hash", "")), str(clear.get("host", "")), str(clear.get("at", "")))


def _judge(state: OwnerState, timeline: int, owner: Owner) -> Standing:
    if owner.token_hash != state.token_hash:
        return Standing.OTHER
    state.remember("owner", timeline, Standing.OWNER.value)
    return Standing.OWNER


def _encoded(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode()


def _is_readable(file: Path) -> bool:
    try:
        return "token" in json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return False
