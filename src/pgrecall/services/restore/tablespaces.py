"""Where tablespaces go: as mapped by the user, back to their place on an empty host, never onto what is there.

`tablespace_map` is not restored: the server would link to the original's directories again (rule 3). Replay of CREATE
TABLESPACE uses the original's literal path (rule 2), whatever was mapped.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.target import AtLsn, RecoveryTarget
from pgrecall.errors import PgrecallError, TablespaceConflict, ValueInvalid, WontReplay
from pgrecall.postgres.walscan import TablespaceCreate
from pgrecall.repository.manifest import Tablespace


@dataclass(frozen=True, slots=True)
class TablespaceMapping:
    """`OLD=NEW` of `--tablespace`; old is an oid or the path on the source."""

    old: str
    new: Path

    @classmethod
    def parse(cls, text: str) -> "TablespaceMapping":
        old, equals, new = text.partition("=")
        if not (equals and old and new):
            raise ValueInvalid(
                f"'{text}' maps no tablespace", hint="--tablespace 16400=/new/directory, or OLDPATH=NEWPATH", value=text
            )
        if not new.startswith("/"):
            raise ValueInvalid(f"'{new}' must be an absolute path", hint=f"--tablespace {old}={Path.cwd() / new}")
        return cls(old.rstrip("/") or "/", Path(os.path.normpath(new)))


@dataclass(frozen=True, slots=True)
class PlacedTablespace:
    """A tablespace outside the data directory and the directory that its link will lead to."""

    oid: int
    original: Path
    place: Path

    @property
    def link(self) -> bytes:
        return f"pg_tblspc/{self.oid}".encode()


def place_tablespaces(
    stored: Iterable[Tablespace], mappings: Sequence[TablespaceMapping], destination: Path
) -> tuple[list[PlacedTablespace], list[PgrecallError]]:
    """Every tablespace that is not in place, with what stands against it; reads the file system, writes nothing."""
    real = [each for each in stored if not each.in_place]
    wanted = _match(real, mappings)
    placed: list[PlacedTablespace] = []
    blockers: list[PgrecallError] = []
    for each in real:
        original = Path(os.fsdecode(each.path))
        place = wanted.get(each.oid, original)
        blocker = _refusal(each.oid, original, place, mapped=each.oid in wanted, destination=destination)
        if blocker is None and any(_overlap(place, other.place) for other in placed):
            blocker = TablespaceConflict(f"two tablespaces would lie in {place}", path=str(place))
        if blocker is not None:
            blockers.append(blocker)
        placed.append(PlacedTablespace(each.oid, original, place))
    return placed, blockers


def _match(real: Sequence[Tablespace], mappings: Sequence[TablespaceMapping]) -> dict[int, Path]:
    wanted: dict[int, Path] = {}
    for mapping in mappings:
        found = [each for each in real if mapping.old in (str(each.oid), os.fsdecode(each.path))]
        if not found:
            known = ", ".join(f"{each.oid} ({os.fsdecode(each.path)})" for each in real) or "none"
            raise ValueInvalid(
                f"the backup has no tablespace '{mapping.old}'",
                hint=f"name it by oid or by its path; there are: {known}",
                value=mapping.old,
            )
        if found[0].oid in wanted:
            raise ValueInvalid(f"tablespace {found[0].oid} is mapped twice", value=mapping.old)
        wanted[found[0].oid] = mapping.new
    return wanted


def _refusal(oid: int, original: Path, place: Path, *, mapped: bool, destination: Path) -> PgrecallError | None:
    option = f"--tablespace {oid}=/some/empty/directory"
    if _overlap(place, destination):
        return TablespaceConflict(
            f"tablespace {oid} cannot lie in {place}: that is inside the restored directory, or around it", hint=option
        )
    if not is_absent_or_empty(place):
        if mapped:
            return TablespaceConflict(f"{place}, where tablespace {oid} shall go, is not empty", hint=option)
        return TablespaceConflict(
            f"tablespace {oid} was in {original}, which is in use on this host",
            hint=f"say where its copy shall lie: {option}",
            oid=oid,
            path=str(original),
        )
    return None


def refuse_foreign_replay(
    created: Iterable[TablespaceCreate],
    *,
    start: Lsn,
    target: RecoveryTarget,
    inclusive: bool,
    placed: Sequence[PlacedTablespace],
) -> tuple[list[Path], list[PgrecallError]]:
    """Directories that must be there, empty, before replay; and CREATE TABLESPACE records that would do harm.

    `created`: the records of the whole WAL to replay; those before `start` or past an LSN target are not replayed.
    """
    needed: list[Path] = []
    blockers: list[PgrecallError] = []
    ours = {(each.oid, each.place) for each in placed}
    for record in created:
        path = Path(record.path)
        if not record.path or record.lsn < start or (record.oid, path) in ours or path in needed:
            continue
        if isinstance(target, AtLsn) and (record.lsn > target.lsn or (record.lsn == target.lsn and not inclusive)):
            continue
        if is_absent_or_empty(path):
            needed.append(path)
            continue
        blockers.append(
            WontReplay(
                f"the WAL to replay creates tablespace {record.oid} in {path} (at {record.lsn}), which is in use on "
                "this host: replay would write into it",
                hint=f"restore on a host without {path}, from a backup made after it (--from LABEL), "
                f"or to before it: --at lsn:{record.lsn} --exclusive",
                oid=record.oid,
                path=str(path),
                lsn=str(record.lsn),
            )
        )
    return needed, blockers


def is_absent_or_empty(path: Path) -> bool:
    """False also where we may not look: what cannot be seen is not empty."""
    try:
        return not any(path.iterdir())
    except FileNotFoundError:
        return not path.is_symlink()
    except OSError:
        return False


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
