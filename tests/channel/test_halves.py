"""The signatures of both sides: each broken by itself is refused, and nothing else than the agreed is ever signed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from channel_support import (
    CONTRACT,
    DEPOSIT,
    ONE,
    OTHER_ASSET,
    PAYEE,
    PAYEE_WALLET,
    PAYER,
    anchor_of,
    coin,
    finish_close,
    finish_commit,
    finish_payout,
    finish_remainder,
    finish_rest,
    hashed,
    kernel_accepts,
    key,
    legacy,
    segwit,
)
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.drafts import Draft, Output
from picopayments_cli.channel.halves import (
    Closing,
    Commit,
    Remainder,
    check_close,
    check_commit,
    check_counter,
    check_remainder,
    counter_close,
    sign_close,
    sign_commit,
    sign_remainder,
)
from picopayments_cli.channel.scripts import DepositScript
from picopayments_cli.channel.signing import ALL, ALL_ANYONECANPAY, DEFAULT, finish_both, leaf_signed, sign_leaf
from picopayments_cli.channel.transactions import (
    Contract,
    compose_close,
    compose_commit,
    compose_payout,
    compose_remainder,
    compose_rest,
)
from picopayments_cli.channel.values import Coin, Quantity
from picopayments_cli.errors import BadCommitQuantity, BadDeposit, BadPayeeSignature, BadPayerSignature

ANCHOR = anchor_of(CONTRACT)
COMMIT = sign_commit(CONTRACT, ANCHOR, Quantity(300), ONE, PAYER)
REMAINDER = sign_remainder(CONTRACT, ANCHOR, COMMIT, PAYEE)
CLOSING = sign_close(CONTRACT, ANCHOR, 300, PAYEE)
COMMIT_DRAFT = compose_commit(CONTRACT, ANCHOR, 300, ONE)
PAYOUT_DRAFT = compose_payout(CONTRACT, COMMIT_DRAFT, ONE)
REMAINDER_DRAFT = compose_remainder(CONTRACT, COMMIT_DRAFT)
CLOSE_DRAFT = compose_close(CONTRACT, ANCHOR, 300)
REST_DRAFT = compose_rest(CONTRACT, CLOSE_DRAFT)


def accepted(check: Callable[[], None]) -> bool:
    try:
        check()
    except (BadPayerSignature, BadPayeeSignature):
        return False
    return True


def test_what_is_signed_is_accepted_and_finished() -> None:
    check_commit(CONTRACT, ANCHOR, COMMIT)
    check_remainder(CONTRACT, ANCHOR, REMAINDER)
    check_close(CONTRACT, ANCHOR, CLOSING)
    counter = counter_close(CONTRACT, ANCHOR, CLOSING, PAYER)
    check_counter(CONTRACT, ANCHOR, 300, counter)
    for raw, draft in (
        (finish_commit(CONTRACT, ANCHOR, COMMIT, PAYEE), COMMIT_DRAFT),
        (finish_payout(CONTRACT, ANCHOR, COMMIT, PAYEE), PAYOUT_DRAFT),
        (finish_remainder(CONTRACT, ANCHOR, REMAINDER, PAYER), REMAINDER_DRAFT),
        (finish_close(CONTRACT, ANCHOR, CLOSING, counter), CLOSE_DRAFT),
        (finish_rest(CONTRACT, ANCHOR, CLOSING, PAYER), REST_DRAFT),
    ):
        assert kernel_accepts(raw, draft)


@given(st.integers(1, 1000), st.integers(1, 100), st.integers(0, 5_000))
def test_whatever_is_agreed_is_signed_and_accepted(quantity: int, rate: int, more: int) -> None:
    contract = replace(CONTRACT, rate=rate)
    anchor = anchor_of(contract, more)
    commit = sign_commit(contract, anchor, Quantity(quantity), ONE, PAYER)
    check_commit(contract, anchor, commit)
    check_remainder(contract, anchor, sign_remainder(contract, anchor, commit, PAYEE))
    closing = sign_close(contract, anchor, quantity, PAYEE)
    check_counter(contract, anchor, quantity, counter_close(contract, anchor, closing, PAYER))
    assert (closing.rest_signature is None) == (quantity == 1000)


def test_lengths_on_the_wire_are_exact() -> None:
    counter = counter_close(CONTRACT, ANCHOR, CLOSING, PAYER)
    assert [len(data) for data in (COMMIT.signature, CLOSING.signature, counter)] == [64, 64, 64]
    halves = (COMMIT.payout_signature, REMAINDER.signature, CLOSING.rest_signature or b"")
    assert [(len(data), data[64]) for data in halves] == [(65, 0x81)] * 3


def test_a_signature_is_always_the_same() -> None:
    assert sign_commit(CONTRACT, ANCHOR, Quantity(300), ONE, PAYER) == COMMIT
    assert sign_remainder(CONTRACT, ANCHOR, COMMIT, PAYEE) == REMAINDER
    assert sign_close(CONTRACT, ANCHOR, 300, PAYEE) == CLOSING


# Signatures broken by themselves ------------------------------------------------------------------------------------


def mutants(draft: Draft, owner_is_payer: bool, hash_type: int) -> dict[str, bytes]:
    """A signature of a draft with one thing wrong in each."""
    owner, other = (PAYER, PAYEE) if owner_is_payer else (PAYEE, PAYER)
    right = sign_leaf(draft, owner, hash_type)
    value = draft.outputs[0].value
    changed = {
        "version": replace(draft, version=2),
        "locktime": replace(draft, locktime=1),
        "sequence": with_input(draft, sequence=draft.inputs[0].sequence + 1),
        "outpoint": with_input(draft, coin=coin("other", draft.inputs[0].coin.value, draft.inputs[0].coin.script)),
        "value spent": with_input(draft, coin=replace(draft.inputs[0].coin, value=draft.inputs[0].coin.value + 1)),
        "leaf": with_input(draft, leaf=DEPOSIT.expire),
        "an output's value": replace(draft, outputs=(replace(draft.outputs[0], value=value - 1), *draft.outputs[1:])),
        "an output's script": replace(
            draft, outputs=(replace(draft.outputs[0], script=legacy(key("thief"))), *draft.outputs[1:])
        ),
        "order of outputs": replace(draft, outputs=draft.outputs[::-1]),
        "an output less": replace(draft, outputs=draft.outputs[:-1]),
        "an output more": replace(draft, outputs=(*draft.outputs, Output(0, b"\x6a"))),
        "quantity": replace(
            draft, outputs=(draft.outputs[0], CONTRACT.message(299, draft.inputs[0].coin.outpoint), *draft.outputs[2:])
        ),
    }
    made = {name: sign_leaf(broken, owner, hash_type) for name, broken in changed.items()}
    made |= {
        f"hash type {given:02x}": sign_leaf(draft, owner, given)
        for given in (DEFAULT, ALL, ALL_ANYONECANPAY)
        if given != hash_type
    }
    made |= {f"hash type written {byte:02x}": right[:64] + bytes((byte,)) for byte in range(256) if byte != hash_type}
    made |= {"other signer": sign_leaf(draft, other, hash_type), "nobody": bytes(len(right)), "nothing": b""}
    made |= {"short": right[:-1], "long": right + b"\x81", "long by a zero": right + b"\x00", "cut": right[:63]}
    return made


def with_input(draft: Draft, **members: object) -> Draft:
    return replace(draft, inputs=(replace(draft.inputs[0], **members),))  # type: ignore[arg-type]


PAIRS: dict[str, tuple[Draft, bool, int, Callable[[bytes], None]]] = {
    "commit": (
        COMMIT_DRAFT,
        True,
        DEFAULT,
        lambda data: check_commit(CONTRACT, ANCHOR, replace(COMMIT, signature=data)),
    ),
    "payout": (
        PAYOUT_DRAFT,
        True,
        ALL_ANYONECANPAY,
        lambda data: check_commit(CONTRACT, ANCHOR, replace(COMMIT, payout_signature=data)),
    ),
    "remainder": (
        REMAINDER_DRAFT,
        False,
        ALL_ANYONECANPAY,
        lambda data: check_remainder(CONTRACT, ANCHOR, replace(REMAINDER, signature=data)),
    ),
    "close": (
        CLOSE_DRAFT,
        False,
        DEFAULT,
        lambda data: check_close(CONTRACT, ANCHOR, replace(CLOSING, signature=data)),
    ),
    "rest": (
        REST_DRAFT,
        False,
        ALL_ANYONECANPAY,
        lambda data: check_close(CONTRACT, ANCHOR, replace(CLOSING, rest_signature=data)),
    ),
    "counter": (CLOSE_DRAFT, True, DEFAULT, lambda data: check_counter(CONTRACT, ANCHOR, 300, data)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_signature_with_one_thing_wrong_is_refused(name: str) -> None:
    draft, owner_is_payer, hash_type, check = PAIRS[name]
    check(sign_leaf(draft, PAYER if owner_is_payer else PAYEE, hash_type))
    broken = mutants(draft, owner_is_payer, hash_type)
    assert [cause for cause, data in broken.items() if accepted(lambda data=data: check(data))] == []  # type: ignore[misc]


@given(st.sampled_from(sorted(PAIRS)), st.integers(0, 64), st.integers(1, 255))
def test_a_signature_with_one_byte_changed_is_refused(name: str, at: int, flip: int) -> None:
    draft, owner_is_payer, hash_type, check = PAIRS[name]
    signature = bytearray(sign_leaf(draft, PAYER if owner_is_payer else PAYEE, hash_type))
    signature[at % len(signature)] ^= flip
    assert not accepted(lambda: check(bytes(signature)))


# Values broken by themselves ----------------------------------------------------------------------------------------

OTHERS: dict[str, Contract] = {
    "expiry": replace(CONTRACT, deposit=replace(DEPOSIT, height=DEPOSIT.height + 1)),
    "payer": replace(CONTRACT, deposit=DepositScript(key("x").xonly, PAYEE.xonly, DEPOSIT.height)),
    "payee": replace(CONTRACT, deposit=DepositScript(PAYER.xonly, key("x").xonly, DEPOSIT.height)),
    "asset": replace(CONTRACT, asset_id=OTHER_ASSET),
    "rate": replace(CONTRACT, rate=2),
    "payer's wallet": replace(CONTRACT, payer_wallet=legacy(key("thief"))),
    "payee's wallet": replace(CONTRACT, payee_wallet=segwit(PAYEE_WALLET)),
    "delay": replace(CONTRACT, delay=13),
    "deposited": replace(CONTRACT, quantity=Quantity(300)),
}
UNTOUCHED = {
    # what the signed transactions do not depend on; the commit's are the commit and its payout
    "commit": {"payer's wallet", "deposited"},
    "remainder": {"delay", "payee's wallet", "deposited"},
    "close": {"delay"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_was_signed_for_another_contract_is_refused(name: str) -> None:
    contract = OTHERS[name]
    anchor = replace(anchor_of(contract, 5_000), outpoint=ANCHOR.outpoint)
    mine = anchor_of(CONTRACT, anchor.value - ANCHOR.value)
    commit = sign_commit(contract, anchor, Quantity(300), ONE, PAYER)
    remainder = sign_remainder(contract, anchor, commit, PAYEE)
    closing = sign_close(contract, anchor, 300, PAYEE)
    assert accepted(lambda: check_commit(CONTRACT, mine, commit)) == (name in UNTOUCHED["commit"])
    assert accepted(lambda: check_remainder(CONTRACT, mine, remainder)) == (name in UNTOUCHED["remainder"])
    assert accepted(lambda: check_close(CONTRACT, mine, closing)) == (name in UNTOUCHED["close"])


@pytest.mark.parametrize(
    "anchor",
    [
        replace(ANCHOR, value=ANCHOR.value + 1),
        replace(ANCHOR, outpoint=replace(ANCHOR.outpoint, vout=1)),
        coin("another", ANCHOR.value, ANCHOR.script),
    ],
)
def test_what_was_signed_for_another_anchor_is_refused(anchor: Coin) -> None:
    assert not accepted(lambda: check_commit(CONTRACT, anchor, COMMIT))
    assert not accepted(lambda: check_remainder(CONTRACT, anchor, REMAINDER))
    assert not accepted(lambda: check_close(CONTRACT, anchor, CLOSING))


def test_what_was_signed_for_another_quantity_or_hash_is_refused() -> None:
    for broken in (replace(COMMIT, quantity=Quantity(301)), replace(COMMIT, revoke_hash=hashed("two"))):
        assert not accepted(lambda broken=broken: check_commit(CONTRACT, ANCHOR, broken))  # type: ignore[misc]
    for named in (replace(REMAINDER, quantity=Quantity(299)), replace(REMAINDER, revoke_hash=hashed("two"))):
        assert not accepted(lambda named=named: check_remainder(CONTRACT, ANCHOR, named))  # type: ignore[misc]
    for closing in (replace(CLOSING, quantity=299), replace(CLOSING, quantity=0), replace(CLOSING, quantity=1000)):
        assert not accepted(lambda closing=closing: check_close(CONTRACT, ANCHOR, closing))  # type: ignore[misc]


def test_a_valid_commit_with_another_commits_payout_is_refused_and_the_reverse() -> None:
    other = sign_commit(CONTRACT, ANCHOR, Quantity(300), hashed("two"), PAYER)
    for signature, payout in (
        (COMMIT.signature, other.payout_signature),
        (other.signature, COMMIT.payout_signature),
        (COMMIT.signature, COMMIT.payout_signature[:64] + b"\x01"),
        (COMMIT.payout_signature[:64], COMMIT.signature + b"\x81"),
    ):
        assert not accepted(
            lambda signature=signature, payout=payout: check_commit(  # type: ignore[misc]
                CONTRACT, ANCHOR, Commit(COMMIT.quantity, ONE, signature, payout)
            )
        )


def test_quantities_outside_the_deposit_are_refused_before_any_signature() -> None:
    for quantity in (0, 1001, -1):
        with pytest.raises(BadCommitQuantity):
            check_commit(CONTRACT, ANCHOR, replace(COMMIT, quantity=Quantity(quantity)))
        with pytest.raises(BadCommitQuantity):
            check_remainder(CONTRACT, ANCHOR, Remainder(Quantity(quantity), ONE, REMAINDER.signature))
    for quantity in (-1, 1001):
        with pytest.raises(BadCommitQuantity):
            check_close(CONTRACT, ANCHOR, replace(CLOSING, quantity=quantity))
    with pytest.raises(BadDeposit):
        check_commit(CONTRACT, anchor_of(CONTRACT, -1), COMMIT)


# Closes -------------------------------------------------------------------------------------------------------------


def test_the_payer_signs_no_close_whose_rest_the_payee_has_not_signed() -> None:
    """Else the payee takes its quantity at once, and keeps the rest until somebody pays for it."""
    for broken in (
        replace(CLOSING, rest_signature=None),
        replace(CLOSING, rest_signature=b""),
        replace(CLOSING, rest_signature=CLOSING.signature),
        replace(CLOSING, signature=(CLOSING.rest_signature or b"")[:64]),
    ):
        with pytest.raises(BadPayeeSignature):
            counter_close(CONTRACT, ANCHOR, broken, PAYER)


@pytest.mark.parametrize("quantity", [0, 1000])
def test_a_close_without_a_rest_has_no_signature_of_one(quantity: int) -> None:
    closing = sign_close(CONTRACT, ANCHOR, quantity, PAYEE)
    assert closing.rest_signature is None
    counter = counter_close(CONTRACT, ANCHOR, closing, PAYER)
    raw = finish_close(CONTRACT, ANCHOR, closing, counter)
    assert kernel_accepts(raw, compose_close(CONTRACT, ANCHOR, quantity))
    for signature in (b"", CLOSING.rest_signature):
        assert not accepted(
            lambda signature=signature: check_close(  # type: ignore[misc]
                CONTRACT, ANCHOR, Closing(quantity, closing.signature, signature)
            )
        )


# Hash types in the kernel -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draft", [PAYOUT_DRAFT, REMAINDER_DRAFT, REST_DRAFT])
def test_a_coin_added_to_a_half_signed_transaction_leaves_the_half_valid(draft: Draft) -> None:
    """81 leaves inputs open, but the outputs not: what is added is all fee."""
    added = draft.plus([coin("added", 3_000, segwit(PAYEE_WALLET))])
    payer, payee = sign_leaf(draft, PAYER, ALL_ANYONECANPAY), sign_leaf(draft, PAYEE, ALL_ANYONECANPAY)
    own_payer, own_payee = sign_leaf(added, PAYER), sign_leaf(added, PAYEE)
    assert added.fee == draft.fee + 3_000
    assert kernel_accepts(finish_both(added, payer, own_payee, PAYEE_WALLET), added)
    assert kernel_accepts(finish_both(added, own_payer, payee, PAYEE_WALLET), added)
    for_alone = sign_leaf(draft, PAYEE)
    assert not kernel_accepts(finish_both(added, payer, for_alone, PAYEE_WALLET), added)
    assert not leaf_signed(added, PAYEE.xonly, for_alone)


def test_commits_and_closes_can_not_be_added_to() -> None:
    for draft in (COMMIT_DRAFT, CLOSE_DRAFT):
        added = draft.plus([coin("added", 3_000, segwit(PAYEE_WALLET))])
        raw = finish_both(added, sign_leaf(draft, PAYER), sign_leaf(added, PAYEE), PAYEE_WALLET)
        assert not kernel_accepts(raw, added)


def test_signatures_in_the_wrong_order_open_nothing() -> None:
    payer, payee = sign_leaf(COMMIT_DRAFT, PAYER), sign_leaf(COMMIT_DRAFT, PAYEE)
    assert kernel_accepts(finish_both(COMMIT_DRAFT, payer, payee), COMMIT_DRAFT)
    assert not kernel_accepts(finish_both(COMMIT_DRAFT, payee, payer), COMMIT_DRAFT)
    for missing in (b"", bytes(64)):
        assert not kernel_accepts(finish_both(COMMIT_DRAFT, missing, payee), COMMIT_DRAFT)
        assert not kernel_accepts(finish_both(COMMIT_DRAFT, payer, missing), COMMIT_DRAFT)
