"""The hub's wallet: deposits leave the coins of closes alone, and it splits its coins so that there are enough."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hub_support import Client, Desk, running_desk
from regtest_support import key_of, script_of_key

from picopayments_cli.chain import Query, View
from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.drafts import Draft, Input, Output, parse_transaction, spent_outpoints
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.rates import Rate
from picopayments_cli.channel.reserve import Reserve
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.steps import Means
from picopayments_cli.channel.values import Coin, Height, Outpoint
from picopayments_cli.errors import NodeUnreachable
from picopayments_cli.hub import wallet
from picopayments_cli.hub.hub import RESERVE_COINS, Hub, Urls
from picopayments_cli.hub.wallet import look, means_of, split, splitting

EACH = 50_000
RESERVE = Reserve(4, EACH)
ELSEWHERE = script_of_key(key_of("elsewhere"))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Desk]:
    """A hub of the test's own, whose wallet it may empty."""
    with running_desk(tmp_path) as running:
        yield running


def purse_of(desk: Desk) -> Purse:
    """What the hub pays with, as it sees its wallet now."""
    look(desk.hub)
    return means_of(desk.hub).purse


def coins(desk: Desk) -> tuple[Coin, ...]:
    """The coins of the hub's wallet, unconfirmed ones too."""
    return desk.hub.chain.view(Query(coins=[desk.hub.address])).coins[desk.hub.address]


def spend_down(desk: Desk, *left: int) -> None:
    """Leave these coins in the hub's wallet, as its owner may elsewhere."""
    draft = Draft(tuple(map(Input, coins(desk))), tuple(Output(value, desk.hub.script) for value in left))
    rest = Output(draft.fee - 10 * (draft.size + 34), ELSEWHERE)
    desk.hub.bitcoin.submit([finish_wallet(Draft(draft.inputs, (*draft.outputs, rest)), desk.hub.key)])
    desk.node.rpc("generate", blocks=1)


def promised(desk: Desk, name: str = "promised") -> Client:
    """A client that has deposited what it agreed to."""
    client = Client(desk, name)
    client.agree()
    client.endow()
    desk.mine()
    client.deposit()
    return client


def test_coins_that_hold_something_else_than_is_told_are_not_spent(
    own: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A P2PKH signature commits to no value: what an index server keeps back would go to the miners."""
    true = coins(own)
    honest = own.hub.chain.view
    monkeypatch.setattr(own.hub, "proven", set())

    lies = {
        true[0]: replace(true[0], value=true[0].value - 1),
        true[1]: replace(true[1], outpoint=Outpoint(bytes(32), 0)),  # of a transaction that nobody knows
    }

    def lie(query: Query) -> View:
        view = honest(query)
        told = {address: tuple(lies.get(coin, coin) for coin in found) for address, found in view.coins.items()}
        return replace(view, coins=told)

    monkeypatch.setattr(own.hub.chain, "view", lie)
    assert set(purse_of(own).coins) == set(true[2:])
    assert [record.getMessage() for record in caplog.records] == ["a coin is not as told"]
    monkeypatch.setattr(own.hub.chain, "view", honest)
    assert set(purse_of(own).coins) == set(true)


def test_of_dust_without_end_a_look_takes_the_most_valuable_coins(own: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wallet, "MOST_COINS", 0)
    for _ in range(30):
        own.node.rpc("faucet", address=own.hub.address, btc=700)
    own.mine()
    seen = own.hub.wallet.coins
    assert len(seen) <= 2 * own.hub.reserve.coins
    assert min(coin.value for coin in seen) > 700


def test_a_hub_with_one_large_coin_splits_it_and_deposits(own: Desk) -> None:
    each = own.hub.reserve.each
    spend_down(own, 10_000_000)
    own.rounds.once()
    (txid,) = own.mempool()
    for _ in range(3):
        own.rounds.once()
    assert own.mempool() == [txid]  # never another one while it waits
    own.stop()
    own.start()
    own.rounds.once()
    assert own.mempool() == [txid]
    own.mine()
    values = sorted(coin.value for coin in coins(own))
    assert values[:-1] == [each] * RESERVE_COINS
    assert values[-1] > each
    client = promised(own)
    own.mine(2)
    assert own.account(client.handle).stage == "open"
    assert sum(coin.value >= each for coin in coins(own)) >= RESERVE_COINS


def test_a_split_that_waits_is_made_anew_only_from_its_own_coins(own: Desk) -> None:
    spend_down(own, 10_000_000)
    own.rounds.once()
    (first,) = own.mempool()
    own.node.rpc("feerate", minimum=5)  # it is not in the mempool any more, and may be in others'
    own.node.rpc("feerate", rate=20)
    own.node.rpc("faucet", address=own.hub.address, btc=20_000_000)
    own.mine()
    own.rounds.once()
    confirmed = [coin for coin in coins(own) if coin.height is not None]
    assert len(own.mempool()) <= 1 or first not in own.mempool()
    own.mine(2)
    assert sum(coin.value >= own.hub.reserve.each for coin in coins(own)) >= RESERVE_COINS
    assert confirmed


def test_a_hub_with_too_little_says_what_it_lacks_and_deposits_once_it_has_it(
    own: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    spend_down(own, own.hub.reserve.each + 10_000)
    client = promised(own)
    own.mine(2)
    assert (own.account(client.handle).stage, own.account(client.handle).deposit_raw) == ("agreed", None)
    assert "the wallet lacks coins" in caplog.text
    own.node.rpc("faucet", address=own.hub.address, btc=5_000_000)
    own.mine(4)
    assert own.account(client.handle).stage == "open"


def test_nothing_is_split_or_deposited_on_a_guess(own: Desk) -> None:
    purse = Purse(own.hub.script, coins(own), 1)
    guess = Means(purse, Rate(1, guess=True), own.hub.bounds, Reserve(100, own.hub.reserve.each))
    assert split(own.hub, guess) is guess
    assert own.mempool() == []
    urls = Urls(own.node.url, own.node.url + "bitcoin/")
    elsewhere = Hub(NETWORKS["signet"], own.hub.key, own.hub.offer, own.database, urls, own.folder.marks_path)
    elsewhere.read_rate()  # of a node that has no estimate
    assert elsewhere.rate == Rate(1, guess=True)


def test_a_coin_that_assets_are_attached_to_is_not_spent(own: Desk) -> None:
    """A spend of it moves them; the regtest ledger has none, so the node is made to say so."""
    kept = {coin.outpoint for coin in coins(own)}

    def told(outpoints: Collection[Outpoint]) -> set[Outpoint]:
        return kept & set(outpoints)

    own.hub.chain.attached = told  # type: ignore[method-assign]
    client = promised(own)
    own.mine(2)
    assert own.account(client.handle).deposit_raw is None
    own.node.rpc("faucet", address=own.hub.address, btc=5_000_000)
    own.mine(4)
    assert own.account(client.handle).stage == "open"
    assert kept <= {coin.outpoint for coin in coins(own)}


def test_no_coin_is_spent_where_nobody_says_what_is_attached(own: Desk) -> None:
    def silent(outpoints: Collection[Outpoint]) -> set[Outpoint]:
        raise NodeUnreachable("The node does not answer.")

    client = promised(own)
    honest = own.hub.chain.attached
    own.hub.chain.attached = silent  # type: ignore[method-assign]
    for _ in range(2):
        own.mine()
    assert own.account(client.handle).deposit_raw is None
    own.hub.chain.attached = honest  # type: ignore[method-assign]
    own.mine(2)
    assert own.account(client.handle).deposit_raw is not None


def test_a_coin_that_a_late_index_lists_is_not_spent_twice(own: Desk) -> None:
    spend_down(own, 10_000_000)
    own.node.rpc("setindexdelay", blocks=0)
    own.rounds.once()
    (first,) = own.mempool()
    assert purse_of(own).coins == ()
    own.stop()
    own.start()
    own.rounds.once()
    assert own.mempool() == [first]
    own.mine()
    assert len(purse_of(own).coins) == RESERVE_COINS + 1


# A deposit that never comes -----------------------------------------------------------------------------------------


def conflict(desk: Desk, raw: bytes, blocks: int) -> str:
    """Have something else spend a coin of a deposit that is in no mempool now, and bury it; its txid."""
    tx = parse_transaction(raw)
    assert tx is not None
    spent = spent_outpoints(tx)[0]
    (found,) = [coin for coin in coins(desk) if coin.outpoint == spent]
    draft = Draft((Input(found),), (Output(found.value - 5000, ELSEWHERE),))
    txid = str(desk.node.bitcoin("sendrawtransaction", finish_wallet(draft, desk.hub.key).hex()))
    desk.node.rpc("feerate", minimum=1)
    desk.node.rpc("generate", blocks=blocks)
    return txid


def test_a_deposit_that_never_comes_is_made_anew(own: Desk, caplog: pytest.LogCaptureFixture) -> None:
    client = promised(own)
    own.mine()
    raw = own.account(client.handle).deposit_raw
    assert raw is not None
    own.node.rpc("feerate", minimum=5)  # it is evicted
    conflict(own, raw, 1)
    own.rounds.once()
    own.mine(2)
    again = own.account(client.handle)
    assert again.deposit_raw not in (None, raw)
    assert again.stage == "open"
    told = [record.fields for record in caplog.records if record.getMessage() == "deposit conflicted"]  # type: ignore[attr-defined]
    assert [fields["cause"] for fields in told] == ["DepositConflicted"]


def test_a_connection_closes_whose_counted_deposit_never_comes(own: Desk) -> None:
    client = promised(own)
    own.mine(2)
    account = own.account(client.handle)
    assert account.stage == "open"
    assert account.deposit_raw is not None
    own.node.rpc("reorganise", depth=1, forget=True)
    conflict(own, account.deposit_raw, 1)
    own.rounds.once()
    own.rounds.once()
    assert own.account(client.handle).stage == "closing"


# Which coins --------------------------------------------------------------------------------------------------------


def coin(number: int, value: int) -> Coin:
    return Coin(Outpoint(bytes([number]) * 32, 0), value, ELSEWHERE, Height(100))


@pytest.mark.parametrize(
    ("values", "made"),
    [
        ([], None),
        ([EACH], None),
        ([2 * EACH], None),  # the fee is missing
        ([2 * EACH + 1000], 2),
        ([EACH - 1, EACH - 1, EACH - 1, EACH - 1], 3),  # joined, as each is too small
        ([EACH, EACH, EACH, EACH], None),
        ([EACH, EACH, 10 * EACH], 3),
        ([EACH, EACH, EACH + 1, EACH - 500], None),
        ([EACH, EACH, EACH + 1000, EACH], None),
        ([EACH, EACH, EACH + 1000, EACH - 500], 2),
        ([10 * EACH], 5),
    ],
)
def test_as_many_coins_are_made_as_can_be_and_are_lacking(values: list[int], made: int | None) -> None:
    purse = Purse(ELSEWHERE, tuple(coin(number, value) for number, value in enumerate(values)), 1)
    draft = splitting(purse, RESERVE)
    assert (None if draft is None else len(draft.outputs)) == made
    if draft is not None:
        assert all(out.value >= EACH and out.script == ELSEWHERE for out in draft.outputs)
        assert draft.fee >= draft.size
        spent = sum(taken.coin.value >= EACH for taken in draft.inputs)
        assert len(draft.outputs) > spent


def test_a_split_that_may_still_be_mined_is_made_anew_from_its_own_coins() -> None:
    purse = Purse(ELSEWHERE, (coin(1, 10 * EACH), coin(2, 100 * EACH)), 1)
    first = splitting(purse, RESERVE)
    again = splitting(purse, RESERVE, [coin(1, 0).outpoint])
    assert first is not None
    assert again is not None
    assert [taken.coin.outpoint for taken in first.inputs] == [coin(2, 0).outpoint]
    assert [taken.coin.outpoint for taken in again.inputs] == [coin(1, 0).outpoint]
