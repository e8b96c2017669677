"""Canonical JSON: one way to write a value, and nothing else is read."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.errors import ObjectDamaged, PgrecallError
from pgrecall.repository import canonical

NESTED: Any = 1
for _ in range(canonical.MAX_NESTING + 1):
    NESTED = [NESTED]

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("aäz~", max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(value=st.dictionaries(st.text("abc"), VALUES, max_size=4))
def test_every_value_reads_back(value: dict[str, Any]) -> None:
    assert canonical.decode(canonical.encode(value), "it") == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b'{"a":1} ',
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":-0}',
        b'{"a":01}',
        b'{"a":9007199254740993}',
        b'{"a":' + b"9" * 10_000 + b"}",
        b'{"a":"\\u0041"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":' + b"[" * 20 + b"]" * 20 + b"}",
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"a":1}{"a":1}',
        b"{'a':1}",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_not_canonical_is_damage(data: bytes) -> None:
    with pytest.raises(ObjectDamaged, match="it holds no canonical JSON"):
        canonical.decode(data, "it")


@given(data=st.binary(max_size=60) | st.text('{}[]",:\\0123456789abtrue nl.eE-+', max_size=40).map(str.encode))
def test_random_bytes_raise_only_errors_with_a_name(data: bytes) -> None:
    with contextlib.suppress(PgrecallError):
        assert canonical.encode(canonical.decode(data, "it")) == data


@pytest.mark.parametrize("value", [1.5, b"bytes", {1, 2}, 1 << 60, NESTED])
def test_writing_what_nobody_may_read_is_a_bug(value: Any) -> None:
    with pytest.raises(AssertionError):
        canonical.encode({"a": value})


def test_a_text_of_millions_of_values_is_refused_before_it_unfolds() -> None:
    bomb = b'{"a":[' + b"{}," * 6_000_000 + b"{}]}"
    with pytest.raises(ObjectDamaged, match="more values"):
        canonical.decode(bomb, "it")
    long_text = canonical.encode({"a": "x" * 12_000_001})
    assert len(canonical.decode(long_text, "it")["a"]) == 12_000_001
