"""Owns the root key: making it, wrapping it for each recipient, getting it back from a secret that a person holds."""

import re
import secrets as random_secrets
from collections.abc import Sequence
from dataclasses import dataclass

import pyrage  # type: ignore[import-untyped]
from blake3 import blake3

from pgrecall.errors import KeyMismatch, KeyProblem, ObjectDamaged
from pgrecall.repository import agefile, canonical
from pgrecall.repository.fields import U32, Fields, base64_text
from pgrecall.repository.layout import KEYS_PREFIX, parse_root_wrap_key, root_wrap_key
from pgrecall.repository.secrets import KEY_SIZE, Keys, derive
from pgrecall.storage.base import Storage

# Crockford's base 32: no i, l, o, u. Six groups of four are 120 bits.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_GROUPS, _GROUP = 6, 4
_TYPED_ALIKE = str.maketrans({"o": "0", "i": "1", "l": "1", "-": None, " ": None})
_GENERATED = re.compile(rf"[{_ALPHABET}]{{{_GROUPS * _GROUP}}}\Z")
_IDENTITY = re.compile(r"^AGE-SECRET-KEY-1[0-9A-Z]+$", re.MULTILINE)
_PASSPHRASE = "passphrase-"


@dataclass(frozen=True, repr=False)
class RootKey:
    """Opens every cluster of a repository. No database host ever holds it.

    The repository's id is derived from its first root key and every later one carries those before it: so nobody can
    make a newer root key, for whoever pins the id, but a holder of the first.
    """

    repository: bytes
    generation: int
    key: bytes
    older: tuple[bytes, ...] = ()
    """The keys of generations 1, 2, … before this one."""

    @property
    def proven(self) -> bool:
        """Whether this is a root key of the repository that it names."""
        return self.repository == repository_id((*self.older, self.key)[0])

    def __repr__(self) -> str:
        return f"<RootKey generation {self.generation} of {self.repository.hex()}>"

    @property
    def keys(self) -> Keys:
        """What seals the clusters' key objects."""
        return Keys.of_root(self.generation, self.key)

    @property
    def older_keys(self) -> tuple[Keys, ...]:
        """What earlier key objects were sealed with."""
        return tuple(Keys.of_root(number, key) for number, key in enumerate(self.older, 1))

    def format_macs(self, body: bytes) -> list[str]:
        """Of `format/<n>.json` without its `hash` and `mac`: first that of this generation, then the older ones."""
        keys = (self.key, *reversed(self.older))
        return [blake3(body, key=derive(key, "pgrecall/1/format")).hexdigest() for key in keys]

    def encode(self) -> bytes:
        return canonical.encode(
            {
                "kind": "pgrecall-root",
                "repository": self.repository.hex(),
                "generation": self.generation,
                "key": base64_text(self.key),
                "older": [base64_text(each) for each in self.older],
            }
        )

    @classmethod
    def decode(cls, data: bytes, what: str) -> "RootKey":
        fields = Fields(canonical.decode(data, what), what)
        fields.one_of("kind", "pgrecall-root")
        generation = fields.integer("generation", 1, U32)
        keys = (*(_decoded(each, what) for each in fields.texts("older")), _decoded(fields.text("key"), what))
        if len(keys) != generation:
            raise ObjectDamaged(f"{what} holds {len(keys)} keys, not those of generations 1 to {generation}")
        return cls(fields.hex("repository", 16), generation, keys[-1], keys[:-1])


@dataclass(frozen=True, repr=False)
class Wrap:
    """One recipient's copy of the root key, as it is stored."""

    key: str
    data: bytes


def repository_id(first_root: bytes) -> bytes:
    """The id of the sealed repository whose first root key this is."""
    return derive(first_root, "pgrecall/1/repository", length=16)


def new_root() -> RootKey:
    """The first root key of a new repository."""
    key = random_secrets.token_bytes(KEY_SIZE)
    return RootKey(repository_id(key), 1, key)


def next_root(root: RootKey) -> RootKey:
    """The root key of the next generation, which opens what those before it did."""
    return RootKey(root.repository, root.generation + 1, random_secrets.token_bytes(KEY_SIZE), (*root.older, root.key))


def _decoded(text: str, what: str) -> bytes:
    key = Fields({"key": text}, what).base64("key")
    if len(key) != KEY_SIZE:
        raise ObjectDamaged(f"{what} holds a key of {len(key)} bytes")
    return key


def new_identity() -> str:
    """`AGE-SECRET-KEY-1…`, as age-keygen makes it."""
    return str(pyrage.x25519.Identity.generate())


def recipient_of(identity: str) -> str:
    """The public half, `age1…`."""
    return str(_identity(identity).to_public())


def new_passphrase() -> str:
    """120 bits in groups that can be typed from paper, like `k3v9-x2mq-7dhn-w4rt-p8sc-j6ba`."""
    return "-".join("".join(random_secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))


def as_generated(typed: str) -> str:
    """A generated passphrase as it was printed, however its hyphens, case, o, i, l were typed; others unchanged."""
    letters = typed.strip().lower().translate(_TYPED_ALIKE)
    if not _GENERATED.match(letters):
        return typed.strip("\r\n")
    return "-".join(letters[start : start + _GROUP] for start in range(0, len(letters), _GROUP))


def wrap_for_recipient(root: RootKey, recipient: str) -> Wrap:
    """`recipient` is an `age1…` public key."""
    try:
        public = pyrage.x25519.Recipient.from_str(recipient)
    except pyrage.RecipientError as error:
        raise KeyProblem(f"'{recipient}' is no age recipient", hint="It looks like age1… and is public.") from error
    return Wrap(root_wrap_key(root.generation, recipient), pyrage.encrypt(root.encode(), [public]))


def wrap_for_passphrase(root: RootKey, passphrase: str) -> Wrap:
    name = _PASSPHRASE + random_secrets.token_hex(4)
    return Wrap(root_wrap_key(root.generation, name), agefile.encrypt(root.encode(), passphrase))


def recipients(storage: Storage) -> list[tuple[int, str]]:
    """(generation, recipient) of every wrap, newest generation first."""
    found = (parse_root_wrap_key(info.key) for info in storage.list(KEYS_PREFIX))
    return sorted((each for each in found if each is not None), key=lambda each: (-each[0], each[1]))


def unwrap_root(storage: Storage, secret: str, repository: bytes | None) -> RootKey:
    """The newest root key that `secret` opens: the text of an identity file, or a passphrase.

    Anybody can write a wrap, so one that is damaged, or whose key is not of the repository (None: of the one that it
    names), is as good as none; ObjectDamaged only where nothing else is there.
    """
    wraps = recipients(storage)
    identity = _IDENTITY.search(secret)
    wanted = recipient_of(identity[0]) if identity else _PASSPHRASE
    found = [each for each in wraps if (each[1] == wanted if identity else each[1].startswith(wanted))]
    damage: ObjectDamaged | None = None
    for generation, recipient in found:
        key = root_wrap_key(generation, recipient)
        try:
            data = storage.get(key, limit=agefile.MAX_SIZE)
            root = RootKey.decode(_open(data, identity[0] if identity else None, secret, key), key)
        except KeyMismatch:
            continue
        except ObjectDamaged as error:
            damage = damage or error
            continue
        if root.generation == generation and root.proven and repository in (None, root.repository):
            return root
    if damage is not None:
        raise damage
    tried = f"the identity of {wanted}" if identity else "this passphrase"
    names = [f"{recipient} (generation {generation})" for generation, recipient in wraps]
    problem = KeyMismatch if found else KeyProblem
    raise problem(
        f"{storage.place} cannot be opened with {tried}: its root key is wrapped for {', '.join(names) or 'nobody'}",
        hint="Use the identity file or the passphrase that was printed when the repository was made.",
        recipients=names,
    )


def open_wrap(key: str, data: bytes, recipient: str, secrets: Sequence[str]) -> RootKey | None:
    """What the wrap `key` holds; None where none of secrets (identity files, passphrases) is for its kind of recipient.

    ObjectDamaged: it is no age file, or the identity that it is wrapped for does not open it. KeyMismatch: no
    passphrase at hand opens it; it is damaged, or for another one.
    """
    if not data.startswith(b"age-encryption.org/v1\n"):
        raise ObjectDamaged(f"{key} is damaged: it is no age file")
    mismatch: KeyMismatch | None = None
    for secret in secrets:
        identity = _IDENTITY.search(secret)
        if (recipient_of(identity[0]) != recipient) if identity else not recipient.startswith(_PASSPHRASE):
            continue
        try:
            return RootKey.decode(_open(data, identity[0] if identity else None, secret, key), key)
        except KeyMismatch as error:
            mismatch = error
    if mismatch is not None:
        raise mismatch
    return None


def _open(data: bytes, identity: str | None, passphrase: str, what: str) -> bytes:
    if identity is None:
        return agefile.decrypt(data, as_generated(passphrase), what)
    try:
        return bytes(pyrage.decrypt(data, [_identity(identity)]))
    except pyrage.DecryptError as error:
        raise ObjectDamaged(f"{what} is damaged: {error}") from error


def _identity(text: str) -> pyrage.x25519.Identity:
    try:
        return pyrage.x25519.Identity.from_str(text)
    except pyrage.IdentityError as error:
        raise KeyProblem("this is no age identity: it is mistyped or cut off") from error
