"""The kernel judges every spend: a block takes it when it is right and in time, and none when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from channel_support import (
    ASSET,
    compose_child,
    compose_expire,
    compose_revoke,
    digest,
    finish_close,
    finish_commit,
    finish_payout,
    finish_remainder,
    finish_rest,
    hashed,
    key,
    legacy,
    secret,
    segwit,
)
from regtest_support import open_node

from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.drafts import Draft, parse_transaction
from picopayments_cli.channel.halves import Closing, Commit, counter_close, sign_close, sign_commit, sign_remainder
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.scripts import DepositScript
from picopayments_cli.channel.signing import (
    ALL_ANYONECANPAY,
    finish_alone,
    finish_both,
    finish_wallet,
    sign_leaf,
)
from picopayments_cli.channel.transactions import (
    Contract,
    check_deposit,
    compose_close,
    compose_commit,
    compose_deposit,
    compose_payout,
    compose_remainder,
    compose_rest,
)
from picopayments_cli.channel.values import Coin, Height, Outpoint, Quantity
from picopayments_cli.regtest.node import BlockRefused, Node

DELAY = 3
Q = Quantity(1000)
ONE = hashed("one")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One chain for all tests, which only grows: each test has keys and coins of its own."""
    with open_node(tmp_path_factory.mktemp("chain") / "node", 0) as running:
        yield running


@dataclass(frozen=True)
class Side:
    """A party: its wallet's key and script, and its channel keys."""

    wallet: Key
    script: bytes
    secrets: Secrets


@dataclass(frozen=True)
class Open:
    """A channel whose deposit is mined."""

    node: Node
    payer: Side
    payee: Side
    contract: Contract
    anchor: Coin

    def purse(self, side: Side, rate: int = 2) -> Purse:
        """A side's confirmed coins."""
        return purse_of(self.node, side, rate)

    def commit(self, quantity: int = 300) -> Commit:
        """A commit of the payer's."""
        return sign_commit(self.contract, self.anchor, Quantity(quantity), ONE, self.payer.secrets.payer)

    def commit_draft(self, quantity: int = 300) -> Draft:
        """The commit's transaction."""
        return compose_commit(self.contract, self.anchor, quantity, ONE)

    def finished(self, quantity: int = 300) -> bytes:
        """The commit's bytes, signed by both."""
        return finish_commit(self.contract, self.anchor, self.commit(quantity), self.payee.secrets.payee)


def purse_of(node: Node, side: Side, rate: int = 2) -> Purse:
    coins = node.index.coins_of(side.script).items()
    return Purse(
        side.script,
        tuple(Coin(outpoint, out.value, out.script, Height(out.height or 0)) for outpoint, out in coins),
        rate,
    )


def side_of(node: Node, name: str, *, witness: bool) -> Side:
    wallet = key(name)
    script = segwit(wallet) if witness else legacy(wallet)
    for _ in range(2):
        node.faucet(script, 60_000, "XCP", 0)
    node.generate(1)
    return Side(wallet, script, Secrets(wallet, digest(f"salt of {name}")[:16]))


@pytest.fixture(params=["P2PKH", "P2WPKH"])
def channel(node: Node, request: pytest.FixtureRequest) -> Open:
    """A channel with its deposit in a block."""
    name, witness = request.node.name, request.param == "P2WPKH"
    payer, payee = (side_of(node, f"{role} of {name}", witness=witness) for role in ("payer", "payee"))
    script = DepositScript(payer.secrets.payer.xonly, payee.secrets.payee.xonly, node.index.height + 12)
    contract = Contract(script, payer.script, payee.script, ASSET, Q, DELAY, 1)
    raw = finish_wallet(compose_deposit(contract, purse_of(node, payer)), payer.wallet)
    node.mine([raw])
    tx = parse_transaction(raw)
    assert tx is not None
    anchor = check_deposit(contract, tx)
    assert anchor.outpoint in node.index.coins_of(script.output)
    return Open(node, payer, payee, contract, anchor)


def refused(node: Node, *raws: bytes) -> None:
    """No block may hold these transactions, in this order."""
    height = node.index.height
    with pytest.raises(BlockRefused):
        node.mine(raws)
    assert node.index.height == height


def mined(node: Node, *raws: bytes) -> None:
    """A block takes these transactions."""
    node.mine(raws)
    for raw in raws:
        tx = parse_transaction(raw)
        assert tx is not None
        assert node.index.find(tx.GetTxid()) is not None


def mine_to(node: Node, height: int) -> None:
    """Mine until the tip has that height."""
    while node.index.height < height:
        node.mine([])


# Commit, payout, remainder ------------------------------------------------------------------------------------------


def test_a_commit_is_mined_only_as_both_signed_it(channel: Open) -> None:
    commit, draft = channel.commit(), channel.commit_draft()
    payee = channel.payee.secrets.payee
    by_payee = sign_leaf(draft, payee)
    for raw in (
        finish_both(draft, commit.signature, commit.signature),
        finish_both(draft, by_payee, by_payee),
        finish_both(draft, commit.signature, sign_leaf(draft, channel.payee.secrets.payer)),
        finish_both(draft, commit.signature, sign_leaf(draft, channel.payee.wallet)),
        finish_both(replace(draft, outputs=draft.outputs[:3]), commit.signature, by_payee),
        finish_both(replace(draft, version=2), commit.signature, by_payee),
        finish_both(compose_commit(channel.contract, channel.anchor, 301, ONE), commit.signature, by_payee),
    ):
        refused(channel.node, raw)
    mined(channel.node, channel.finished())


def test_a_payout_is_mined_delay_blocks_after_its_commit_and_not_before(channel: Open) -> None:
    commit = channel.commit()
    payout = finish_payout(channel.contract, channel.anchor, commit, channel.payee.secrets.payee)
    refused(channel.node, channel.finished(), payout)
    mined(channel.node, channel.finished())
    made_at = channel.node.index.height
    mine_to(channel.node, made_at + DELAY - 2)
    refused(channel.node, payout)
    mine_to(channel.node, made_at + DELAY - 1)
    mined(channel.node, payout)
    assert channel.node.index.height == made_at + DELAY


def test_a_payout_can_not_be_made_earlier_by_its_payee(channel: Open) -> None:
    """The payer's signature holds the sequence: no other one is valid with it, nor a version without relative locks."""
    commit, draft = channel.commit(), channel.commit_draft()
    payout = compose_payout(channel.contract, draft, ONE)
    mined(channel.node, channel.finished())
    payee = channel.payee.secrets.payee
    for sequence, version in ((0, 3), (DELAY - 1, 3), (0xFFFFFFFF, 3), (0xFFFFFFFD, 3), (DELAY, 1)):
        spent = replace(payout.inputs[0], sequence=sequence)
        early = replace(payout, inputs=(spent,), version=version)
        refused(channel.node, finish_both(early, commit.payout_signature, sign_leaf(early, payee)))


def test_a_remainder_is_mined_in_the_block_after_its_commit(channel: Open) -> None:
    remainder = sign_remainder(channel.contract, channel.anchor, channel.commit(), channel.payee.secrets.payee)
    raw = finish_remainder(channel.contract, channel.anchor, remainder, channel.payer.secrets.payer)
    refused(channel.node, raw)
    refused(channel.node, channel.finished(), raw)
    mined(channel.node, channel.finished())
    draft = compose_remainder(channel.contract, channel.commit_draft())
    own = sign_leaf(draft, channel.payer.secrets.payer)
    refused(channel.node, finish_both(draft, own, own))
    refused(channel.node, finish_both(draft, own, sign_leaf(draft, channel.payee.secrets.payer, ALL_ANYONECANPAY)))
    mined(channel.node, raw)


# Revoke -------------------------------------------------------------------------------------------------------------


def test_a_revoked_commit_is_punished_in_its_own_block(channel: Open) -> None:
    draft, payer = channel.commit_draft(), channel.payer
    revoke = compose_revoke(channel.contract, draft.coin(0), ONE, ASSET, channel.purse(payer, 9), draft)
    right = finish_alone(revoke, payer.secrets.payer, payer.wallet, secret("one"))
    for raw in (
        finish_alone(revoke, payer.secrets.payer, payer.wallet, secret("two")),
        finish_alone(revoke, payer.secrets.payer, payer.wallet),
        finish_alone(revoke, payer.secrets.payee, payer.wallet, secret("one")),
        finish_alone(revoke, channel.payee.secrets.payee, payer.wallet, secret("one")),
    ):
        refused(channel.node, channel.finished(), raw)
    mined(channel.node, channel.finished(), right)


def test_after_a_punishment_the_rest_is_taken_with_the_remainder_and_the_payout_is_void(channel: Open) -> None:
    commit, draft, payer = channel.commit(), channel.commit_draft(), channel.payer
    remainder = sign_remainder(channel.contract, channel.anchor, commit, channel.payee.secrets.payee)
    revoke = compose_revoke(channel.contract, draft.coin(0), ONE, ASSET, channel.purse(payer))
    mined(channel.node, channel.finished())
    mined(
        channel.node,
        finish_alone(revoke, payer.secrets.payer, payer.wallet, secret("one")),
        finish_remainder(channel.contract, channel.anchor, remainder, payer.secrets.payer),
    )
    mine_to(channel.node, channel.node.index.height + DELAY)
    refused(channel.node, finish_payout(channel.contract, channel.anchor, commit, channel.payee.secrets.payee))


def test_coins_that_strangers_send_to_a_revoked_commit_are_taken_apart(channel: Open) -> None:
    script = channel.contract.commit_script(ONE)
    (txid,) = channel.node.faucet(script.output, 5_000, "XCP", 0)
    channel.node.generate(1)
    stray = Coin(Outpoint(txid, 0), 5_000, script.output, Height(channel.node.index.height))
    payer = channel.payer
    draft = compose_revoke(channel.contract, stray, ONE, 1, channel.purse(payer))
    mined(channel.node, finish_alone(draft, payer.secrets.payer, payer.wallet, secret("one")))


# Expire -------------------------------------------------------------------------------------------------------------


def test_an_expiry_is_mined_in_the_block_after_its_height_and_not_before(channel: Open) -> None:
    script, payer, node = channel.contract.deposit, channel.payer, channel.node
    (txid,) = node.faucet(script.output, 700, "XCP", 0)
    node.generate(1)
    stray = Coin(Outpoint(txid, 0), 700, script.output, Height(node.index.height))
    draft = compose_expire(channel.contract, [stray, channel.anchor], ASSET, channel.purse(payer, 30))
    raw = finish_alone(draft, payer.secrets.payer, payer.wallet)
    unlocked = replace(draft, locktime=script.height - 1)
    final = replace(draft, inputs=tuple(replace(spent, sequence=0xFFFFFFFF) for spent in draft.inputs))
    mine_to(node, script.height - 1)
    refused(node, raw)
    refused(node, finish_alone(unlocked, payer.secrets.payer, payer.wallet))
    refused(node, finish_alone(final, payer.secrets.payer, payer.wallet))
    mine_to(node, script.height)
    refused(node, finish_alone(unlocked, payer.secrets.payer, payer.wallet))
    refused(node, finish_alone(draft, channel.payee.secrets.payee, payer.wallet))
    mined(node, raw)
    assert node.index.height == script.height + 1
    assert not node.index.coins_of(script.output)


def test_before_the_expiry_what_both_signed_is_mined_after_it_too(channel: Open) -> None:
    mine_to(channel.node, channel.contract.deposit.height + 1)
    mined(channel.node, channel.finished())


# Agreed closes ------------------------------------------------------------------------------------------------------


def closed(channel: Open, quantity: int) -> tuple[Closing, bytes]:
    """The payee's signatures of a close, and the close with both."""
    closing = sign_close(channel.contract, channel.anchor, quantity, channel.payee.secrets.payee)
    counter = counter_close(channel.contract, channel.anchor, closing, channel.payer.secrets.payer)
    return closing, finish_close(channel.contract, channel.anchor, closing, counter)


def test_a_close_and_its_rest_are_mined_in_one_block(channel: Open) -> None:
    closing, raw = closed(channel, 300)
    rest = finish_rest(channel.contract, channel.anchor, closing, channel.payer.secrets.payer)
    draft = compose_rest(channel.contract, compose_close(channel.contract, channel.anchor, 300))
    own = sign_leaf(draft, channel.payer.secrets.payer)
    refused(channel.node, rest)
    refused(channel.node, raw, finish_both(draft, own, own))
    refused(channel.node, raw, finish_both(replace(draft, version=2), own, closing.rest_signature or b""))
    mined(channel.node, raw, rest)
    refused(channel.node, channel.finished())


@pytest.mark.parametrize("quantity", [0, 1, 999, 1000])
def test_a_close_of_any_quantity_is_mined(channel: Open, quantity: int) -> None:
    _, raw = closed(channel, quantity)
    mined(channel.node, raw)


# Children -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("raiser", ["payer", "payee"])
def test_whoever_wants_it_mined_raises_it_with_an_output_that_anybody_may_spend(
    channel: Open, raiser: str, closing: bool
) -> None:
    side = channel.payer if raiser == "payer" else channel.payee
    parent = compose_close(channel.contract, channel.anchor, 300) if closing else channel.commit_draft()
    raw = closed(channel, 300)[1] if closing else channel.finished()
    child = compose_child(parent, 3, channel.purse(side, 40))
    signed = finish_wallet(child, side.wallet)
    refused(channel.node, signed, raw)
    mined(channel.node, raw, signed)


def test_what_pays_to_ones_wallet_is_raised_with_that(channel: Open) -> None:
    remainder = sign_remainder(channel.contract, channel.anchor, channel.commit(), channel.payee.secrets.payee)
    raw = finish_remainder(channel.contract, channel.anchor, remainder, channel.payer.secrets.payer)
    parent = compose_remainder(channel.contract, channel.commit_draft())
    child = compose_child(parent, 0, channel.purse(channel.payer, 40))
    mined(channel.node, channel.finished())
    mined(channel.node, raw, finish_wallet(child, channel.payer.wallet))
