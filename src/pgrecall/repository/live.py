"""Owns liveness: which packs a backup needs, as one bitmap per run (format.md §6)."""

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping

from pgrecall.domain.label import BackupLabel
from pgrecall.errors import ObjectDamaged, ValueInvalid
from pgrecall.repository.columns import PACK_MAX, PackRef


class LivePacks:
    """A set of packs. Not thread-safe."""

    def __init__(self) -> None:
        self._bitmaps: dict[int, bytearray] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LivePacks) and set(self) == set(other)

    __hash__ = None  # type: ignore[assignment]

    def add(self, packs: Iterable[PackRef]) -> None:
        for run, pack in packs:
            assert 0 < pack <= PACK_MAX, f"pack {pack} has no bit"
            bitmap = self._bitmaps.setdefault(run, bytearray())
            byte, bit = divmod(pack - 1, 8)
            if byte >= len(bitmap):
                bitmap.extend(bytes(byte + 1 - len(bitmap)))
            bitmap[byte] |= 1 << bit

    def __contains__(self, pack: PackRef) -> bool:
        bitmap = self._bitmaps.get(pack.run, b"")
        byte, bit = divmod(pack.pack - 1, 8)
        return 0 <= byte < len(bitmap) and bool(bitmap[byte] >> bit & 1)

    def __iter__(self) -> Iterator[PackRef]:
        """By run, then by seq."""
        for run in sorted(self._bitmaps):
            for byte, bits in enumerate(self._bitmaps[run]):
                for bit in range(8):
                    if bits >> bit & 1:
                        yield PackRef(run, 8 * byte + bit + 1)

    def __len__(self) -> int:
        return sum(int.from_bytes(bitmap).bit_count() for bitmap in self._bitmaps.values())

    def runs(self) -> list[int]:
        """Numbers of the runs that any of these packs belongs to, oldest first."""
        return sorted(run for run, bitmap in self._bitmaps.items() if any(bitmap))

    def to_json(self) -> dict[str, str]:
        return {str(BackupLabel.from_number(run)): base64.b64encode(self._bitmaps[run]).decode() for run in self.runs()}

    @classmethod
    def from_json(cls, value: Mapping[str, object], what: str) -> "LivePacks":
        live = cls()
        for run, text in value.items():
            try:
                number = BackupLabel.parse(run).number
                bitmap = base64.b64decode(text if isinstance(text, str) else "", validate=True)
            except (ValueInvalid, binascii.Error, ValueError):
                raise ObjectDamaged(f"{what}: the packs of {run!r:.80} cannot be read") from None
            highest = 8 * len(bitmap) - 8 + bitmap[-1].bit_length() if bitmap else 0
            if not 0 < highest <= PACK_MAX or not bitmap[-1] or base64.b64encode(bitmap).decode() != text:
                raise ObjectDamaged(f"{what}: the packs of {run!r:.80} cannot be read")
            live._bitmaps[number] = bytearray(bitmap)
        return live
