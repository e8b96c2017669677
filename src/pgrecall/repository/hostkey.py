"""Owns the key file of a database host (format.md §7): one cluster's keys, and what the host has pinned."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrecall.durable import create_whole, replace_whole
from pgrecall.errors import KeyProblem, ObjectDamaged, Refused
from pgrecall.repository import canonical
from pgrecall.repository.fields import U32, Fields, base64_text
from pgrecall.repository.layout import is_cluster_name
from pgrecall.repository.secrets import KEY_SIZE, Keys

_KIND = "pgrecall-cluster-key"
_MAX_SIZE = 64 << 10


@dataclass(frozen=True)
class HostKey:
    """What a host needs to back up and restore one cluster, and no more: repository, `keys.sealed`, generation and
    fingerprint are pinned by it, whatever the repository says.
    """

    repository: bytes
    cluster: bytes
    name: str
    keys: Keys
    older: tuple[Keys, ...] = ()
    """The generations before `keys`, by generation: what was sealed under them is still read."""

    @property
    def sealed(self) -> bool:
        return self.keys.sealed

    def encode(self) -> bytes:
        """In an unsealed repository the MAC key is the one secret; everything null is derived."""
        data_key, mac_key = self.keys.data_key, self.keys.mac_key
        return canonical.encode(
            {
                "kind": _KIND,
                "repository": self.repository.hex(),
                "sealed": self.sealed,
                "cluster": self.cluster.hex(),
                "name": self.name,
                "generation": self.keys.generation,
                "data_key": base64_text(data_key) if data_key else None,
                "id_key": base64_text(self.keys.id_key) if data_key else None,
                "mac_key": base64_text(mac_key) if mac_key and not data_key else None,
                "older": [_generation_json(each) for each in self.older],
            }
        )

    @classmethod
    def decode(cls, data: bytes, what: str) -> "HostKey":
        fields = Fields(canonical.decode(data.rstrip(b"\n"), what), what)
        fields.one_of("kind", _KIND)
        sealed = fields.flag("sealed")
        cluster = fields.hex("cluster", 16)
        generation = fields.integer("generation", int(sealed), U32 if sealed else 0)
        if sealed:
            keys = Keys.of_sealed(generation, _secret(fields, "data_key"), _secret(fields, "id_key"))
        else:
            keys = Keys.of_unsealed(cluster, _secret(fields, "mac_key"))
        name = fields.text("name")
        if not is_cluster_name(name):
            raise fields.damaged("name", "a cluster's name")
        older = tuple(_generation(each) for each in fields.objects("older"))
        if [each.generation for each in older] != sorted({each.generation for each in older} - {0}) or (
            older and older[-1].generation >= generation
        ):
            raise fields.damaged("older", "the generations before this one, by generation")
        return cls(fields.hex("repository", 16), cluster, name, keys, older)


def write_host_key(path: Path, key: HostKey, *, replace: bool = False) -> None:
    """Create the file, readable by us alone, whole or not at all. Refused if it is there, unless `replace`."""
    write = replace_whole if replace else create_whole
    try:
        write(path, key.encode() + b"\n")
    except FileExistsError as error:
        raise Refused(
            f"{path} exists already",
            hint="A key file is not replaced: without it, backups may be lost.",
            path=str(path),
        ) from error
    except OSError as error:
        raise KeyProblem(f"cannot write the key file {path}: {error.strerror}", path=str(path)) from error


def read_host_key(path: Path) -> HostKey:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            data = file.read(_MAX_SIZE) if stat.S_ISREG(found.st_mode) else b""
    except OSError as error:
        raise KeyProblem(
            f"cannot read the key file {path}: {error.strerror}",
            hint="run it as root, or as the user that owns the data directory and this key"
            if isinstance(error, PermissionError)
            else "pgrecall init writes it; the recovery identity or passphrase makes a new one.",
            path=str(path),
        ) from error
    if found.st_mode & 0o077:
        raise KeyProblem(
            f"the key file {path} is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"chmod 600 {path}",
            path=str(path),
        )
    try:
        return HostKey.decode(data, str(path))
    except ObjectDamaged as error:
        raise KeyProblem(f"{path} is no key file of a cluster: {error}", path=str(path)) from error


def _generation_json(keys: Keys) -> dict[str, Any]:
    assert keys.data_key is not None
    return {
        "generation": keys.generation,
        "data_key": base64_text(keys.data_key),
        "id_key": base64_text(keys.id_key),
    }


def _generation(fields: Fields) -> Keys:
    return Keys.of_sealed(fields.integer("generation", 1, U32), _secret(fields, "data_key"), _secret(fields, "id_key"))


def _secret(fields: Fields, name: str) -> bytes:
    key = fields.base64(name)
    if len(key) != KEY_SIZE:
        raise fields.damaged(name, f"{KEY_SIZE} bytes in base64")
    return key
