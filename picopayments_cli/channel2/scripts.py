"""The two scripts of a channel, and what unlocks them.

A *deposit* is spent by both parties (commit), by the payer with the spend secret (change), or by the payer alone once
it is ``expire`` blocks old. A *commit* is spent by the payee with the spend secret once it is ``delay`` blocks old
(payout), or by the payer with the revoke secret (revoke). Ages are relative (BIP 68, BIP 112).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from picopayments_cli.channel.counterparty import p2sh
from picopayments_cli.channel.values import Hash, Pubkey, Secret, hash160
from picopayments_cli.errors import BadCommitScript, BadDepositScript, PicopaymentsError

MAX_SEQUENCE = 0xFFFF
_IF, _ELSE, _ENDIF = b"\x63", b"\x67", b"\x68"
_TRUE, _FALSE = b"\x51", b"\x00"
_CHECKSIG, _CHECKMULTISIG, _EQUALVERIFY = b"\xac", b"\xae", b"\x88"
_CSV_DROP = b"\xb2\x75"
_HASH160 = b"\xa9\x14"
_KEY = b"\x21"
# Stands where the payee's signature will be: DER of r = n - 1, s = n / 2, and SIGHASH_ALL.
PLACEHOLDER = bytes.fromhex(
    "3045022100fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364140"
    "02207fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a001"
)
MAX_SIGNATURE = 72  # DER with low S, and the hash type


def push(data: bytes) -> bytes:
    """Return the shortest push of data that is no number (76 bytes and more take a length byte of their own)."""
    size = len(data)
    if size <= 75:
        return bytes((size,)) + data
    return (b"\x4c" + bytes((size,)) if size <= 255 else b"\x4d" + size.to_bytes(2, "little")) + data


def push_number(number: int) -> bytes:
    """Return the shortest push of a number from 0 to 65535."""
    if number == 0:
        return b"\x00"
    if number <= 16:
        return bytes((0x50 + number,))
    return push(number.to_bytes(number.bit_length() // 8 + 1, "little"))


def _read_number(script: bytes, at: int, end: bytes) -> int | None:
    """Return the number pushed at ``at`` when exactly ``end`` follows it; the caller rebuilds and compares."""
    if len(script) < at + 1 + len(end):
        return None
    data = script[at : len(script) - len(end)]
    if script[len(script) - len(end) :] != end:
        return None
    if len(data) == 1:
        return 0 if data == b"\x00" else data[0] - 0x50
    return int.from_bytes(data[1:], "little")


@dataclass(frozen=True)
class DepositScript:
    """The redeem script of a deposit; ``expire`` in blocks."""

    payer: Pubkey
    payee: Pubkey
    spend_hash: Hash
    expire: int

    @cached_property
    def redeem(self) -> bytes:
        """Return the script's bytes."""
        payer = _KEY + self.payer
        return (
            _IF + b"\x52" + payer + _KEY + self.payee + b"\x52" + _CHECKMULTISIG
            + _ELSE + _IF + _HASH160 + self.spend_hash + _EQUALVERIFY + payer + _CHECKSIG
            + _ELSE + push_number(self.expire) + _CSV_DROP + payer + _CHECKSIG + _ENDIF + _ENDIF
        )  # fmt: skip

    @cached_property
    def output(self) -> bytes:
        """Return the scriptPubKey that pays to it."""
        return p2sh(hash160(self.redeem))

    @staticmethod
    def parse(script: bytes) -> DepositScript:
        """Read a deposit script from its bytes, exactly those that its values make. Raises BadDepositScript."""
        end = _CSV_DROP + script[2:36] + _CHECKSIG + _ENDIF + _ENDIF
        expire = _read_number(script, 133, end)
        _check_number(expire, BadDepositScript)
        parsed = DepositScript(Pubkey(script[3:36]), Pubkey(script[37:70]), Hash(script[76:96]), expire or 0)
        if parsed.redeem != script:
            raise BadDepositScript("The deposit script is not of the agreed form.", script=script.hex())
        return parsed


@dataclass(frozen=True)
class CommitScript:
    """The redeem script of a commit; ``delay`` in blocks."""

    payer: Pubkey
    payee: Pubkey
    spend_hash: Hash
    revoke_hash: Hash
    delay: int

    @cached_property
    def redeem(self) -> bytes:
        """Return the script's bytes."""
        return (
            _IF + push_number(self.delay) + _CSV_DROP
            + _HASH160 + self.spend_hash + _EQUALVERIFY + _KEY + self.payee + _CHECKSIG
            + _ELSE + _HASH160 + self.revoke_hash + _EQUALVERIFY + _KEY + self.payer + _CHECKSIG + _ENDIF
        )  # fmt: skip

    @cached_property
    def output(self) -> bytes:
        """Return the scriptPubKey that pays to it."""
        return p2sh(hash160(self.redeem))

    @staticmethod
    def parse(script: bytes) -> CommitScript:
        """Read a commit script from its bytes, exactly those that its values make. Raises BadCommitScript."""
        tail = script[-120:]  # from the CSV on: everything behind the delay has a fixed size
        delay = _read_number(script, 1, tail)
        _check_number(delay, BadCommitScript)
        parsed = CommitScript(
            Pubkey(tail[85:118]), Pubkey(tail[26:59]), Hash(tail[4:24]), Hash(tail[63:83]), delay or 0
        )
        if parsed.redeem != script:
            raise BadCommitScript("The commit script is not of the agreed form.", script=script.hex())
        return parsed


def _check_number(number: int | None, error: type[PicopaymentsError]) -> None:
    if number is None or not 0 <= number <= MAX_SEQUENCE:
        raise error("The script is not of the agreed form: its number of blocks can't be read.")


@dataclass(frozen=True)
class Unlock:
    """The unlocking of an output: the words before and after the signature made last, and the script it commits to."""

    script: bytes
    before: bytes = field(repr=False)  # a secret may be among the words
    after: bytes = field(repr=False)

    def script_sig(self, signature: bytes) -> bytes:
        """Return the scriptSig with that signature (DER and hash type)."""
        return self.before + push(signature) + self.after

    @property
    def max_size(self) -> int:
        """Return the scriptSig's worst-case size in bytes."""
        return len(self.script_sig(bytes(MAX_SIGNATURE)))


def wallet_unlock(pubkey: Pubkey, script: bytes) -> Unlock:
    """Unlock a P2PKH output of one's own."""
    return Unlock(script, b"", push(pubkey))


def commit_unlock(deposit: DepositScript, payer_signature: bytes) -> Unlock:
    """Unlock a deposit by both: the payee signs last."""
    return Unlock(deposit.redeem, _FALSE + push(payer_signature), _TRUE + push(deposit.redeem))


def half_commit_unlock(deposit: DepositScript) -> Unlock:
    """Unlock a deposit by both: the payer's half, with the placeholder in the payee's place."""
    return Unlock(deposit.redeem, _FALSE, push(PLACEHOLDER) + _TRUE + push(deposit.redeem))


def change_unlock(deposit: DepositScript, spend_secret: Secret) -> Unlock:
    """Unlock a deposit by the payer with the spend secret."""
    return Unlock(deposit.redeem, b"", push(spend_secret) + _TRUE + _FALSE + push(deposit.redeem))


def payout_unlock(commit: CommitScript, spend_secret: Secret) -> Unlock:
    """Unlock a commit by the payee with the spend secret, ``delay`` blocks old."""
    return Unlock(commit.redeem, b"", push(spend_secret) + _TRUE + push(commit.redeem))


def expire_unlock(deposit: DepositScript) -> Unlock:
    """Unlock a deposit by the payer alone, ``expire`` blocks old."""
    return Unlock(deposit.redeem, b"", _FALSE + _FALSE + push(deposit.redeem))


def revoke_unlock(commit: CommitScript, revoke_secret: Secret) -> Unlock:
    """Unlock a commit by the payer with the revoke secret."""
    return Unlock(commit.redeem, b"", push(revoke_secret) + _FALSE + push(commit.redeem))
