"""Objects: what goes in comes out, and nothing else ever does."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrecall.errors import FormatUnknown, KeyMismatch, ObjectDamaged, PgrecallError
from pgrecall.repository.envelope import FrameOpener, ObjectReader, ObjectWriter, check_object, read_clear
from pgrecall.repository.frames import MAX_LEVEL, compressor
from pgrecall.repository.header import FOOTER_SIZE, HEADER_SIZE, ObjectType
from pgrecall.repository.secrets import Keys, Scope

REPOSITORY, CLUSTER = bytes(range(16)), bytes(range(16, 32))
NAME = "packs/20261120T010003Z-full/00000001"
SEALED = Scope(REPOSITORY, CLUSTER, Keys.of_sealed(1, b"d" * 32, b"i" * 32))
UNSEALED = Scope(REPOSITORY, CLUSTER, Keys.of_unsealed(CLUSTER, b"m" * 32))
KEYLESS = Scope(REPOSITORY, CLUSTER, Keys.of_unsealed(CLUSTER, None))
SCOPES = pytest.mark.parametrize("scope", [SEALED, UNSEALED], ids=["sealed", "unsealed"])

FRAMES = st.lists(st.binary(max_size=2000) | st.builds(lambda n: b"page" * n, st.integers(0, 3000)), max_size=6)
CLEAR = st.none() | st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-9, 9) | st.text())


def build(
    scope: Scope,
    *frames: bytes,
    clear: dict[str, Any] | None = None,
    kind: ObjectType = ObjectType.PACK,
    name: str = NAME,
    padded: bool = False,
) -> bytes:
    writer = ObjectWriter(scope, kind, name, clear=clear, capacity=64, padded=padded)
    for frame in frames:
        writer.add(frame)
    return bytes(writer.finish())


def full_read(scope: Scope, data: bytes, kind: ObjectType = ObjectType.PACK, name: str = NAME) -> list[bytes]:
    reader = ObjectReader(scope, kind, name, data)
    return [reader.read(frame.number) for frame in reader.frames]


@settings(max_examples=60, deadline=None)
@given(frames=FRAMES, clear=CLEAR, sealed=st.booleans(), padded=st.booleans())
def test_every_object_reads_back(frames: list[bytes], clear: dict[str, Any] | None, sealed: bool, padded: bool) -> None:
    scope = SEALED if sealed else UNSEALED
    data = build(scope, *frames, clear=clear, padded=padded)
    reader = ObjectReader(scope, ObjectType.PACK, NAME, data)
    assert [reader.read(number) for number in range(len(frames))] == frames
    assert reader.payload() == b"".join(frames)
    assert reader.clear == read_clear(data) == (clear or {})
    assert reader.authentic
    assert [frame.id for frame in reader.frames] == [scope.keys.chunk_id(frame) for frame in frames]


@SCOPES
@pytest.mark.parametrize("padded", [False, True], ids=["plain", "padded"])
def test_no_single_changed_bit_goes_unnoticed(scope: Scope, padded: bool) -> None:
    data = build(scope, b"some rows" * 9, b"\0" * 100, clear={"label": "x"}, padded=padded)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        with pytest.raises((ObjectDamaged, KeyMismatch)):
            full_read(scope, bytes(changed))


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7), sealed=st.booleans())
def test_a_bit_changed_by_somebody_who_mends_the_hash_is_noticed(place: int, bit: int, sealed: bool) -> None:
    scope = SEALED if sealed else UNSEALED
    data = bytearray(build(scope, b"some rows" * 9, b"other rows" * 30, clear={"label": "x"}))
    place %= len(data) - 64
    data[place] ^= 1 << bit
    with pytest.raises((ObjectDamaged, KeyMismatch, FormatUnknown)):
        full_read(scope, mend_hash(data))


@SCOPES
def test_a_truncated_or_lengthened_object_is_refused(scope: Scope) -> None:
    data = build(scope, b"some rows" * 9, clear={"label": "x"})
    for length in range(len(data)):
        with pytest.raises(ObjectDamaged):
            full_read(scope, data[:length])
    for more in (b"\0", data, data[-FOOTER_SIZE:]):
        with pytest.raises(ObjectDamaged):
            full_read(scope, data + more)


@SCOPES
def test_an_object_in_another_place_is_refused(scope: Scope) -> None:
    data = build(scope, b"rows")
    other = bytes(16)
    with pytest.raises(ObjectDamaged):
        full_read(scope, data, name="packs/20261120T010003Z-full/00000002")
    with pytest.raises(ObjectDamaged):
        full_read(replace(scope, repository=other), data)
    with pytest.raises((ObjectDamaged, KeyMismatch)):
        full_read(replace(scope, cluster=other), data)
    with pytest.raises(ObjectDamaged, match="holds a pack, not a manifest"):
        full_read(scope, data, kind=ObjectType.MANIFEST)


def test_an_unsealed_object_in_a_sealed_repository_is_refused() -> None:
    public_id_key = Keys.of_unsealed(CLUSTER, None).id_key
    for forger in (UNSEALED, KEYLESS):
        forged = build(forger, b"rows")
        for keys in (SEALED.keys, Keys.of_sealed(1, b"d" * 32, public_id_key)):
            with pytest.raises(KeyMismatch, match="not sealed"):
                full_read(replace(SEALED, keys=keys), forged)


def test_another_key_or_generation_is_told_from_damage() -> None:
    data = build(SEALED, b"rows")
    with pytest.raises(KeyMismatch, match="another key"):
        full_read(replace(SEALED, keys=Keys.of_sealed(1, b"D" * 32, b"i" * 32)), data)
    with pytest.raises(KeyMismatch, match="generation 1"):
        full_read(replace(SEALED, keys=Keys.of_sealed(2, b"d" * 32, b"i" * 32)), data)
    with pytest.raises(KeyMismatch, match="there is no key"):
        full_read(UNSEALED, data)


def test_without_a_mac_key_an_object_is_intact_but_not_authentic() -> None:
    reader = ObjectReader(KEYLESS, ObjectType.PACK, NAME, build(UNSEALED, b"rows"))
    assert not reader.authentic
    assert reader.read(0) == b"rows"


def test_stripping_the_mac_does_not_help() -> None:
    data = build(KEYLESS, b"forged rows")
    assert data[-32:] == bytes(32)
    with pytest.raises(ObjectDamaged, match="authentication"):
        full_read(UNSEALED, data)


def test_a_host_without_any_key_can_check_an_object() -> None:
    data = build(SEALED, b"rows", clear={"label": "x"})
    header, footer = check_object(data, None, NAME)
    assert (header.type, header.sealed, footer.frames) == (ObjectType.PACK, True, 1)
    assert read_clear(data[: HEADER_SIZE + 20]) == {"label": "x"}
    with pytest.raises(ObjectDamaged):
        check_object(data[:200] + b"!" + data[201:], None, NAME)


def test_two_attempts_share_neither_salt_nor_ciphertext() -> None:
    one, two = build(SEALED, b"rows" * 100), build(SEALED, b"rows" * 100)
    assert one[32:64] != two[32:64]
    assert one[HEADER_SIZE : HEADER_SIZE + 20] != two[HEADER_SIZE : HEADER_SIZE + 20]


def test_a_sealed_object_shows_no_word_of_what_is_in_it() -> None:
    data = build(SEALED, b"SECRET-ROWS", clear={"label": "x"})
    assert b"SECRET" not in data
    assert b"label" in data


def test_padding_hides_the_compressed_length() -> None:
    sizes = {len(build(SEALED, bytes([1]) * length, padded=True)) for length in (10, 100, 200)}
    assert len(sizes) == 1


def test_a_newer_format_is_told_from_damage() -> None:
    data = bytearray(build(SEALED, b"rows"))
    data[8] = 2
    with pytest.raises(FormatUnknown, match="format 2"):
        full_read(SEALED, mend_hash(data))
    with pytest.raises(ObjectDamaged):
        full_read(SEALED, bytes(data))


def test_an_unknown_critical_flag_is_refused_and_another_one_is_not() -> None:
    data = bytearray(build(KEYLESS, b"rows"))
    data[12] |= 4
    with pytest.raises(FormatUnknown):
        full_read(KEYLESS, mend_hash(data))
    data[12] &= ~4 & 0xFF
    data[14] |= 1
    assert full_read(KEYLESS, mend_hash(data)) == [b"rows"]


def test_one_buffer_serves_many_objects_and_grows_when_it_must() -> None:
    buffer = bytearray(4096)
    zstd = compressor(1)
    for size in (10, 20_000, 500):
        raw = bytes(zstandard.ZstdCompressor().compress(b"x")) * size
        writer = ObjectWriter(SEALED, ObjectType.PACK, NAME, buffer=buffer, zstd=zstd)
        for number in range(3):
            writer.add(raw + bytes([number]))
        data = writer.finish()
        assert full_read(SEALED, bytes(data))[2] == raw + b"\2"
        assert writer.size == len(data)
        buffer = writer.buffer


def test_chunks_compressed_elsewhere_are_sealed_as_they_are() -> None:
    writer = ObjectWriter(SEALED, ObjectType.PACK, NAME)
    raw = b"rows" * 1000
    frame = writer.add_compressed(compressor(19).compress(raw), len(raw), SEALED.keys.chunk_id(raw))
    data = writer.finish()
    assert (frame.number, frame.offset, frame.raw) == (0, HEADER_SIZE, len(raw))
    assert full_read(SEALED, bytes(data)) == [raw]


@pytest.mark.parametrize("level", [-5, 1, 3, MAX_LEVEL])
def test_every_level_stays_within_the_window(level: int) -> None:
    raw = bytes(range(256)) * 4096 * 9
    writer = ObjectWriter(UNSEALED, ObjectType.PACK, NAME, level=level)
    writer.add(raw)
    assert full_read(UNSEALED, bytes(writer.finish())) == [raw]


# Single chunks, as restores read them ---------------------------------------------------------------------------------
def opener(scope: Scope, writer: ObjectWriter) -> FrameOpener:
    return FrameOpener(scope, ObjectType.PACK, NAME, writer.generation, writer.flags, writer.salt)


@SCOPES
def test_a_chunk_opens_without_its_pack(scope: Scope) -> None:
    writer = ObjectWriter(scope, ObjectType.PACK, NAME)
    raws = [bytes([number]) * 9000 for number in range(5)]
    frames = [writer.add(raw) for raw in raws]
    data = writer.finish()
    opens = opener(scope, writer)
    out = memoryview(bytearray(10_000))
    for frame, raw in zip(frames, raws, strict=True):
        stored = data[frame.offset : frame.offset + frame.stored]
        assert opens.open(stored, frame.number, frame.raw, frame.id[:16]) == raw
        assert opens.open(stored, frame.number, frame.raw, None) == raw
        assert opens.open(stored, frame.number, frame.raw, frame.id, out) == raw
        with pytest.raises(ObjectDamaged):
            opens.open(stored, frame.number, frame.raw, bytes(16))
        with pytest.raises(ObjectDamaged):
            opens.open(stored, frame.number, frame.raw + 1, frame.id)
        with pytest.raises(ObjectDamaged):
            opens.open(stored[:-1], frame.number, frame.raw, frame.id)
        with pytest.raises(ObjectDamaged):
            opens.open(b"", frame.number, frame.raw, frame.id)
        if scope.keys.sealed:
            with pytest.raises(ObjectDamaged):
                opens.open(stored, frame.number + 1, frame.raw, frame.id)


def test_many_threads_may_share_one_opener() -> None:
    writer = ObjectWriter(SEALED, ObjectType.PACK, NAME)
    raws = [bytes([number]) * 70_000 for number in range(40)]
    frames = [writer.add(raw) for raw in raws]
    data = bytes(writer.finish())
    opens = opener(SEALED, writer)
    barrier = threading.Barrier(4)

    def read(_: int) -> bool:
        barrier.wait()
        return all(
            opens.open(data[frame.offset : frame.offset + frame.stored], frame.number, frame.raw, frame.id) == raw
            for frame, raw in zip(frames, raws, strict=True)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


def unsealed_opener() -> FrameOpener:
    return FrameOpener(KEYLESS, ObjectType.PACK, NAME, 0, 0, bytes(32))


def test_a_bomb_is_refused_before_it_unfolds() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    for claimed in (131_072, 1 << 28):
        with pytest.raises(ObjectDamaged):
            unsealed_opener().open(bomb, 0, claimed, None)


@pytest.mark.parametrize("raw", [b"", b"rows" * 100], ids=["empty", "rows"])
def test_anything_beside_one_plain_frame_is_refused(raw: bytes) -> None:
    z = compressor(3).compress(raw)
    skippable = b"\x50\x2a\x4d\x18" + len(raw).to_bytes(4, "little") + raw
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(raw)
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=24, write_content_size=True)
    ).compress(bytes(1 << 24))
    assert unsealed_opener().open(z, 0, len(raw), None) == raw
    for bad in (z + b"!", z + z, skippable, skippable + z, z + skippable, unsized, z[:-1], b"", raw):
        with pytest.raises(ObjectDamaged):
            unsealed_opener().open(bad, 0, len(raw), None)
    with pytest.raises(ObjectDamaged):
        unsealed_opener().open(wide, 0, 1 << 24, None)


# Whatever the bytes, only errors with a name --------------------------------------------------------------------------
@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=600), sealed=st.booleans(), begins=st.booleans(), ends=st.booleans())
def test_random_bytes_raise_only_errors_with_a_name(data: bytes, sealed: bool, begins: bool, ends: bool) -> None:
    scope = SEALED if sealed else KEYLESS
    good = build(scope, b"rows", clear={"label": "x"})
    if begins:
        data = good[:HEADER_SIZE] + data
    if ends and len(data) >= FOOTER_SIZE:
        data = mend_hash(bytearray(data))
    for decode in (
        lambda: full_read(scope, data),
        lambda: read_clear(data),
        lambda: check_object(data, None, "x"),
        lambda: unsealed_opener().open(data, 0, 100, None),
        lambda: unsealed_opener().open(b"\x28\xb5\x2f\xfd" + data, 0, 100, None),
    ):
        with contextlib.suppress(PgrecallError):
            decode()


@settings(max_examples=200, deadline=None)
@given(
    place=st.integers(0, 127),
    value=st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]),
    width=st.sampled_from([1, 4, 8]),
    footer=st.booleans(),
)
def test_hostile_numbers_raise_only_errors_with_a_name(place: int, value: int, width: int, footer: bool) -> None:
    data = bytearray(build(KEYLESS, b"rows", b"more rows"))
    start = len(data) - FOOTER_SIZE if footer else 0
    for at in range(start + place, min(start + place + width, len(data))):
        data[at] = value
    with contextlib.suppress(PgrecallError):
        assert full_read(KEYLESS, mend_hash(data)) == [b"rows", b"more rows"]


def mend_hash(data: bytearray) -> bytes:
    """As an attacker does who has no key."""
    covered = bytes(data[:-64])
    return covered + blake3(covered).digest() + data[-32:]


def test_keys_never_show_themselves() -> None:
    for text in (repr(SEALED), repr(SEALED.keys), str(SEALED.keys)):
        assert "dddd" not in text
        assert "iiii" not in text
