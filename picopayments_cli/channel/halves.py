"""The signatures that the two sides send each other, made and checked against the only transactions that they fit.

``key`` is always the signer's channel key, and the anchor the one that both have named.
"""

from __future__ import annotations

from dataclasses import dataclass

from picopayments_cli.channel.drafts import Draft
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.signing import ALL_ANYONECANPAY, leaf_signed, sign_leaf
from picopayments_cli.channel.transactions import (
    Contract,
    compose_close,
    compose_commit,
    compose_payout,
    compose_remainder,
    compose_rest,
    has_rest,
)
from picopayments_cli.channel.values import Coin, Hash, Quantity
from picopayments_cli.errors import BadPayeeSignature, BadPayerSignature


@dataclass(frozen=True)
class Commit:
    """A commit from its payer: 64 bytes of signature of the commit itself, 65 of its payout."""

    quantity: Quantity
    revoke_hash: Hash
    signature: bytes
    payout_signature: bytes


@dataclass(frozen=True)
class Remainder:
    """The payee's signature of the remainder of a commit that it has received, 65 bytes."""

    quantity: Quantity
    revoke_hash: Hash
    signature: bytes


@dataclass(frozen=True)
class Closing:
    """The payee's signatures of an agreed close: 64 bytes, and 65 of its rest (None where the close leaves none)."""

    quantity: int
    signature: bytes
    rest_signature: bytes | None


# Commits, from the payer --------------------------------------------------------------------------------------------


def sign_commit(contract: Contract, anchor: Coin, quantity: Quantity, revoke_hash: Hash, key: Key) -> Commit:
    """A commit for the payee, its payout with it. Raises BadCommitQuantity, BadDeposit."""
    commit = compose_commit(contract, anchor, quantity, revoke_hash)
    payout = compose_payout(contract, commit, revoke_hash)
    return Commit(quantity, revoke_hash, sign_leaf(commit, key), sign_leaf(payout, key, ALL_ANYONECANPAY))


def check_commit(contract: Contract, anchor: Coin, commit: Commit) -> None:
    """That the payer has signed a commit and its payout. Raises BadCommitQuantity, BadDeposit, BadPayerSignature."""
    draft = compose_commit(contract, anchor, commit.quantity, commit.revoke_hash)
    if not leaf_signed(draft, contract.deposit.payer, commit.signature):
        raise BadPayerSignature("The commit lacks the payer's valid signature of everything in it.", **_data(commit))
    payout = compose_payout(contract, draft, commit.revoke_hash)
    if not leaf_signed(payout, contract.deposit.payer, commit.payout_signature, ALL_ANYONECANPAY):
        raise BadPayerSignature("The commit lacks the payer's valid signature of its payout.", **_data(commit))


# Remainders, from the payee -----------------------------------------------------------------------------------------


def sign_remainder(contract: Contract, anchor: Coin, commit: Commit, key: Key) -> Remainder:
    """The remainder of a commit, for its payer. Raises BadCommitQuantity, BadDeposit."""
    draft = _remainder(contract, anchor, commit)
    return Remainder(commit.quantity, commit.revoke_hash, sign_leaf(draft, key, ALL_ANYONECANPAY))


def check_remainder(contract: Contract, anchor: Coin, remainder: Remainder) -> None:
    """That the payee has signed a remainder. Raises BadCommitQuantity, BadDeposit, BadPayeeSignature."""
    draft = _remainder(contract, anchor, remainder)
    if not leaf_signed(draft, contract.deposit.payee, remainder.signature, ALL_ANYONECANPAY):
        raise BadPayeeSignature("The remainder lacks the payee's valid signature.", **_data(remainder))


def _remainder(contract: Contract, anchor: Coin, named: Commit | Remainder) -> Draft:
    return compose_remainder(contract, compose_commit(contract, anchor, named.quantity, named.revoke_hash))


# Agreed closes: the payee signs first -------------------------------------------------------------------------------


def sign_close(contract: Contract, anchor: Coin, quantity: int, key: Key) -> Closing:
    """The payee's signatures of the close of a quantity. Raises BadCommitQuantity, BadDeposit."""
    close = compose_close(contract, anchor, quantity)
    rest = None
    if has_rest(contract, quantity):
        rest = sign_leaf(compose_rest(contract, close), key, ALL_ANYONECANPAY)
    return Closing(quantity, sign_leaf(close, key), rest)


def check_close(contract: Contract, anchor: Coin, closing: Closing) -> None:
    """That the payee has signed a close and its rest. Raises BadCommitQuantity, BadDeposit, BadPayeeSignature."""
    close, payee = compose_close(contract, anchor, closing.quantity), contract.deposit.payee
    valid = leaf_signed(close, payee, closing.signature)
    if has_rest(contract, closing.quantity):
        rest = compose_rest(contract, close)
        valid = valid and leaf_signed(rest, payee, closing.rest_signature or b"", ALL_ANYONECANPAY)
    elif closing.rest_signature is not None:
        valid = False
    if not valid:
        raise BadPayeeSignature(
            "The close lacks the payee's valid signatures of it and of its rest.", quantity=closing.quantity
        )


def counter_close(contract: Contract, anchor: Coin, closing: Closing, key: Key) -> bytes:
    """The payer's signature of a close, 64 bytes, given only for the payee's valid ones of it and of its rest.

    Raises BadCommitQuantity, BadDeposit, BadPayeeSignature.
    """
    check_close(contract, anchor, closing)
    return sign_leaf(compose_close(contract, anchor, closing.quantity), key)


def check_counter(contract: Contract, anchor: Coin, quantity: int, signature: bytes) -> None:
    """That the payer has signed the close of a quantity. Raises BadCommitQuantity, BadDeposit, BadPayerSignature."""
    if not leaf_signed(compose_close(contract, anchor, quantity), contract.deposit.payer, signature):
        raise BadPayerSignature("The close lacks the payer's valid signature.", quantity=quantity)


def _data(named: Commit | Remainder) -> dict[str, object]:
    return {"quantity": named.quantity, "revoke_hash": named.revoke_hash.hex()}
