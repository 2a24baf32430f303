"""Which bytes a signature of an input signs (BIP 143, BIP 341, BIP 342), and how a draft becomes a transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from picopayments_cli.channel.drafts import Draft, Unlock, double_sha256, txid_of
from picopayments_cli.channel.keys import SCHNORR_SIZE, Key, XOnly
from picopayments_cli.channel.scripts import P2A, both_witness, is_p2wpkh, payer_witness, pays_to
from picopayments_cli.channel.taproot import compact_size, tagged_hash
from picopayments_cli.channel.values import Coin, Outpoint, Secret

# Hash types. ALL is written by leaving the byte out: 64 bytes, which Counterparty takes for ALL.
DEFAULT = 0x00
ALL = 0x01
ALL_ANYONECANPAY = 0x81
_ANYONECANPAY = 0x80
_NO_SEPARATOR = b"\xff\xff\xff\xff"
_ALL_RAW = ALL.to_bytes(4, "little")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# Digests ------------------------------------------------------------------------------------------------------------


def taproot_message(draft: Draft, index: int, hash_type: int, extension: bytes) -> bytes:
    """BIP 341's message of a signature over all outputs, behind the epoch; ``extension``: BIP 342's, or nothing."""
    if hash_type not in (DEFAULT, ALL, ALL_ANYONECANPAY):
        raise ValueError(f"nothing is signed with the hash type {hash_type}")
    own = draft.inputs[index]
    coins = [spent.coin for spent in draft.inputs]
    parts = [bytes((0, hash_type)), draft.version.to_bytes(4, "little"), draft.locktime.to_bytes(4, "little")]
    if not hash_type & _ANYONECANPAY:
        values = b"".join(coin.value.to_bytes(8, "little") for coin in coins)
        scripts = b"".join(compact_size(len(coin.script)) + coin.script for coin in coins)
        parts += map(_sha256, (draft.prevouts_raw, values, scripts, draft.sequences_raw))
    parts += [_sha256(draft.outputs_raw), b"\x02" if extension else b"\x00"]
    if hash_type & _ANYONECANPAY:
        spent = own.coin.value.to_bytes(8, "little") + compact_size(len(own.coin.script)) + own.coin.script
        parts += [own.prevout, spent, own.sequence.to_bytes(4, "little")]
    else:
        parts.append(index.to_bytes(4, "little"))
    return b"".join((*parts, extension))


def leaf_digest(draft: Draft, hash_type: int, index: int = 0) -> bytes:
    """Return what a signature in a leaf's script signs (BIP 342)."""
    leaf = draft.inputs[index].leaf
    if leaf is None:
        raise ValueError(f"input {index} is not spent by a leaf")
    extension = leaf.hash + b"\x00" + _NO_SEPARATOR  # key version 0
    return tagged_hash("TapSighash", taproot_message(draft, index, hash_type, extension))


def witness_digest(draft: Draft, index: int) -> bytes:
    """Return what an ALL signature of a P2WPKH coin signs (BIP 143)."""
    own = draft.inputs[index]
    script = b"\x19\x76\xa9\x14" + own.coin.script[2:] + b"\x88\xac"
    return double_sha256(
        draft.version.to_bytes(4, "little")
        + double_sha256(draft.prevouts_raw) + double_sha256(draft.sequences_raw)
        + own.prevout + script + own.coin.value.to_bytes(8, "little") + own.sequence.to_bytes(4, "little")
        + double_sha256(draft.outputs_raw)
        + draft.locktime.to_bytes(4, "little") + _ALL_RAW
    )  # fmt: skip


def legacy_digest(draft: Draft, index: int) -> bytes:
    """Return what an ALL signature of a P2PKH coin signs."""
    scripts = [b""] * len(draft.inputs)
    scripts[index] = draft.inputs[index].coin.script
    return double_sha256(draft.stripped(scripts) + _ALL_RAW)


# Signatures of channel outputs --------------------------------------------------------------------------------------


def sign_leaf(draft: Draft, key: Key, hash_type: int = DEFAULT, index: int = 0) -> bytes:
    """A channel key's signature of an input: 64 bytes, and the hash type where it is not the default."""
    suffix = bytes((hash_type,)) if hash_type else b""
    return key.sign_schnorr(leaf_digest(draft, hash_type, index)) + suffix


def leaf_signed(draft: Draft, key: XOnly, signature: bytes, hash_type: int = DEFAULT) -> bool:
    """Whether a signature is of exactly that hash type, of that key, and of the draft's first input."""
    suffix = bytes((hash_type,)) if hash_type else b""
    if signature[SCHNORR_SIZE:] != suffix:
        return False
    return key.verify(leaf_digest(draft, hash_type), signature[:SCHNORR_SIZE])


# Whole transactions -------------------------------------------------------------------------------------------------


def finish_both(draft: Draft, payer_signature: bytes, payee_signature: bytes, wallet: Key | None = None) -> bytes:
    """The transaction's bytes, with both signatures of its first input; ``wallet`` signs what was added to it."""
    leaf = draft.inputs[0].leaf
    if leaf is None:
        raise ValueError("the first input is not a channel's")
    first = Unlock(witness=both_witness(leaf, payer_signature, payee_signature))
    return draft.signed([first, *_wallet_unlocks(draft, wallet, range(1, len(draft.inputs)))])


def finish_alone(draft: Draft, key: Key, wallet: Key | None = None, secret: Secret | None = None) -> bytes:
    """The bytes of an expiry, or with the secret of a revocation: channel coins first, then the wallet's."""
    channel = [number for number, spent in enumerate(draft.inputs) if spent.leaf is not None]
    unlocks = []
    for number, spent in enumerate(draft.inputs[: len(channel)]):
        if spent.leaf is None:
            raise ValueError(f"input {number} is not a channel's")
        unlocks.append(Unlock(witness=payer_witness(spent.leaf, sign_leaf(draft, key, index=number), secret)))
    return draft.signed([*unlocks, *_wallet_unlocks(draft, wallet, range(len(channel), len(draft.inputs)))])


def finish_wallet(draft: Draft, wallet: Key) -> bytes:
    """The bytes of what spends wallet coins, and a P2A output perhaps."""
    return draft.signed(_wallet_unlocks(draft, wallet, range(len(draft.inputs))))


def finish_deposit(draft: Draft, wallet: Key) -> tuple[bytes, Coin]:
    """The bytes of a deposit, and its anchor."""
    raw, anchor = finish_wallet(draft, wallet), draft.outputs[0]
    return raw, Coin(Outpoint(txid_of(raw), 0), anchor.value, anchor.script, None)


def _wallet_unlocks(draft: Draft, wallet: Key | None, indexes: Sequence[int]) -> list[Unlock]:
    return [_wallet_unlock(draft, wallet, index) for index in indexes]


def _wallet_unlock(draft: Draft, wallet: Key | None, index: int) -> Unlock:
    script = draft.inputs[index].coin.script
    if script == P2A:
        return Unlock()
    if wallet is None or not pays_to(wallet, script):
        raise ValueError(f"input {index} is not a coin of the wallet")
    if is_p2wpkh(script):
        return Unlock(witness=(_ecdsa(wallet, witness_digest(draft, index)), wallet.pubkey))
    signature = _ecdsa(wallet, legacy_digest(draft, index))
    return Unlock(b"".join(bytes((len(word),)) + word for word in (signature, wallet.pubkey)))


def _ecdsa(key: Key, digest: bytes) -> bytes:
    return key.sign(digest) + bytes((ALL,))
