"""A channel's life on the nodes, judged by the ledger's balances: payout and remainder, expiry, agreed close."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import pytest
from channel_support import (
    compose_child,
    compose_expire,
    finish_close,
    finish_commit,
    finish_payout,
    finish_remainder,
    finish_rest,
    hashed,
)
from contract_support import Nodes, derived
from regtest_support import script_of_key
from taproot_support import shown

from picopayments_cli.channel.counterparty import asset_id
from picopayments_cli.channel.drafts import parse_transaction
from picopayments_cli.channel.halves import Closing, counter_close, sign_close, sign_commit, sign_remainder
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.scripts import DepositScript
from picopayments_cli.channel.signing import finish_alone, finish_wallet
from picopayments_cli.channel.transactions import (
    Contract,
    check_deposit,
    compose_close,
    compose_commit,
    compose_deposit,
)
from picopayments_cli.channel.values import Coin, Quantity

DELAY, TIME, MOVED = 2, 8, Quantity(30)
DEPOSIT = Quantity(100)
ONE = hashed("one")


@dataclass(frozen=True)
class Open:
    """A channel whose deposit is mined; both parties are the owner of the funded key."""

    nodes: Nodes
    payer: Secrets
    payee: Secrets
    wallets: tuple[Key, Key]
    contract: Contract
    anchor: Coin

    @property
    def held(self) -> tuple[int, int, int]:
        """Return what payer and payee have in their wallets, and what lies on the deposit's address."""
        scripts = (self.contract.payer_wallet, self.contract.payee_wallet, self.contract.deposit.output)
        payer, payee, deposit = map(self.nodes.held, scripts)
        return payer, payee, deposit


@pytest.fixture
def channel(nodes: Nodes, request: pytest.FixtureRequest) -> Open:
    """A channel of its own, with wallets that hold nothing else."""
    name = f"{request.node.name} {time.time()}"
    wallets = derived(nodes.key, f"payer of {name}"), derived(nodes.key, f"payee of {name}")
    payer, payee = (Secrets(key, bytes(15) + bytes((number,))) for number, key in enumerate(wallets))
    script = DepositScript(payer.payer.xonly, payee.payee.xonly, nodes.height + TIME)
    own, other = map(script_of_key, wallets)
    contract = Contract(script, own, other, asset_id(nodes.asset), DEPOSIT, DELAY, nodes.rate)
    raw = finish_wallet(compose_deposit(contract, nodes.purse()), nodes.key)
    nodes.send(raw)
    nodes.confirm(shown(raw))
    tx = parse_transaction(raw)
    assert tx is not None
    found = Open(nodes, payer, payee, wallets, contract, check_deposit(contract, tx))
    assert found.held == (0, 0, DEPOSIT)
    return found


def test_commit_with_a_child_then_remainder_and_payout(channel: Open) -> None:
    nodes, contract, anchor = channel.nodes, channel.contract, channel.anchor
    commit = sign_commit(contract, anchor, MOVED, ONE, channel.payer.payer)
    raw = finish_commit(contract, anchor, commit, channel.payee.payee)
    draft = compose_commit(contract, anchor, MOVED, ONE)
    child = finish_wallet(compose_child(draft, 3, replace(nodes.purse(), rate=2 * nodes.rate + 1)), nodes.key)
    nodes.send(raw, child)
    nodes.confirm(shown(raw), shown(child))
    assert channel.held == (0, 0, DEPOSIT - MOVED)
    assert nodes.held(contract.commit_script(ONE).output) == MOVED
    payout = finish_payout(contract, anchor, commit, channel.payee.payee)
    assert nodes.refused("sendrawtransaction", payout.hex()) == (-26, "non-BIP68-final")
    remainder = sign_remainder(contract, anchor, commit, channel.payee.payee)
    rest = finish_remainder(contract, anchor, remainder, channel.payer.payer)
    nodes.send(rest)
    nodes.confirm(shown(rest))
    nodes.send(payout)
    nodes.confirm(shown(payout))
    assert channel.held == (DEPOSIT - MOVED, MOVED, 0)


def test_a_close_of_a_part_and_its_rest_go_as_a_package(channel: Open) -> None:
    nodes, contract, anchor = channel.nodes, channel.contract, channel.anchor
    closing = _signed(channel, MOVED)
    counter = counter_close(contract, anchor, closing, channel.payer.payer)
    raw = finish_close(contract, anchor, closing, counter)
    rest = finish_rest(contract, anchor, closing, channel.payer.payer)
    nodes.send(raw, rest)
    nodes.confirm(shown(raw), shown(rest))
    assert channel.held == (DEPOSIT - MOVED, MOVED, 0)


@pytest.mark.parametrize("quantity", [0, DEPOSIT])
def test_a_close_of_nothing_or_of_all_with_a_child(channel: Open, quantity: int) -> None:
    nodes, contract, anchor = channel.nodes, channel.contract, channel.anchor
    closing = _signed(channel, quantity)
    raw = finish_close(contract, anchor, closing, counter_close(contract, anchor, closing, channel.payer.payer))
    draft = compose_close(contract, anchor, quantity)
    child = compose_child(draft, len(draft.outputs) - 1, replace(nodes.purse(), rate=2 * nodes.rate + 1))
    nodes.send(raw, finish_wallet(child, nodes.key))
    nodes.confirm(shown(raw))
    assert channel.held == (DEPOSIT - quantity, quantity, 0)


def _signed(channel: Open, quantity: int) -> Closing:
    return sign_close(channel.contract, channel.anchor, quantity, channel.payee.payee)


def test_the_payer_takes_its_deposit_back_at_the_expiry(channel: Open) -> None:
    nodes, contract, anchor = channel.nodes, channel.contract, channel.anchor
    draft = compose_expire(contract, [anchor], asset_id(nodes.asset), nodes.purse())
    raw = finish_alone(draft, channel.payer.payer, nodes.key)
    if nodes.height < contract.deposit.height:
        assert nodes.refused("sendrawtransaction", raw.hex()) == (-26, "non-final")
    nodes.mine_to(contract.deposit.height)
    nodes.send(raw)
    nodes.confirm(shown(raw))
    assert channel.held == (DEPOSIT, 0, 0)
