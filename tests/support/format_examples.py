"""The worked examples of docs/format.md §13: made with fixed keys and salt, written as annotated hex, read back.

`python -m tests.support.format_examples` prints the section's blocks, for a change of the format.
"""

import re
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np

from pgrecall.domain.label import BackupLabel
from pgrecall.repository.columns import ChunkRef, pointer_rows
from pgrecall.repository.envelope import ObjectWriter
from pgrecall.repository.extents import Extents, Ranges
from pgrecall.repository.fileblock import BY_LIST, FILE, IN_BLOCK, FileBlock
from pgrecall.repository.header import ObjectType
from pgrecall.repository.node import Node
from pgrecall.repository.secrets import Keys, Scope

Line = tuple[bytes, str]

REPOSITORY, CLUSTER = bytes(range(16)), bytes(range(16, 32))
SEALED = Scope(REPOSITORY, CLUSTER, Keys.of_sealed(1, b"\xda" * 32, b"\x1d" * 32))
UNSEALED = Scope(REPOSITORY, CLUSTER, Keys.of_unsealed(CLUSTER, b"\x3a" * 32))
SALT = b"\x5a" * 32
RUN = BackupLabel.parse("20261120T153127Z-full")
CLAIM_NAME = f"backups/{RUN}/claim"
PACK_NAME = f"packs/{RUN}/00000001"
CLAIM: dict[str, object] = {
    "at": "2026-11-20T15:31:27Z",
    "cluster": CLUSTER.hex(),
    "host": "db1",
    "label": str(RUN),
    "parents": [],
    "start_lsn": None,
    "timeline": None,
    "token_hash": "00" * 32,
}
CONTENT = b"a page, or sixteen"
PLACE = ChunkRef(RUN.number, 1, 0, 96, 43, len(CONTENT), SEALED.keys.chunk_id(CONTENT)[:16])

_HEADER = (
    (8, "magic"),
    (2, "format 1"),
    (2, "type"),
    (4, "flags"),
    (4, "key generation"),
    (4, "length of the clear part"),
    (8, "reserved"),
    (32, "salt"),
    (32, "key commitment"),
)
_FOOTER = (
    (8, "offset of the table"),
    (4, "its stored length"),
    (4, "its raw length"),
    (4, "frames"),
    (4, "reserved"),
    (8, "size of the object"),
    (32, "reserved"),
    (32, "BLAKE3 of every byte before"),
    (32, "MAC"),
)
_EXTENTS = ("start", "length", "run", "pack", "chunk", "offset", "stored", "raw", "place", "kind", "id")
_WIDTHS = {"run": 8, "kind": 1, "id": 16}


def make_claim() -> bytes:
    with patch("os.urandom", lambda length: SALT[:length]):
        return bytes(ObjectWriter(UNSEALED, ObjectType.CLAIM, CLAIM_NAME, clear=CLAIM).finish())


def make_pack() -> bytes:
    with patch("os.urandom", lambda length: SALT[:length]):
        writer = ObjectWriter(SEALED, ObjectType.PACK, PACK_NAME)
    writer.add(CONTENT)
    return bytes(writer.finish())


def make_node() -> Node:
    """The last page and a hole of a file of 16 MiB + 20 bytes: 12 of the chunk's bytes, then zeros."""
    extents = Extents.of([(0, 12, PLACE, 2), (12, 8, None, 0)])
    digest = SEALED.keys.chunk_id(CONTENT[2:14] + bytes(8))[:16]
    return Node(b"base/5/16384", 16 << 20, 20, Ranges.of([digest]), extents)


def make_block() -> FileBlock:
    """A file that is one chunk, an empty file, and a large one that has a node list."""
    files = np.zeros(3, FILE)
    files["name_end"] = (4, 12, 17)
    files["mode"] = 0o600
    files["storage"] = (IN_BLOCK, IN_BLOCK, BY_LIST)
    files["size"] = (len(CONTENT), 0, (16 << 20) + 20)
    files["mtime"] = 1_795_188_687_000_000_000
    files["inode"] = (101, 102, 103)
    files["ranges"] = files["extents"] = (1, 0, 0)
    files["pointers"] = (0, 0, 1)
    node_list = PLACE._replace(pack=2, chunk=3, offset=4096, stored=180, raw=144)
    return FileBlock(
        b"base/5",
        b"1259" + b"1259_fsm" + b"16384",
        files,
        Ranges.of([PLACE.id16]).rows,
        Extents.data(PLACE).rows,
        pointer_rows([node_list]),
    )


def _object(data: bytes, middle: list[tuple[int, str]]) -> Iterator[Line]:
    yield from _cut(data, [*_HEADER, *middle, *_FOOTER])


def _cut(data: bytes, fields: list[tuple[int, str]]) -> Iterator[Line]:
    at = 0
    for length, comment in fields:
        yield data[at : at + length], comment
        at += length
    assert at == len(data), (at, len(data))


def _columns(count: int, names: tuple[str, ...], what: str) -> list[tuple[int, str]]:
    return [(-(-_WIDTHS.get(name, 4) * count // 8) * 8, f"{what}: {name}") for name in names]


def examples() -> dict[str, list[Line]]:
    claim, pack = make_claim(), make_pack()
    clear = int.from_bytes(claim[20:24], "little")
    table_at, table = int.from_bytes(pack[-128:-120], "little"), int.from_bytes(pack[-120:-116], "little")
    node_fields = [
        (4, "magic"),
        (4, "version 1"),
        (8, "offset in the file: 16 MiB"),
        (4, "length: 20"),
        (4, "ranges"),
        (4, "extents"),
        (4, "length of the path"),
        (16, "base/5/16384, padded"),
        (8, "ranges: state"),
        (16, "ranges: digest"),
        *_columns(2, _EXTENTS, "extents"),
    ]
    block_fields = [
        (4, "magic"),
        (4, "version 1"),
        (4, "files"),
        (4, "ranges"),
        (4, "extents"),
        (4, "pointers"),
        (4, "length of all names"),
        (4, "length of the directory's path"),
        (8, "base/5, padded"),
        (24, "1259, 1259_fsm, 16384, padded"),
        (16, "files: name end"),
        (8, "files: mode"),
        (8, "files: owner"),
        (8, "files: group"),
        (8, "files: storage"),
        (24, "files: size"),
        (24, "files: mtime"),
        (24, "files: birth"),
        (24, "files: inode"),
        (16, "files: ranges"),
        (16, "files: extents"),
        (16, "files: pointers"),
        (8, "ranges: state"),
        (16, "ranges: digest"),
        *_columns(1, _EXTENTS, "extents"),
        (48, "the pointer to the node list of 16384"),
    ]
    return {
        "unsealed claim": list(_object(claim, [(clear, "clear part"), (len(claim) - clear - 224, "table, empty")])),
        "sealed pack": list(_object(pack, [(table_at - 96, "frame 0"), (table, "table")])),
        "node": list(_cut(make_node().encode(), node_fields)),
        "file block": list(_cut(make_block().encode(), block_fields)),
    }


def render(lines: list[Line], width: int = 24) -> Iterator[str]:
    for data, comment in lines:
        for at in range(0, len(data), width):
            yield f"{data[at : at + width].hex(' '):{3 * width}}| {comment if not at else ''}".rstrip(" ")


def parse(text: str) -> dict[str, bytes]:
    """Name → bytes of every example in a document."""
    blocks = re.findall(r"^```\nexample: ([^\n]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return {name: bytes.fromhex("".join(line.partition("|")[0] for line in body.splitlines())) for name, body in blocks}


def main() -> None:
    for name, lines in examples().items():
        print("```", f"example: {name}", *render(lines), "```", "", sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
