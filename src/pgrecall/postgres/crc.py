"""CRC-32C (Castagnoli) as PostgreSQL uses it for pg_control and WAL records: by C, or a table in Python."""

from pgrecall.postgres.accel import Buffer, load_native

POLYNOMIAL = 0x82F63B78  # reflected


def _table() -> tuple[int, ...]:
    entries = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ POLYNOMIAL if entry & 1 else entry >> 1
        entries.append(entry)
    return tuple(entries)


_TABLE = _table()
_native = load_native()


def crc32c_python(data: Buffer, value: int = 0) -> int:
    """The twin of `_native.crc32c`; a second or so for 16 MiB."""
    table = _TABLE
    crc = value ^ 0xFFFFFFFF
    for octet in memoryview(data).cast("B"):
        crc = table[(crc ^ octet) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def crc32c(data: Buffer, value: int = 0) -> int:
    """The CRC of data, or of what had `value` as its CRC and then data."""
    if _native is None:
        return crc32c_python(data, value)
    result: int = _native.crc32c(data, value)
    return result
