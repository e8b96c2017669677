"""Owns canonical JSON: one byte string per value, and a decoder that accepts nothing else.

UTF-8, keys sorted, no white space, integers within ±2^53 and no other numbers, nesting at most 16, not too many values.
"""

import json
from typing import Any

from pgrecall.errors import ObjectDamaged

MAX_NESTING = 16
MAX_SEPARATORS = 12_000_000
"""Of `,`, `[` and `{` together: bounds what a text of few bytes becomes in memory (1.3 million directories)."""
_MAX_INTEGER = 1 << 53
_MAX_DIGITS = 17


def encode(value: Any) -> bytes:
    """The canonical bytes of dicts, lists, texts, integers, booleans and None; any other value is a bug."""
    assert _is_plain(value), "this value has no canonical JSON"
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def decode(data: bytes | bytearray | memoryview, what: str) -> dict[str, Any]:
    """The object that `data` encodes canonically; ObjectDamaged names `what` for anything else."""
    if len(data) > MAX_SEPARATORS and sum(map(bytes(data).count, (b",", b"[", b"{"))) > MAX_SEPARATORS:
        raise ObjectDamaged(f"{what} holds more values than any object has")
    try:
        value = json.loads(str(data, "utf-8"), parse_int=_integer, parse_float=_no_number, parse_constant=_no_number)
        # Comparing with the one right encoding refuses white space, unsorted and duplicate keys, odd escapes.
        if isinstance(value, dict) and _is_plain(value) and encode(value) == data:
            return value
    except (ValueError, RecursionError) as error:
        raise ObjectDamaged(f"{what} holds no canonical JSON") from error
    raise ObjectDamaged(f"{what} holds no canonical JSON object")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS or abs(number := int(text)) > _MAX_INTEGER:
        raise ValueError("integer out of range")
    return number


def _no_number(text: str) -> Any:
    raise ValueError(f"{text[:20]} is not an integer")


def _is_plain(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_NESTING + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not all(isinstance(item, dict | list) or _is_leaf(item) for item in level):
            return False
        if not containers:
            return True
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return False


def _is_leaf(value: Any) -> bool:
    if isinstance(value, int):
        return -_MAX_INTEGER <= value <= _MAX_INTEGER
    return value is None or isinstance(value, str)
