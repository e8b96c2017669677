"""Owns age files that a passphrase opens (age-encryption.org/v1, scrypt stanza).

Our own writer, because the work factor has to be the one of format.md §7 and not whatever the machine at hand can bear:
the file must open on a rescue machine with little memory. Any age program opens the result, and we
open what age writes.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pgrecall.errors import KeyMismatch, ObjectDamaged

WORK_FACTOR = 17  # log2 N: 128 MiB
MAX_WORK_FACTOR = 18  # 256 MiB, as age itself uses it
MAX_SIZE = 1 << 20

_VERSION = b"age-encryption.org/v1\n"
_STANZA = re.compile(rb"-> scrypt ([A-Za-z0-9+/]{22}) ([1-9][0-9]?)\n([A-Za-z0-9+/]{43})\n--- ([A-Za-z0-9+/]{43})\n")
_SCRYPT_LABEL = b"age-encryption.org/v1/scrypt"
_CHUNK = 64 << 10
_TAG = 16
_NONCE = 16


def encrypt(plaintext: bytes, passphrase: str) -> bytes:
    """An age file for one passphrase."""
    file_key, salt = os.urandom(16), os.urandom(16)
    wrapped = ChaCha20Poly1305(_stretch(passphrase, salt, WORK_FACTOR)).encrypt(bytes(12), file_key, None)
    header = _VERSION + b"-> scrypt %b %d\n%b\n---" % (_base64(salt), WORK_FACTOR, _base64(wrapped))
    nonce = os.urandom(_NONCE)
    mac = _base64(_header_mac(file_key, header))
    return b"".join((header, b" ", mac, b"\n", nonce, _seal_payload(file_key, nonce, plaintext)))


def decrypt(data: bytes, passphrase: str, what: str) -> bytes:
    """KeyMismatch for another passphrase; ObjectDamaged, naming `what`, for what is no such file or was changed."""
    match = _STANZA.match(data, len(_VERSION))
    if not data.startswith(_VERSION) or match is None or len(data) > MAX_SIZE:
        raise ObjectDamaged(f"{what} is no age file for a passphrase")
    salt, body, mac = (_unbase64(match[group], what) for group in (1, 3, 4))
    work_factor = int(match[2])
    if work_factor > MAX_WORK_FACTOR:
        raise ObjectDamaged(f"{what} asks for scrypt work 2^{work_factor}, at most 2^{MAX_WORK_FACTOR} makes sense")
    try:
        file_key = ChaCha20Poly1305(_stretch(passphrase, salt, work_factor)).decrypt(bytes(12), body, None)
    except InvalidTag as error:
        raise KeyMismatch(f"the passphrase does not open {what}") from error
    if len(file_key) != 16 or not hmac.compare_digest(_header_mac(file_key, data[: match.start(4) - 1]), mac):
        raise ObjectDamaged(f"{what} has a changed header")
    payload = data[match.end() :]
    return _open_payload(file_key, payload[:_NONCE], payload[_NONCE:], what)


def _stretch(passphrase: str, salt: bytes, work_factor: int) -> bytes:
    secret = passphrase.encode(errors="surrogateescape")  # a terminal's bytes, whatever its encoding
    return Scrypt(salt=_SCRYPT_LABEL + salt, length=32, n=1 << work_factor, r=8, p=1).derive(secret)


def _derive(file_key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(file_key)


def _header_mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(_derive(file_key, b"", b"header"), header, hashlib.sha256)


def _seal_payload(file_key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    cipher = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
    starts = range(0, max(len(plaintext), 1), _CHUNK)
    return b"".join(
        cipher.encrypt(_chunk_nonce(number, start == starts[-1]), plaintext[start : start + _CHUNK], None)
        for number, start in enumerate(starts)
    )


def _open_payload(file_key: bytes, nonce: bytes, stored: bytes, what: str) -> bytes:
    cipher = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
    starts = range(0, max(len(stored), 1), _CHUNK + _TAG)
    try:
        chunks = [
            cipher.decrypt(_chunk_nonce(number, start == starts[-1]), stored[start : start + _CHUNK + _TAG], None)
            for number, start in enumerate(starts)
        ]
    except (InvalidTag, ValueError) as error:
        raise ObjectDamaged(f"{what} was changed or is cut off") from error
    if len(chunks) > 1 and not chunks[-1]:
        raise ObjectDamaged(f"{what} ends in an empty chunk")
    return b"".join(chunks)


def _chunk_nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _unbase64(text: bytes, what: str) -> bytes:
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ObjectDamaged(f"{what} has a damaged header") from error
    if _base64(data) != text:
        raise ObjectDamaged(f"{what} has a damaged header")
    return data
