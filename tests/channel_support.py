"""What the tests of protocol 3's ground floor share: two parties, their contract, and the kernel as judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from picopayments_cli.channel.coins import Purse, offers, pay
from picopayments_cli.channel.counterparty import p2pkh
from picopayments_cli.channel.drafts import MAX_CHILD, MAX_SIZE, Draft
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.scripts import DepositScript, p2wpkh
from picopayments_cli.channel.transactions import Contract, child_shape, expire_shape, revoke_shape
from picopayments_cli.channel.values import Coin, Hash, Height, Outpoint, Quantity, Secret, hash160
from picopayments_cli.consensus import spends_validly
from picopayments_cli.errors import InsufficientBitcoin

ASSET = 121892899915  # PEPECASH
OTHER_ASSET = 1


@cache
def vectors() -> Any:
    """The published numbers of the BIPs."""
    path = Path(__file__).parent / "data" / "taproot_vectors.json"
    return json.loads(path.read_text(encoding="ascii"))


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
    return p2wpkh(owner.pubkey_hash)


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
