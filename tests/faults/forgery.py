"""What a cheat signs: commits and remainders that are not what they say."""

from __future__ import annotations

from dataclasses import replace

from picopayments_cli.channel.halves import Commit, Remainder, sign_commit, sign_remainder
from picopayments_cli.channel.keys import SCHNORR_SIZE, Key
from picopayments_cli.channel.signing import ALL, ALL_ANYONECANPAY, sign_leaf
from picopayments_cli.channel.transactions import Contract, compose_commit, compose_payout
from picopayments_cli.channel.values import MAX_QUANTITY, Coin, Hash, Quantity


def other_contracts(contract: Contract, anchor: Coin) -> dict[str, tuple[Contract, Coin]]:
    """Contracts and anchors that differ in one thing from the right ones."""
    shifted, dearer = replace(anchor, outpoint=replace(anchor.outpoint, vout=1)), replace(contract, rate=50)
    changed = {
        "another asset": replace(contract, asset_id=26**3),
        "a longer delay": replace(contract, delay=contract.delay + 1),
        "the longest delay": replace(contract, delay=2016),
        "the payee's wallet in the payer's place": replace(contract, payer_wallet=contract.payee_wallet),
        "the payer's wallet in the payee's place": replace(contract, payee_wallet=contract.payer_wallet),
    }
    found = {name: (other, anchor) for name, other in changed.items()}
    found["another anchor"] = contract, shifted
    found["another rate"] = dearer, replace(anchor, value=dearer.budget.anchor)
    found["an anchor of more"] = contract, replace(anchor, value=anchor.value + 1)
    return found


def bad_commits(contract: Contract, anchor: Coin, right: Commit, key: Key) -> dict[str, Commit]:
    """Commits with signatures of their payer's key, none of which are of what the payee builds."""
    found = {}
    draft = compose_commit(contract, anchor, right.quantity, right.revoke_hash)
    payout = compose_payout(contract, draft, right.revoke_hash)
    for name, (other, spent) in other_contracts(contract, anchor).items():
        made = sign_commit(other, spent, right.quantity, right.revoke_hash, key)
        found[name] = made
        found[f"{name}, in the commit"] = replace(right, signature=made.signature)
        found[f"{name}, in the payout"] = replace(right, payout_signature=made.payout_signature)
    for more in (-1, 1):
        made = sign_commit(contract, anchor, Quantity(right.quantity + more), right.revoke_hash, key)
        found[f"a quantity of {more:+}"] = replace(made, quantity=right.quantity)
        found[f"a payout of {more:+}"] = replace(right, payout_signature=made.payout_signature)
    for number, hash_type in enumerate((ALL, ALL_ANYONECANPAY)):
        found[f"a commit of hash type {number}"] = replace(right, signature=sign_leaf(draft, key, hash_type)[:64])
    short = sign_leaf(payout, key)
    found["a payout of everything"] = replace(right, payout_signature=short + bytes((ALL_ANYONECANPAY,)))
    found["a payout of hash type ALL"] = replace(right, payout_signature=sign_leaf(payout, key, ALL))
    found["signatures swapped"] = replace(
        right,
        signature=right.payout_signature[:SCHNORR_SIZE],
        payout_signature=right.signature + bytes((ALL_ANYONECANPAY,)),
    )
    found["signed by another"] = sign_commit(contract, anchor, right.quantity, right.revoke_hash, Key(key.secret[::-1]))
    return {name: made for name, made in found.items() if made != right}


def excessive_commits(contract: Contract, anchor: Coin, revoke_hash: Hash, moved: int, key: Key) -> dict[str, Commit]:
    """Valid signatures of commits of quantities that none may have."""
    boundless = replace(contract, quantity=Quantity(MAX_QUANTITY))
    quantities = {
        "beyond the deposit": contract.quantity + 1,
        "of 2^63 - 1": MAX_QUANTITY,
        "of what was moved before": moved,
        "of less than was moved before": moved - 1,
        "of one": 1,
    }
    return {
        f"a commit {name}": sign_commit(boundless, anchor, Quantity(quantity), revoke_hash, key)
        for name, quantity in quantities.items()
        if quantity > 0
    }


def bad_remainders(contract: Contract, anchor: Coin, named: Commit | Remainder, key: Key) -> dict[str, Remainder]:
    """Remainders with signatures of their payee's key, none of which are of what the payer builds."""
    commit = Commit(named.quantity, named.revoke_hash, b"", b"")
    right = sign_remainder(contract, anchor, commit, key)
    found = {
        name: sign_remainder(other, spent, commit, key)
        for name, (other, spent) in other_contracts(contract, anchor).items()
    }
    other = sign_remainder(contract, anchor, replace(commit, quantity=Quantity(commit.quantity - 1)), key)
    found["a quantity of -1"] = replace(other, quantity=commit.quantity)
    found["of a lower commit"] = other
    found["signed by another"] = sign_remainder(contract, anchor, commit, Key(key.secret[::-1]))
    found["of another hash"] = replace(right, revoke_hash=Hash(right.revoke_hash[::-1]))
    return {name: made for name, made in found.items() if made != right}
