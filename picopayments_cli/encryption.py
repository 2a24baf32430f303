"""Encrypts what leaves the machine or lies in a file, and makes keys of passphrases.

Three formats hold its work: the wallet's file (``client/key_file.py``), backups (``sealed_file.py``), and the state
that the hub keeps (``client/sealed.py``). Another cipher is a new version of each.

XChaCha20-Poly1305 (authenticated, with a random nonce of 24 bytes) and Argon2id (RFC 9106), both libsodium's.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass

KEY_SIZE = 32
SALT_SIZE = 16  # bytes, random, of each passphrase
OVERHEAD = 24 + 16  # bytes that sealing adds: nonce and tag
_NONCE_SIZE = 24
_MOST_OPERATIONS = 16
_MOST_MEMORY = 1 << 30


@dataclass(frozen=True)
class Cost:
    """How dear a guess of a passphrase is: passes over so many bytes of memory.

    Raises ValueError beyond what this program has ever written: a file may not take all of a machine's memory.
    """

    operations: int = 3
    memory: int = 1 << 28

    def __post_init__(self) -> None:
        if not 1 <= self.operations <= _MOST_OPERATIONS or not 1 << 13 <= self.memory <= _MOST_MEMORY:
            raise ValueError(f"{self.operations} passes over {self.memory} bytes are out of bounds")


def stretch(passphrase: str, salt: bytes, cost: Cost) -> bytes:
    """Make a key of 32 bytes from a passphrase and its salt of ``SALT_SIZE`` bytes; takes time on purpose.

    The passphrase counts as it looks (Unicode's NFKC, then UTF-8): keyboards write one letter in several ways.
    """
    from nacl.bindings import crypto_pwhash_alg, crypto_pwhash_ALG_ARGON2ID13  # heavy, and seldom needed

    data = unicodedata.normalize("NFKC", passphrase).encode("utf-8", "surrogateescape")
    return bytes(crypto_pwhash_alg(KEY_SIZE, data, salt, cost.operations, cost.memory, crypto_pwhash_ALG_ARGON2ID13))


def seal(key: bytes, data: bytes, about: bytes) -> bytes:
    """Encrypt data under a key of 32 bytes; it opens only with the same key and the same ``about``."""
    from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

    nonce = os.urandom(_NONCE_SIZE)
    return nonce + bytes(crypto_aead_xchacha20poly1305_ietf_encrypt(data, about, nonce, key))


def unseal(key: bytes, sealed: bytes, about: bytes) -> bytes:
    """Decrypt what ``seal`` made. Raises ValueError where one byte of it, the key, or ``about`` is another."""
    from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt
    from nacl.exceptions import CryptoError

    if len(sealed) < OVERHEAD:
        raise ValueError("it is too short")
    try:
        return bytes(crypto_aead_xchacha20poly1305_ietf_decrypt(sealed[_NONCE_SIZE:], about, sealed[:_NONCE_SIZE], key))
    except CryptoError:
        raise ValueError("it was changed, or sealed with another key") from None
