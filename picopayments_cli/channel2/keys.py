"""Keys, signatures and secrets: libsecp256k1 for every signature, HMAC-SHA256 for every secret."""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache

import coincurve
from coincurve import ecdsa

from picopayments_cli.channel.values import Hash, Pubkey, Secret, check_secret, hash_of
from picopayments_cli.errors import SecretLikeSignature


@dataclass(frozen=True)
class Key:
    """A private key (32 bytes), which signs."""

    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.pubkey.hex()})"

    @cached_property
    def _private(self) -> coincurve.PrivateKey:
        return coincurve.PrivateKey(self.secret)

    @cached_property
    def pubkey(self) -> Pubkey:
        """Return the compressed public key."""
        return Pubkey(self._private.public_key.format())

    def sign(self, digest: bytes) -> bytes:
        """Return the DER signature of a 32-byte digest: nonce by RFC 6979, low S."""
        return bytes(self._private.sign(digest, hasher=None))

    def sign_recoverable(self, digest: bytes) -> bytes:
        """Return the 65-byte signature of a 32-byte digest that tells the compressed key: header, r, s."""
        compact = self._private.sign_recoverable(digest, hasher=None)
        return bytes((31 + compact[64],)) + bytes(compact[:64])


@lru_cache(maxsize=16384)
def _public(pubkey: bytes) -> coincurve.PublicKey:
    return coincurve.PublicKey(pubkey)


def is_pubkey(data: bytes) -> bool:
    """Tell whether these bytes are a compressed public key."""
    try:
        return len(data) == 33 and bool(_public(data))
    except ValueError:
        return False


def normalise(signature: bytes) -> bytes | None:
    """Return the same DER signature with low S (BIP 62), or None where it is no DER signature."""
    try:
        parsed = ecdsa.der_to_cdata(signature)
    except ValueError:
        return None
    _, lowered = ecdsa.signature_normalize(parsed)
    return bytes(ecdsa.cdata_to_der(lowered))


def verify(pubkey: Pubkey, digest: bytes, signature: bytes) -> bool:
    """Tell whether the key signed the digest; a DER signature with high S is one too."""
    low = normalise(signature)
    if low is None:
        return False
    try:
        return bool(_public(pubkey).verify(low, digest, hasher=None))
    except ValueError:
        return False


SALT_SIZE = 16  # bytes, random, of each connection and party
FORGOTTEN = 1000  # syncs of a connection after a backup was made by which its owner still knows its own hashes again


@dataclass(frozen=True)
class Secrets:
    """The secrets of one connection, each derived from the owner's key, the connection's salt, purpose and number.

    The salt (16 random bytes, made before the connection is asked for) keeps a restored or second wallet from handing
    out a hash whose secret is known already; the purpose keeps spend and revoke secrets apart.
    """

    key: Key
    salt: bytes

    def __repr__(self) -> str:
        return f"Secrets({self.key!r})"

    @property
    def spend(self) -> Secret:
        """Return the spend secret of the channel on which this party is paid."""
        return self._derive(b"spend", 0)

    def revoke(self, number: int) -> Secret:
        """Return the revoke secret of that number, of the channel on which this party is paid."""
        return self._derive(b"revoke", number)

    @property
    def spend_hash(self) -> Hash:
        """Return the hash of the spend secret."""
        return hash_of(self.spend)

    def revoke_hash(self, number: int) -> Hash:
        """Return the hash of a revoke secret."""
        return hash_of(self.revoke(number))

    def number_of(self, revoke_hash: Hash, begin: int) -> int | None:
        """Find the number of a revoke hash handed out after ``begin`` and forgotten; None: it is none of the next."""
        later = range(begin, begin + FORGOTTEN)
        return next((number for number in later if self.revoke_hash(number) == revoke_hash), None)

    def _derive(self, purpose: bytes, number: int) -> Secret:
        draw = 0
        while True:
            text = b"picopayments secret" + self.salt + purpose + struct.pack(">QQ", number, draw)
            try:
                return check_secret(hmac.digest(self.key.secret, text, "sha256"))
            except SecretLikeSignature:
                draw += 1
