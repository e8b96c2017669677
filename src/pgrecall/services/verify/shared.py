"""Owns checking what belongs to the repository as a whole: README, format, the wraps of the root key."""

from collections.abc import Sequence

from pgrecall.errors import DamageFound, FormatUnknown, KeyMismatch, KeyProblem, ObjectMissing, PgrecallError
from pgrecall.repository import keyring, layout
from pgrecall.repository.cluster import ClusterStore
from pgrecall.repository.formatfile import FormatFile
from pgrecall.repository.keyring import RootKey
from pgrecall.repository.readme import README_TEXT
from pgrecall.services.verify.report import Flaws, Kind

LIMIT = 1 << 20
_OURS = frozenset({"format", "keys", "clusters"})


class SharedObjects:
    """The objects above all clusters; small, so they are read one after the other."""

    def __init__(self, store: ClusterStore, secrets: Sequence[str], findings: Flaws) -> None:
        self._store = store
        self._storage = store.storage
        self._secrets = secrets
        self._findings = findings
        self.objects = 0
        self.bytes_read = 0
        self.unopened: list[str] = []
        """Wraps that no secret at hand opens."""

    def check(self, root: RootKey | None) -> None:
        self._readme()
        self._formats(root)
        self._wraps(root)
        for name in self._storage.foreign_names():
            self._findings.add(Kind.NOTE, name, "left alone: it is not ours")
        for name in self._storage.list_dirs(""):
            if name not in _OURS:
                self._findings.add(Kind.NOTE, f"{name}/", "left alone: it belongs to a later version or somebody else")

    def _read(self, key: str) -> bytes:
        data = self._storage.get(key, limit=LIMIT)
        self.objects += 1
        self.bytes_read += len(data)
        return data

    def _readme(self) -> None:
        try:
            if self._read(layout.README) != README_TEXT:
                self._findings.add(Kind.WARNING, layout.README, "is not the text that this version writes")
        except ObjectMissing:
            self._findings.add(Kind.WARNING, layout.README, "is not there")
        except PgrecallError as error:
            self._findings.add(Kind.WARNING, layout.README, error.message)

    def _formats(self, root: RootKey | None) -> None:
        numbers = []
        for info in self._storage.list(layout.FORMAT_PREFIX):
            number = layout.parse_format_key(info.key)
            if number is None:
                self._findings.add(Kind.NOTE, info.key, "left alone: it belongs to a later version or somebody else")
                continue
            numbers.append(number)
            try:
                self._format(FormatFile.decode(self._read(info.key), info.key), root)
            except FormatUnknown as error:
                self._findings.add(Kind.WARNING, info.key, error.message)
            except (DamageFound, KeyProblem) as error:
                self._findings.add(Kind.DAMAGED, info.key, error.message)
        for number in sorted({0, *range(max(numbers, default=0))} - set(numbers)):
            self._findings.add(Kind.MISSING, layout.format_key(number), "is not there: nothing can be written here")

    def _format(self, written: FormatFile, root: RootKey | None) -> None:
        scope = self._store.scope
        if (written.repository, written.sealed) != (scope.repository, scope.keys.sealed):
            raise KeyMismatch("it is the format of another repository")
        if root is not None:
            written.verify(root)

    def _wraps(self, root: RootKey | None) -> None:
        if not self._store.keys.sealed:
            return
        found = 0
        for info in self._storage.list(layout.KEYS_PREFIX):
            place = layout.parse_root_wrap_key(info.key)
            if place is None:
                self._findings.add(Kind.NOTE, info.key, "left alone: it belongs to a later version or somebody else")
                continue
            found += 1
            try:
                opened = keyring.open_wrap(info.key, self._read(info.key), place[1], self._secrets)
            except KeyMismatch as error:
                self._findings.add(Kind.WARNING, info.key, f"{error.message}: it is damaged, or for another one")
                continue
            except DamageFound as error:
                self._findings.add(Kind.DAMAGED, info.key, error.message)
                continue
            if opened is None:
                self.unopened.append(info.key)
            elif root is not None and opened != root and opened.generation == root.generation:
                self._findings.add(Kind.DAMAGED, info.key, "holds another root key than the others")
        if not found:
            text = "no root key is stored: only hosts with a key file can read this repository"
            self._findings.add(Kind.MISSING, layout.KEYS_PREFIX, text)
