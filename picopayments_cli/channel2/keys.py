"""Keys, signatures and secrets: libsecp256k1 for every signature, HMAC-SHA256 for every secret."""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from coincurve import ecdsa

from picopayments_cli.channel.keys import FORGOTTEN, SALT_SIZE, Key, is_pubkey, verify
from picopayments_cli.channel.values import Hash, Secret, check_secret, hash_of
from picopayments_cli.errors import SecretLikeSignature

__all__ = ["FORGOTTEN", "SALT_SIZE", "Key", "Secrets", "is_pubkey", "normalise", "verify"]


def normalise(signature: bytes) -> bytes | None:
    """Return the same DER signature with low S (BIP 62), or None where it is no DER signature."""
    try:
        parsed = ecdsa.der_to_cdata(signature)
    except ValueError:
        return None
    _, lowered = ecdsa.signature_normalize(parsed)
    return bytes(ecdsa.cdata_to_der(lowered))


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
