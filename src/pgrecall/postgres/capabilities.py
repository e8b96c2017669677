"""Owns what a server can do by its version, asked once instead of comparing versions everywhere."""

from dataclasses import dataclass
from typing import Self

from pgrecall.errors import Refused

OLDEST_VERSION_NUM = 150000


@dataclass(frozen=True, slots=True)
class Capabilities:
    version_num: int
    included_hba: bool
    """pg_hba.conf may include files, and pg_hba_file_rules tells their names."""

    @classmethod
    def of(cls, version_num: int) -> Self:
        """Refused for servers before 15: pg_backup_start and its non-exclusive rules begin there."""
        if version_num < OLDEST_VERSION_NUM:
            raise Refused(
                f"the server is PostgreSQL {version_text(version_num)}; pgrecall works with "
                f"{version_text(OLDEST_VERSION_NUM)} and later",
                version_num=version_num,
            )
        return cls(
            version_num=version_num,
            included_hba=version_num >= 160000,
        )


def version_text(version_num: int) -> str:
    """180004 → '18.4'"""
    return f"{version_num // 10000}.{version_num % 10000}"
