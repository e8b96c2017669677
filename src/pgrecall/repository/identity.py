"""Owns what `identity/<n>` says: the cluster's id and name, and the system identifiers it has had (format.md §7)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pgrecall.repository import layout
from pgrecall.repository.envelope import check_object, read_clear
from pgrecall.repository.fields import U32, Fields, time_text
from pgrecall.repository.header import Header, ObjectType
from pgrecall.storage.base import Storage


class SystemIdentity(NamedTuple):
    """A system identifier that the cluster has had, its version, and since when."""

    system_identifier: int
    version_num: int
    since: datetime


@dataclass(frozen=True)
class ClusterIdentity:
    """`identity/<number>`; the last of `systems` is the present one."""

    number: int
    cluster: bytes
    name: str
    systems: tuple[SystemIdentity, ...]

    @property
    def clear(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster.hex(),
            "name": self.name,
            "systems": [
                {
                    "system_identifier": str(system.system_identifier),
                    "version_num": system.version_num,
                    "since": time_text(system.since),
                }
                for system in self.systems
            ],
        }

    @classmethod
    def from_clear(cls, number: int, clear: dict[str, Any], what: str) -> "ClusterIdentity":
        fields = Fields(clear, what)
        systems = tuple(
            SystemIdentity(each.decimal("system_identifier"), each.integer("version_num", 0, U32), each.time("since"))
            for each in fields.objects("systems")
        )
        return cls(number, fields.hex("cluster", 16), fields.text("name"), systems)


def identity_numbers(storage: Storage, name: str) -> list[int]:
    """Newest first."""
    prefix = layout.cluster_prefix(name)
    listed = storage.list(prefix + layout.IDENTITY)
    numbers = (layout.parse_numbered_name(info.key[len(prefix) :]) for info in listed)
    return sorted((number for number in numbers if number is not None), reverse=True)


def read_identity(storage: Storage, name: str, number: int) -> tuple[Header, bytes]:
    """Header and cluster id of an identity; it is intact, but nothing proves it yet."""
    key = layout.cluster_key(name, layout.identity_name(number))
    data = storage.get(key, limit=ObjectType.IDENTITY.max_size)
    header, _ = check_object(data, ObjectType.IDENTITY, key)
    return header, Fields(read_clear(data, key), f"identity of {name}").hex("cluster", 16)
