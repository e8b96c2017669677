"""The examples of docs/format.md are what the code writes, and what it reads says what the page says."""

from pathlib import Path

import pytest

from pgrecall.repository.envelope import FrameOpener, ObjectReader
from pgrecall.repository.fileblock import FileBlock
from pgrecall.repository.header import ObjectType
from pgrecall.repository.node import Node
from tests.support.format_examples import (
    CLAIM,
    CLAIM_NAME,
    CONTENT,
    PACK_NAME,
    PLACE,
    SALT,
    SEALED,
    UNSEALED,
    examples,
    parse,
    render,
)

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
IN_PAGE = parse(PAGE)


def test_the_page_has_every_example_and_no_other() -> None:
    assert list(IN_PAGE) == list(examples())


@pytest.mark.parametrize("name", examples())
def test_the_code_writes_the_bytes_on_the_page(name: str) -> None:
    """If only the compressor changed, print the section anew with `python -m tests.support.format_examples`."""
    lines = examples()[name]
    assert IN_PAGE[name] == b"".join(data for data, _ in lines)
    assert "\n".join(render(lines)) in PAGE


def test_the_unsealed_claim_reads_as_the_page_says() -> None:
    claim = ObjectReader(UNSEALED, ObjectType.CLAIM, CLAIM_NAME, IN_PAGE["unsealed claim"])
    assert (claim.clear, claim.frames, claim.authentic) == (CLAIM, [], True)


def test_the_sealed_pack_reads_as_the_page_says() -> None:
    pack = ObjectReader(SEALED, ObjectType.PACK, PACK_NAME, IN_PAGE["sealed pack"])
    assert pack.payload() == CONTENT and pack.header.salt == SALT


def test_a_node_leads_to_its_bytes_without_the_packs_table() -> None:
    node = Node.decode(IN_PAGE["node"])
    assert (node.path, node.offset, node.length) == (b"base/5/16384", 16 << 20, 20)
    data, zeros = node.extents.rows.tolist()
    start, length, _, _, chunk, offset, stored, raw, place, _, chunk_id = data
    opener = FrameOpener(SEALED, ObjectType.PACK, PACK_NAME, 1, 1, SALT)
    content = opener.open(IN_PAGE["sealed pack"][offset : offset + stored], chunk, raw, chunk_id)
    assert (start, content[place : place + length]) == (0, b"page, or six")
    assert zeros[:2] == (12, 8)
    assert node.ranges.digest(0) == SEALED.keys.chunk_id(b"page, or six" + bytes(8))[:16]


def test_the_file_block_reads_as_the_page_says() -> None:
    one, empty, large = FileBlock.decode(IN_PAGE["file block"])
    assert [each.path for each in (one, empty, large)] == [b"base/5/1259", b"base/5/1259_fsm", b"base/5/16384"]
    assert one.extents is not None and one.extents.length == len(CONTENT)
    assert one.ranges is not None and one.ranges.digests() == [PLACE.id16]
    assert (empty.entry.size, large.entry.size) == (0, (16 << 20) + 20)
    assert large.node_list is not None and large.node_list.pack_ref == (PLACE.run, 2)
