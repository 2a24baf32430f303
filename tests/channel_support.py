"""What the ground floor's tests share: two parties, their contract, and the kernel as judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from picopayments_cli.channel.close import Agreed
from picopayments_cli.channel.coins import Purse, offers, pay
from picopayments_cli.channel.counterparty import p2pkh
from picopayments_cli.channel.drafts import MAX_CHILD, MAX_SIZE, Draft
from picopayments_cli.channel.halves import Closing, Commit, Remainder
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.scripts import DepositScript
from picopayments_cli.channel.signing import finish_both, sign_leaf
from picopayments_cli.channel.state import Receiving, Sending, known_anchor
from picopayments_cli.channel.transactions import (
    Contract,
    child_shape,
    compose_close,
    compose_commit,
    compose_payout,
    compose_remainder,
    compose_rest,
    expire_shape,
    revoke_shape,
)
from picopayments_cli.channel.values import Coin, Hash, Height, Outpoint, Quantity, Secret, hash160
from picopayments_cli.consensus import spends_validly
from picopayments_cli.errors import InsufficientBitcoin

ASSET = 121892899915  # PEPECASH
OTHER_ASSET = 1


@cache
def vectors(name: str) -> Any:
    """The data of tests/data/<name>_vectors.json."""
    return json.loads((Path(__file__).parent / "data" / f"{name}_vectors.json").read_text(encoding="ascii"))


def digest(name: str) -> bytes:
    """32 bytes of their own for each name."""
    return hashlib.sha256(name.encode()).digest()


def key(name: str) -> Key:
    """A key of its own for each name."""
    return Key(digest(f"key of {name}"))


def secret(name: str) -> Secret:
    """A secret of its own for each name."""
    return Secret(digest(f"secret of {name}"))


def hashed(name: str) -> Hash:
    """The hash of the secret of that name."""
    return Hash(hash160(secret(name)))


def legacy(owner: Key) -> bytes:
    """The scriptPubKey of a key's P2PKH address."""
    return p2pkh(owner.pubkey_hash)


def segwit(owner: Key) -> bytes:
    """The scriptPubKey of a key's P2WPKH address."""
    return b"\x00\x14" + owner.pubkey_hash


def coin(name: str, value: int, script: bytes, height: int | None = 1) -> Coin:
    """A coin of its own for each name."""
    return Coin(Outpoint(digest(f"coin {name}"), 0), value, script, None if height is None else Height(height))


def wallet_coins(values: Sequence[int], script: bytes) -> tuple[Coin, ...]:
    """Confirmed coins of those values."""
    return tuple(coin(str(number), value, script) for number, value in enumerate(values))


# One channel --------------------------------------------------------------------------------------------------------

PAYER_WALLET, PAYEE_WALLET = key("payer's wallet"), key("payee's wallet")
PAYER = Secrets(PAYER_WALLET, digest("payer's salt")[:16]).payer
PAYEE = Secrets(PAYEE_WALLET, digest("payee's salt")[:16]).payee
DEPOSIT = DepositScript(PAYER.xonly, PAYEE.xonly, 900_000)
CONTRACT = Contract(DEPOSIT, legacy(PAYER_WALLET), legacy(PAYEE_WALLET), ASSET, Quantity(1000), 14, 1)
SEGWIT = replace(CONTRACT, payer_wallet=segwit(PAYER_WALLET), payee_wallet=segwit(PAYEE_WALLET))
ONE = hashed("one")


def anchor_of(contract: Contract, more: int = 0) -> Coin:
    """The least anchor of a contract, or some satoshis more."""
    return coin("anchor", contract.budget.anchor + more, contract.deposit.output)


def purse(values: Sequence[int] = (), rate: int = 1, script: bytes | None = None) -> Purse:
    """The payer's wallet with coins of those values."""
    own = legacy(PAYER_WALLET) if script is None else script
    return Purse(own, wallet_coins(values, own), rate)


# What a payer makes alone at its purse's rate, in the cheapest way ----------------------------------------------------


def _paid(shape: Draft, wallet: Purse, owed: int = 0, most: int = MAX_SIZE) -> Draft:
    for coins in offers(shape, wallet, most):
        draft = shape.plus(coins)
        fee = owed + wallet.rate * draft.size
        if draft.fee >= fee:
            return pay(shape, coins, fee)
    raise InsufficientBitcoin("no coins pay for this")


def _owed(parent: Draft | None, wallet: Purse) -> int:
    """The satoshis that a parent lacks to the purse's rate."""
    return 0 if parent is None else max(wallet.rate * parent.size - parent.fee, 0)


def compose_revoke(
    contract: Contract, spent: Coin, revoke_hash: Hash, asset_id: int, wallet: Purse, parent: Draft | None = None
) -> Draft:
    """All of an asset from a revoked commit's address; ``parent``: the commit, where it is paid for too."""
    shape = revoke_shape(contract, spent, revoke_hash, asset_id)
    return _paid(shape, wallet, _owed(parent, wallet), MAX_CHILD)


def compose_expire(contract: Contract, coins: Sequence[Coin], asset_id: int, wallet: Purse) -> Draft:
    """All of an asset from the deposit's address, the most valuable coin first."""
    ordered = sorted(coins, key=lambda one: (-one.value, one.outpoint))
    return _paid(expire_shape(contract, ordered, asset_id), wallet)


def compose_child(parent: Draft, index: int, wallet: Purse) -> Draft:
    """What raises a parent to the purse's rate."""
    return _paid(child_shape(parent, index, wallet.script), wallet, _owed(parent, wallet), MAX_CHILD)


# Judges -------------------------------------------------------------------------------------------------------------


def kernel_accepts(raw: bytes, draft: Draft) -> bool:
    """Whether Bitcoin Core's kernel finds every input's script fulfilled."""
    return spends_validly(raw, [(spent.coin.value, spent.coin.script) for spent in draft.inputs])


def vsize(raw: bytes, draft: Draft) -> int:
    """The virtual size of a signed transaction."""
    stripped = len(draft.stripped([b""] * len(draft.inputs)))
    return (3 * stripped + len(raw) + 3) // 4


# The other side's signatures made into transactions, as a cheat does at any time; honest parties do it by ``Step`` ----


def finish_commit(contract: Contract, anchor: Coin, commit: Commit, key: Key) -> bytes:
    """The commit signed by the payee too."""
    draft = compose_commit(contract, anchor, commit.quantity, commit.revoke_hash)
    return finish_both(draft, commit.signature, sign_leaf(draft, key))


def finish_payout(contract: Contract, anchor: Coin, commit: Commit, key: Key) -> bytes:
    """The commit's payout signed by the payee too."""
    draft = compose_commit(contract, anchor, commit.quantity, commit.revoke_hash)
    payout = compose_payout(contract, draft, commit.revoke_hash)
    return finish_both(payout, commit.payout_signature, sign_leaf(payout, key))


def finish_remainder(contract: Contract, anchor: Coin, remainder: Remainder, key: Key) -> bytes:
    """The remainder signed by the payer too."""
    draft = compose_commit(contract, anchor, remainder.quantity, remainder.revoke_hash)
    rest = compose_remainder(contract, draft)
    return finish_both(rest, sign_leaf(rest, key), remainder.signature)


def finish_close(contract: Contract, anchor: Coin, closing: Closing, payer_signature: bytes) -> bytes:
    """The close with both signatures."""
    return finish_both(compose_close(contract, anchor, closing.quantity), payer_signature, closing.signature)


def finish_rest(contract: Contract, anchor: Coin, closing: Closing, key: Key) -> bytes:
    """The rest of a close signed by the payer too."""
    rest = compose_rest(contract, compose_close(contract, anchor, closing.quantity))
    return finish_both(rest, sign_leaf(rest, key), closing.rest_signature or b"")


def close_transaction(side: Sending | Receiving, agreed: Agreed) -> bytes:
    """A close that both have signed."""
    return finish_close(side.contract, known_anchor(side), agreed.closing, agreed.payer_signature)
