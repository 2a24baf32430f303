"""Keys, signatures and secrets: libsecp256k1 for every signature, HMAC-SHA256 for everything that is derived."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from btclib_secp256k1 import dsa, recovery, ssa
from btclib_secp256k1 import keys as points
from btclib_secp256k1 import xonly as x_points

from picopayments_cli.channel.values import PUBKEY_SIZE, SECRET_SIZE, Hash, Pubkey, Secret, hash160, hash_of
from picopayments_cli.errors import BadChannelKey, BadSecret, RepeatedKey

XONLY_SIZE = 32
SCHNORR_SIZE = 64
SALT_SIZE = 16  # bytes, random, of each connection and party
FORGOTTEN = 1000  # syncs of a connection after a backup was made by which its owner still knows its own hashes again
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_NO_RANDOMNESS = bytes(32)  # BIP 340's auxiliary bytes: with them a message has one signature


@dataclass(frozen=True, order=True)
class XOnly:
    """A public key of BIP 340: exactly 32 bytes, on the curve.

    A tapscript lets any signature pass for a key of another length, so no other can be made. Raises BadChannelKey.
    """

    data: bytes

    def __post_init__(self) -> None:
        if len(self.data) != XONLY_SIZE or not x_points.pubkey_verify(self.data):
            raise BadChannelKey(
                f"A channel's key has exactly {XONLY_SIZE} bytes and is on the curve; this one of {len(self.data)} "
                "bytes is none.",
                key=self.data.hex(),
                size=len(self.data),
            )

    def __str__(self) -> str:
        return self.data.hex()

    def verify(self, digest: bytes, signature: bytes) -> bool:
        """Whether the key signed the digest; the signature is 64 bytes, without a hash type."""
        return len(signature) == SCHNORR_SIZE and ssa.verify(digest, self.data, signature)

    def tweaked(self, tweak: bytes) -> tuple[bytes, int]:
        """The key with a tweak's point added: its 32 bytes, and the parity of its y."""
        return x_points.tweak_add(self.data, tweak)


# BIP 341's point whose private key nobody can know.
NUMS = XOnly(bytes.fromhex("50929b74c1a04954b78b4b6035e97a5e078a5a0f28ec96d547bfee9ace803ac0"))


def check_distinct(keys: Iterable[XOnly]) -> None:
    """Refuse keys of a connection of which two are equal, or one is the key without an owner. Raises RepeatedKey."""
    seen = {NUMS}
    for key in keys:
        if key in seen:
            raise RepeatedKey(
                f"The key {key} stands at two places of the connection. Nothing was signed.", key=str(key)
            )
        seen.add(key)


@dataclass(frozen=True)
class Key:
    """A private key (32 bytes), which signs; with no randomness, so that a digest has one signature of each kind."""

    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.pubkey.hex()})"

    @cached_property
    def pubkey(self) -> Pubkey:
        """The compressed public key."""
        return Pubkey(points.pubkey_from_prvkey(self.secret))

    @cached_property
    def pubkey_hash(self) -> bytes:
        """The hash of the compressed public key, which addresses are made of."""
        return hash160(self.pubkey)

    @cached_property
    def xonly(self) -> XOnly:
        """The public key of BIP 340."""
        return XOnly(self.pubkey[1:])

    def sign(self, digest: bytes) -> bytes:
        """The DER signature (ECDSA) of a 32-byte digest: nonce by RFC 6979, low S. Checked before it is given out."""
        return dsa.sign(digest, self.secret, pubkey=self.pubkey)

    def sign_recoverable(self, digest: bytes) -> bytes:
        """The 65-byte signature (ECDSA) of a 32-byte digest that tells the compressed key: header, r, s."""
        compact, recovery_id = recovery.sign(digest, self.secret, pubkey=self.pubkey)
        return bytes((31 + recovery_id,)) + compact

    def sign_schnorr(self, digest: bytes) -> bytes:
        """The 64-byte signature (BIP 340) of a 32-byte digest; checked before it is given out."""
        return ssa.sign(digest, self.secret, _NO_RANDOMNESS)


def is_pubkey(data: bytes) -> bool:
    """Whether these bytes are a compressed public key."""
    return len(data) == PUBKEY_SIZE and points.pubkey_verify(data)


def verify(pubkey: Pubkey, digest: bytes, signature: bytes) -> bool:
    """Whether the key signed the digest; the signature is DER (ECDSA) with low S."""
    try:
        return dsa.verify(digest, pubkey, signature)
    except ValueError:
        return False


def read_secret(data: bytes) -> Secret:
    """A secret that a peer revealed. Raises BadSecret."""
    if len(data) != SECRET_SIZE:
        raise BadSecret(f"A secret has {SECRET_SIZE} bytes, this one {len(data)}.", size=len(data))
    return Secret(data)


def state_key(wallet: Key) -> bytes:
    """Derive the key (32 bytes) that the states are sealed with which a hub keeps for a wallet."""
    return hmac.digest(wallet.secret, b"picopayments state 1", "sha256")


@dataclass(frozen=True)
class Secrets:
    """The keys and secrets of one connection, derived from the owner's key, the connection's salt and the purpose.

    The salt (16 random bytes of the owner's, made before the connection is asked for) keeps a restored or second
    wallet from handing out a hash whose secret is known already; the purpose keeps keys and secrets apart.
    """

    key: Key
    salt: bytes

    def __post_init__(self) -> None:
        if len(self.salt) != SALT_SIZE:
            raise ValueError(f"the salt has {len(self.salt)} bytes, not {SALT_SIZE}")

    def __repr__(self) -> str:
        return f"Secrets({self.key!r})"

    @cached_property
    def payer(self) -> Key:
        """The key of the channel on which this party pays."""
        return self._channel_key(b"payer")

    @cached_property
    def payee(self) -> Key:
        """The key of the channel on which this party is paid."""
        return self._channel_key(b"payee")

    def revoke(self, number: int) -> Secret:
        """The revoke secret of that number, of the channel on which this party is paid."""
        return Secret(self._derive(b"secret", b"revoke", number))

    def revoke_hash(self, number: int) -> Hash:
        """The hash of a revoke secret."""
        return hash_of(self.revoke(number))

    def number_of(self, revoke_hash: Hash, begin: int) -> int | None:
        """The number of a revoke hash handed out after ``begin`` and forgotten; None where it was none of the next."""
        later = range(begin, begin + FORGOTTEN)
        return next((number for number in later if self.revoke_hash(number) == revoke_hash), None)

    def _channel_key(self, role: bytes) -> Key:
        draws = (self._derive(b"key", role, draw) for draw in range(256))
        return Key(next(drawn for drawn in draws if 0 < int.from_bytes(drawn, "big") < ORDER))

    def _derive(self, kind: bytes, purpose: bytes, number: int) -> bytes:
        text = b"picopayments 3 " + kind + self.salt + purpose + struct.pack(">Q", number)
        return hmac.digest(self.key.secret, text, "sha256")
