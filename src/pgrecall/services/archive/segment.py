"""Owns the object of one WAL segment (format.md §9): building it with two threads, reading it or its beginning."""

import base64
import binascii
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from blake3 import blake3

from pgrecall.domain.lsn import Lsn
from pgrecall.domain.wal import WalSegment
from pgrecall.domain.window import StoredSegment
from pgrecall.errors import ObjectDamaged, PgrecallError
from pgrecall.postgres.walscan import RestorePoint, SegmentFacts, TablespaceCreate
from pgrecall.repository import canonical
from pgrecall.repository.envelope import ObjectReader, ObjectType, ObjectWriter
from pgrecall.repository.frames import TAG_SIZE, FrameOpener, compressor
from pgrecall.repository.header import HEADER_SIZE, Header
from pgrecall.repository.secrets import Scope

T = TypeVar("T")
FRAME_BYTES = 1 << 20
HEAD_BYTES = 8 << 10
"""What one request for the beginning of a segment's object asks for: header, clear part and, nearly always, frame 0."""
DEFAULT_LEVEL = 3
_THREADS = 2


def build_segment(
    scope: Scope, name: str, raw: bytes, *, file: str, timeline: int, system_identifier: int, facts: SegmentFacts,
    writer: str, level: int = DEFAULT_LEVEL,
) -> tuple[memoryview, list[bytes]]:  # fmt: skip
    """The object of a segment (or `.partial`) file, and the ids of its raw frames."""
    frames = _compress_all(raw, scope.keys.id_key, level)
    index = canonical.encode(_index(facts))
    zstd = compressor(level)
    z = zstd.compress(index)
    stored = len(z) + (TAG_SIZE if scope.keys.sealed else 0)
    clear = _clear(
        facts, file=file, timeline=timeline, system_identifier=system_identifier, size=len(raw), writer=writer
    )
    clear["index"] = [stored, len(index)]
    capacity = sum(len(each) + TAG_SIZE for each, _ in frames) + stored + (64 << 10)
    built = ObjectWriter(scope, ObjectType.WAL, name, clear=clear, capacity=capacity, zstd=zstd)
    built.add_compressed(z, len(index), scope.keys.chunk_id(index))
    for number, (compressed, chunk_id) in enumerate(frames):
        built.add_compressed(compressed, min(FRAME_BYTES, len(raw) - number * FRAME_BYTES), chunk_id)
    return built.finish(), [chunk_id for _, chunk_id in frames]


def raw_ids(scope: Scope, raw: bytes) -> list[bytes]:
    """The ids of a file's frames: equal ids mean equal bytes."""
    view = memoryview(raw)
    return [
        blake3(view[at : at + FRAME_BYTES], key=scope.keys.id_key).digest() for at in range(0, len(raw), FRAME_BYTES)
    ]


def stored_ids(reader: ObjectReader) -> list[bytes]:
    """The ids of the raw frames of a stored segment."""
    return [frame.id for frame in reader.frames[1:]]


def read_raw(reader: ObjectReader) -> bytes:
    """The segment's bytes, every frame opened and checked."""
    size = reader.clear.get("size")
    if not isinstance(size, int) or sum(frame.raw for frame in reader.frames[1:]) != size:
        raise ObjectDamaged(f"{reader.name} does not hold the {size} bytes that it claims")
    return b"".join(_each_in_threads(lambda number: reader.read(number + 1), len(reader.frames) - 1))


@dataclass(frozen=True, slots=True)
class SegmentIndex:
    """Frame 0: what a segment tells only to holders of the key."""

    restore_points: tuple[RestorePoint, ...]
    tablespaces: tuple[TablespaceCreate, ...]
    head: bytes | None
    tail: bytes | None


@dataclass(frozen=True, slots=True)
class SegmentBeginning:
    """The beginning of a stored segment's object: facts and, if it was short enough, the index."""

    facts: StoredSegment
    size: int
    index: SegmentIndex | None
    index_bytes: int
    """How many bytes from the object's start hold header, clear part and index."""


def read_beginning(scope: Scope, name: str, segment: WalSegment, data: bytes, *, file: str) -> SegmentBeginning:
    """Read the clear part and the index from (at least) the first bytes of an object.

    In a sealed repository opening the index proves the clear part too: its hash is bound into the seal.
    """
    header = Header.decode(data, name)
    end = HEADER_SIZE + header.clear_length
    if header.type is not ObjectType.WAL or end > len(data) or header.sealed is not scope.keys.sealed:
        raise ObjectDamaged(f"{name} is no WAL segment, or its beginning is too long")
    clear_part = data[HEADER_SIZE:end]
    clear = canonical.decode(clear_part, name)
    if clear.get("segment") != file or clear.get("timeline") != segment.timeline:
        raise ObjectDamaged(f"{name} says that it holds {clear.get('segment')}")
    stored, raw = _pair(clear, name)
    facts = facts_of(clear, segment, name)
    if end + stored > len(data):
        return SegmentBeginning(facts, _size(clear, name), None, end + stored)
    opener = FrameOpener(scope, ObjectType.WAL, name, header.generation, header.flags, header.salt, clear=clear_part)
    index = _read_index(opener.open(data[end : end + stored], 0, raw, None), name)
    return SegmentBeginning(facts, _size(clear, name), index, end + stored)


def read_index(reader: ObjectReader) -> SegmentIndex:
    return _read_index(reader.read(0), reader.name)


def facts_of(clear: dict[str, Any], segment: WalSegment, name: str) -> StoredSegment:
    """The clear part as facts; ObjectDamaged where it is not what format.md says."""
    try:
        return StoredSegment(
            timeline=segment.timeline,
            number=segment.number,
            first_commit=_moment(clear["first_commit"]),
            last_commit=_moment(clear["last_commit"]),
            first_record=_lsn(clear["first_record"]),
            first_prev=_lsn(clear["first_prev"]),
            last_record=_lsn(clear["last_record"]),
            minimal_at=_lsn(clear["minimal_at"]),
            broken_at=_lsn(clear["broken_at"]),
            writer=str(clear["writer"]),
            tablespaces=int(clear["tablespaces"]),
        )
    except (KeyError, TypeError, ValueError, PgrecallError) as error:
        raise ObjectDamaged(f"{name} has a damaged clear part: {error}") from error


def _clear(
    facts: SegmentFacts, *, file: str, timeline: int, system_identifier: int, size: int, writer: str
) -> dict[str, Any]:
    return {
        "system_identifier": str(system_identifier),
        "timeline": timeline,
        "segment": file,
        "size": size,
        "first_commit": _text(facts.first_commit),
        "last_commit": _text(facts.last_commit),
        "first_record": _position(facts.first_record),
        "first_prev": _position(facts.first_prev),
        "last_record": _position(facts.last_record),
        "minimal_at": _position(minimal_at(facts)),
        "broken_at": None if facts.complete else str(facts.end),
        "writer": writer,
        "tablespaces": len(facts.tablespaces),
    }


def minimal_at(facts: SegmentFacts) -> Lsn | None:
    """The first change of wal_level to minimal: recovery cannot pass it (CheckRequiredParameterValues)."""
    return next((change.lsn for change in facts.parameter_changes if change.wal_level == "minimal"), None)


def _index(facts: SegmentFacts) -> dict[str, Any]:
    return {
        "restore_points": [
            {"name": point.name, "lsn": str(point.lsn), "time": _text(point.time)} for point in facts.restore_points
        ],
        "tablespaces": [{"oid": each.oid, "path": each.path, "lsn": str(each.lsn)} for each in facts.tablespaces],
        "parameter_changes": [
            {"lsn": str(change.lsn), "wal_level": change.wal_level} for change in facts.parameter_changes
        ],
        "head": _base64(facts.head),
        "tail": _base64(facts.tail),
    }


def _read_index(data: bytes, name: str) -> SegmentIndex:
    try:
        value = canonical.decode(data, name)
        return SegmentIndex(
            restore_points=tuple(
                RestorePoint(str(each["name"]), Lsn.parse(each["lsn"]), _instant(each["time"]))
                for each in value["restore_points"]
            ),
            tablespaces=tuple(
                TablespaceCreate(int(each["oid"]), str(each["path"]), Lsn.parse(each["lsn"]))
                for each in value["tablespaces"]
            ),
            head=_bytes(value["head"]),
            tail=_bytes(value["tail"]),
        )
    except (KeyError, TypeError, ValueError, binascii.Error, PgrecallError) as error:
        raise ObjectDamaged(f"{name} has a damaged index: {error}") from error


def _compress_all(raw: bytes, id_key: bytes, level: int) -> list[tuple[bytes, bytes]]:
    view = memoryview(raw)
    local = threading.local()

    def one(number: int) -> tuple[bytes, bytes]:
        if not hasattr(local, "zstd"):
            local.zstd = compressor(level)
        piece = view[number * FRAME_BYTES : (number + 1) * FRAME_BYTES]
        return local.zstd.compress(piece), blake3(piece, key=id_key).digest()

    return _each_in_threads(one, -(-len(raw) // FRAME_BYTES))


def _each_in_threads(work: Callable[[int], T], count: int) -> list[T]:
    """work(0) … work(count - 1) in two threads (the work releases the GIL); the first error is raised."""
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(first: int) -> None:
        try:
            for number in range(first, count, _THREADS):
                results[number] = work(number)
        except BaseException as error:  # noqa: BLE001  raised again below, in the caller's thread
            errors.append(error)

    helpers = [threading.Thread(target=run, args=(first,)) for first in range(1, min(_THREADS, count))]
    for helper in helpers:
        helper.start()
    run(0)
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
    return [results[number] for number in range(count)]


def _pair(clear: dict[str, Any], name: str) -> tuple[int, int]:
    match clear.get("index"):
        case [int(stored), int(raw)] if 0 < stored <= 16 << 20 and 0 < raw <= 16 << 20:
            return stored, raw
    raise ObjectDamaged(f"{name} has a damaged clear part: index")


def _size(clear: dict[str, Any], name: str) -> int:
    size = clear.get("size")
    if not isinstance(size, int) or not 0 < size <= 1 << 30:
        raise ObjectDamaged(f"{name} has a damaged clear part: size")
    return size


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _moment(text: Any) -> datetime | None:
    return None if text is None else _instant(text)


def _instant(text: str) -> datetime:
    """RFC 3339 in UTC, nothing else: a time without zone could not even be compared."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or not text.endswith("Z"):
        raise ValueError(f"{text!r:.40} is no time in UTC")
    return moment


def _position(lsn: Lsn | None) -> str | None:
    return None if lsn is None else str(lsn)


def _lsn(text: Any) -> Lsn | None:
    return None if text is None else Lsn.parse(text)


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
