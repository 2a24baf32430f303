"""Attacks on the hub by fees: each was a theft from the program before it, and fails on the chain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from channel_support import finish_commit, finish_payout
from hub_support import DELAY, DEPOSIT, TIME, Client, Desk, open_all, payment, running_desk
from regtest_support import address_of

from picopayments_cli.chain import Query
from picopayments_cli.channel.counterparty import asset_id
from picopayments_cli.channel.drafts import OWN, SHARED, Draft, Input, Output
from picopayments_cli.channel.halves import Commit
from picopayments_cli.channel.messages import DepositRequest
from picopayments_cli.channel.opening import Stake, contract_of
from picopayments_cli.channel.scripts import P2A
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.state import known_anchor
from picopayments_cli.channel.transactions import child_shape, compose_commit, compose_payout
from picopayments_cli.channel.values import Coin, Outpoint, Quantity
from picopayments_cli.errors import BroadcastRefused
from picopayments_cli.hub.wallet import means_of


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        yield found


def coins_of(desk: Desk, script: bytes) -> tuple[Coin, ...]:
    """The coins of an address, unconfirmed ones too."""
    address = address_of(script)
    return desk.hub.chain.view(Query(coins=[address])).coins[address]


def spend_all(desk: Desk, outputs: Sequence[Output], rate: int = 100) -> None:
    """Have the hub's wallet spend all its coins; what the outputs leave is the first one's."""
    draft = Draft(tuple(map(Input, coins_of(desk, desk.hub.script))), tuple(outputs))
    first = Output(outputs[0].value + draft.fee - rate * draft.size, outputs[0].script)
    desk.hub.bitcoin.submit([finish_wallet(Draft(draft.inputs, (first, *outputs[1:])), desk.hub.key)])


def revoked(desk: Desk, bob: Client, alice: Client) -> Commit:
    """A commit to bob that he has given back."""
    open_all(desk, alice, bob)
    alice.sync(payment(bob.handle, 5000))
    bob.sync()
    made = bob.commits[-1]
    bob.sync(payment(alice.handle, made.quantity - 1))
    return made


def publish_commit(desk: Desk, bob: Client, made: Commit) -> str:
    """Have bob publish his commit; its txid."""
    receiving = bob.duplex.receiving
    bob.publish(finish_commit(receiving.contract, known_anchor(receiving), made, bob.secrets.payee))
    (txid,) = desk.mempool()
    return txid


def only_child(desk: Desk, parent: str) -> str:
    """The one transaction in the mempool that spends another there."""
    (child,) = desk.node.bitcoin("getmempoolentry", parent)["spentby"]
    return str(child)


def spender(desk: Desk, commit: str) -> str:
    """The one transaction in the mempool that spends a commit's first output."""
    raws = {txid: desk.node.bitcoin("getrawtransaction", txid, True) for txid in desk.mempool()}
    (found,) = [txid for txid, raw in raws.items() if (raw["vin"][0]["txid"], raw["vin"][0]["vout"]) == (commit, 0)]
    return found


def paid(desk: Desk, *txids: str) -> float:
    """The satoshis per vB that these pay together."""
    entries = [desk.node.bitcoin("getmempoolentry", txid) for txid in txids]
    return float(1e8 * sum(item["fees"]["base"] for item in entries) / sum(item["vsize"] for item in entries))


@pytest.mark.parametrize("empty", [False, True])
def test_a_cheat_whose_victim_has_no_confirmed_coin_is_punished_at_the_best_rate_it_can_pay(
    desk: Desk, empty: bool
) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    made, before = revoked(desk, bob, alice), desk.balance(desk.hub.script)
    commit = publish_commit(desk, bob, made)
    desk.node.rpc("generate", blocks=1)
    desk.node.rpc("feerate", rate=50)
    spend_all(desk, [Output(0, alice.script if empty else desk.hub.script)])
    desk.rounds.once()
    revoke = spender(desk, commit)
    assert all(coin.height is None for coin in coins_of(desk, desk.hub.script))
    assert paid(desk, revoke) >= 1
    assert desk.node.bitcoin("getrawtransaction", revoke, True)["vout"][0]["value"] == pytest.approx(546e-8)
    desk.mine()
    revoke = spender(desk, commit)
    if not empty:
        assert paid(desk, revoke) >= 50  # the change has confirmed
        desk.mine()
        assert revoke not in desk.mempool()
    desk.node.rpc("feerate", rate=1)  # else it pays all that it can; and the remainder can wait
    desk.mine(3)
    assert desk.balance(desk.hub.script) == before + DEPOSIT


def test_a_cheat_that_outbids_its_punishment_as_fees_rise_is_outbid_at_each_block(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    made, before = revoked(desk, bob, alice), desk.balance(desk.hub.script)
    commit = publish_commit(desk, bob, made)
    desk.rounds.once()
    first = only_child(desk, commit)
    assert paid(desk, commit, first) < 3
    for rate in (10, 29):
        desk.node.rpc("feerate", rate=rate)
        desk.node.rpc("generate", blocks=1)
        assert commit in desk.mempool()
        desk.rounds.once()
        second = only_child(desk, commit)
        assert second != first
        assert paid(desk, commit, second) >= rate - 0.01
        first = second
    cheat_child(desk, bob, made, 60)
    assert only_child(desk, commit) != first
    desk.rounds.once()
    last = only_child(desk, commit)
    assert paid(desk, last) > 60
    assert desk.node.bitcoin("getrawtransaction", last, True)["vin"][0]["vout"] == 0
    desk.mine(3)
    assert desk.balance(desk.hub.script) == before + DEPOSIT


def cheat_child(desk: Desk, bob: Client, made: Commit, rate: int) -> None:
    """Have bob raise his revoked commit by a child, which takes the punishment's place."""
    receiving = bob.duplex.receiving
    commit = compose_commit(receiving.contract, known_anchor(receiving), made.quantity, made.revoke_hash)
    shape = child_shape(commit, 3, bob.script).plus([max(bob.purse().coins, key=lambda coin: coin.value)])
    fee = rate * (shape.size + commit.size)
    child = Draft(shape.inputs, (Output(shape.outputs[0].value + shape.fee - fee, bob.script),), shape.version)
    bob.publish(finish_wallet(child, bob.key))


def test_a_child_that_is_evicted_and_its_evictor_with_it_goes_out_again_at_the_next_look(desk: Desk) -> None:
    """Replacement cycling: the attacker's child takes the place of the hub's, and is then itself replaced.

    By a transaction that has nothing to do with the commit, so that this one stays behind alone.
    """
    alice = Client(desk, "alice")
    open_all(desk, alice)
    alice.endow()  # a coin for each of its children
    desk.mine()
    alice.sync(payment(None, 5000))
    before, fees = desk.balance(desk.hub.script), []
    desk.node.rpc("feerate", rate=8)
    desk.hub.draining = True
    desk.rounds.once()
    (commit,) = [txid for txid in desk.mempool() if desk.node.bitcoin("getmempoolentry", txid)["spentby"]]
    for rate in (30, 40, 50):
        own = only_child(desk, commit)
        fees.append(paid(desk, own))
        cycle(desk, alice, commit, rate)
        assert own not in desk.mempool()
        assert desk.node.bitcoin("getmempoolentry", commit)["spentby"] == []
        desk.rounds.once()
        assert paid(desk, commit, only_child(desk, commit)) >= 8
    fees.append(paid(desk, only_child(desk, commit)))
    assert fees == sorted(set(fees))  # each pays more than the one before
    desk.mine(5)
    assert desk.balance(desk.hub.script) == before + 5001


def cycle(desk: Desk, attacker: Client, commit: str, rate: int) -> None:
    """Evict the child of a transaction in the mempool by another, and that one by a spend of its other coin."""
    out = Output(240, P2A)
    outputs = desk.node.bitcoin("getrawtransaction", commit, True)["vout"]
    place = next(n for n, item in enumerate(outputs) if item["scriptPubKey"]["hex"] == P2A.hex())
    anchor = Coin(Outpoint(bytes.fromhex(commit)[::-1], place), out.value, out.script, None)
    coin = max(attacker.purse().coins, key=lambda coin: coin.value)
    for inputs, version, most in (((anchor, coin), SHARED, rate), ((coin,), OWN, 3 * rate)):
        shape = Draft(tuple(map(Input, inputs)), (Output(0, attacker.script),), version)
        value = shape.fee - most * (shape.size + 500)
        draft = Draft(shape.inputs, (Output(value, attacker.script),), version)
        attacker.publish(finish_wallet(draft, attacker.key))
    desk.node.rpc("feerate", rate=8)


def test_dust_on_a_worthless_revoked_commit_costs_its_victim_nothing(desk: Desk) -> None:
    alice, bob = Client(desk, "alice"), Client(desk, "bob")
    made = revoked(desk, bob, alice)
    publish_commit(desk, bob, made)
    desk.mine(3)
    assert desk.mempool() == []
    script = bob.duplex.receiving.contract.commit_script(made.revoke_hash).output
    before = coins_of(desk, desk.hub.script)
    for _ in range(8):
        desk.node.rpc("faucet", address=address_of(script), btc=600)
    desk.mine(4)
    assert coins_of(desk, desk.hub.script) == before
    assert len(coins_of(desk, script)) == 8


@pytest.mark.parametrize(("asked", "used", "refused"), [(34, 1, True), (34, 17, False), (1, 34, False)])
def test_terms_asked_for_while_fees_were_high_bind_the_hub_to_no_such_rate_later(
    desk: Desk, asked: int, used: int, refused: bool
) -> None:
    alice = Client(desk, "alice")
    desk.node.rpc("feerate", rate=asked)
    desk.rounds.once()
    reply = alice.request()
    desk.node.rpc("feerate", rate=used)
    desk.rounds.once()
    height = (desk.hub.follower.height or 0) + TIME
    stake = Stake(Quantity(DEPOSIT), DELAY, reply.terms.fee_rate)
    sending = contract_of(alice.party, reply.hub, asset_id("XCP"), height, stake)
    rate, own = reply.terms.fee_rate_max, alice.secrets.revoke_hash(0)
    body = DepositRequest(alice.handle, stake, rate, height, sending.deposit.output, own).as_json()
    if refused:
        assert rate == 100
        assert alice.refused("mph_deposit", body) == "DepositRefused"
        assert desk.account(alice.handle).duplex is None
        return
    desk.call("mph_deposit", alice.sealed("mph_deposit", body))
    assert desk.account(alice.handle).channels.sending.contract.rate == rate


def test_strangers_that_ask_for_many_connections_leave_the_hub_the_coins_of_its_closes(desk: Desk) -> None:
    reserve = desk.hub.reserve
    coins = [Output(reserve.each, desk.hub.script)] * reserve.coins
    strangers = [Client(desk, f"stranger {number}") for number in range(6)]
    spend_all(desk, [Output(0, strangers[0].script), Output(12_000, desk.hub.script), *coins])
    desk.mine()
    for hand in strangers:
        hand.agree()
        hand.endow()
    desk.mine()
    for hand in strangers:
        hand.deposit()
    desk.mine(8)
    stages = [desk.account(hand.handle).stage for hand in strangers]
    assert set(stages) == {"open", "agreed"}  # the spare coin paid for some
    left = [coin for coin in coins_of(desk, desk.hub.script) if coin.height is not None and coin.value >= reserve.each]
    assert len(left) == reserve.coins
    hand = strangers[stages.index("open")]
    hand.see_deposits()
    hand.sync(payment(None, 5000))
    before = desk.balance(desk.hub.script)
    desk.node.rpc("feerate", rate=90)
    desk.hub.draining = True
    desk.rounds.once()
    commits = [txid for txid in desk.mempool() if desk.node.bitcoin("getmempoolentry", txid)["spentby"]]
    assert len(commits) == 1  # nobody paid the hub by the others
    assert paid(desk, commits[0], only_child(desk, commits[0])) >= 89.9
    desk.mine()
    desk.node.rpc("feerate", rate=1)
    desk.mine(5)
    assert desk.balance(desk.hub.script) >= before + 5001


@pytest.mark.parametrize("rate", [4, 6, 20])
def test_a_lonely_commit_that_pays_less_than_is_asked_is_raised_and_mined_before_its_deadline(
    desk: Desk, rate: int
) -> None:
    alice = Client(desk, "alice")
    open_all(desk, alice)
    alice.sync(payment(None, 5000))
    before = desk.balance(desk.hub.script)
    desk.node.rpc("feerate", rate=rate)
    expiry = desk.account(alice.handle).fixed.agreed.expiry
    while int(desk.node.bitcoin("getblockcount")) < expiry.settle_height - 1:
        desk.node.rpc("generate", blocks=1)  # alice is silent until the hub has to settle
    desk.rounds.once()
    desk.mine()
    assert desk.account(alice.handle).stage == "closing"
    (commit,) = [txid for txid in desk.mempool() if desk.node.bitcoin("getmempoolentry", txid)["spentby"]]
    assert paid(desk, commit) < rate <= paid(desk, commit, only_child(desk, commit)) + 0.01
    desk.mine()
    assert commit not in desk.mempool()
    desk.mine(DELAY + 2)
    assert int(desk.node.bitcoin("getblockcount")) < expiry.height
    assert desk.balance(desk.hub.script) == before + 5001


def test_clients_that_all_cheat_at_once_while_fees_are_high_are_all_punished(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picopayments_cli.hub.hub.RESERVE_COINS", 1)
    cheats = [Client(desk, f"cheat {number}") for number in range(4)]
    open_all(desk, *cheats)
    commits = []
    for cheat in cheats:
        cheat.sync(payment(cheat.handle, 5000))
        made = cheat.commits[-1]
        cheat.sync(payment(None, made.quantity - 1))
        receiving = cheat.duplex.receiving
        commits.append(finish_commit(receiving.contract, known_anchor(receiving), made, cheat.secrets.payee))
    guaranteed = sum(desk.account(cheat.handle).channels.guaranteed for cheat in cheats)
    before = desk.balance(desk.hub.script)
    reserve = means_of(desk.hub).reserve
    spend_all(desk, [Output(0, cheats[0].script), *[Output(reserve.each, desk.hub.script)] * reserve.coins])
    for commit in commits:
        desk.hub.bitcoin.submit([commit])
    desk.node.rpc("generate", blocks=1)
    desk.node.rpc("feerate", rate=40)
    for _ in range(desk.hub.delay + 1):
        desk.rounds.once()
        for cheat in cheats:
            pay_out(desk, cheat)
        desk.node.rpc("generate", blocks=1)
    desk.node.rpc("feerate", rate=1)
    desk.mine(TIME)
    assert desk.balance(desk.hub.script) >= before + guaranteed


def pay_out(desk: Desk, cheat: Client) -> None:
    """Have a cheat pay its commit out, with a child that raises it, where the network takes that."""
    receiving, made = cheat.duplex.receiving, cheat.commits[-1]
    anchor = known_anchor(receiving)
    commit = compose_commit(receiving.contract, anchor, made.quantity, made.revoke_hash)
    payout = compose_payout(receiving.contract, commit, made.revoke_hash)
    shape = child_shape(payout, 0, cheat.script).plus([max(cheat.purse().coins, key=lambda coin: coin.value)])
    fee = 45 * (shape.size + payout.size)
    child = Draft(shape.inputs, (Output(shape.outputs[0].value + shape.fee - fee, cheat.script),), shape.version)
    with contextlib.suppress(BroadcastRefused):
        cheat.publish(
            finish_payout(receiving.contract, anchor, made, cheat.secrets.payee), finish_wallet(child, cheat.key)
        )


def test_a_node_that_is_made_to_forget_its_estimate_leaves_the_hub_the_last_good_one(desk: Desk) -> None:
    alice = Client(desk, "alice")
    alice.agree()
    alice.endow()
    desk.mine()
    alice.deposit()
    desk.node.rpc("generate", blocks=1)
    desk.node.rpc("feerate", rate=40)
    desk.hub.read_rate()
    desk.node.rpc("feerate", rate="none")
    desk.stop()
    desk.start()  # what it knew is kept
    desk.rounds.once()
    (deposit,) = desk.mempool()
    assert paid(desk, deposit) >= 40
    desk.mine()
    assert desk.account(alice.handle).stage == "open"
    alice.see_deposits()
    alice.sync(payment(None, 5000))
    desk.hub.draining = True
    desk.rounds.once()
    (commit,) = [txid for txid in desk.mempool() if desk.node.bitcoin("getmempoolentry", txid)["spentby"]]
    assert paid(desk, commit, only_child(desk, commit)) >= 39.9


def test_nothing_is_opened_on_the_guess_that_fees_are_still_above_the_ceiling(desk: Desk) -> None:
    alice = Client(desk, "alice")
    alice.agree()
    alice.endow()
    desk.mine()
    alice.deposit()
    desk.node.rpc("generate", blocks=1)
    for rate in (150, "none"):
        desk.node.rpc("feerate", rate=rate)
        desk.rounds.once()
        assert desk.mempool() == []
        assert desk.account(alice.handle).deposit_raw is None
    desk.node.rpc("feerate", rate=1)
    desk.mine(3)
    assert desk.account(alice.handle).stage == "open"
