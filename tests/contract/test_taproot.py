"""What the ledger books of taproot spends, and how soon ledger and index see what was broadcast and mined."""

from __future__ import annotations

import time

import pytest
from bitcoin.core.script import OP_CHECKSIG, OP_CHECKSIGVERIFY, CScript
from contract_support import PATIENCE, Nodes, derived, txids
from regtest_support import script_of_key
from taproot_support import (
    Coin,
    Tree,
    leaf_spend,
    payment,
    shown,
    sign_schnorr,
    txid_of,
    unsigned,
    with_witness,
    x_only,
)

from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.counterparty import asset_id, data_script, pack_send
from picopayments_cli.channel.drafts import Output, parse_transaction
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.transactions import compose_send
from picopayments_cli.channel.values import Outpoint

SATOSHIS, UNITS = 20_000, 10


def fresh_key(nodes: Nodes) -> Key:
    """A key that no run on this chain has used, of whoever has the funded one."""
    return derived(nodes.key, f"fresh {time.time_ns()}")


def deposit_of(nodes: Nodes, other: Key) -> tuple[Tree, Coin]:
    """A coin on an address of two leaves, by one and by both, which holds some of the asset."""
    one = nodes.key
    both = bytes(CScript([x_only(other), OP_CHECKSIGVERIFY, x_only(one), OP_CHECKSIG]))
    tree = Tree([bytes(CScript([x_only(one), OP_CHECKSIG])), both])
    sent = compose_send(nodes.purse(), Output(SATOSHIS, tree.script), pack_send(asset_id(nodes.asset), UNITS))
    raw = finish_wallet(sent, nodes.key)
    nodes.send(raw)
    nodes.confirm(shown(raw))
    assert nodes.held(tree.script) == UNITS
    return tree, (Outpoint(txid_of(raw), 0), SATOSHIS)


def message(nodes: Nodes, coin: Coin, quantity: int) -> tuple[int, bytes]:
    return 0, data_script(pack_send(asset_id(nodes.asset), quantity), coin[0].txid)


@pytest.mark.parametrize("hash_type", [0, 0x01, 0x81])
def test_a_send_from_a_taproot_address_by_one_signature_is_booked(nodes: Nodes, hash_type: int) -> None:
    tree, coin = deposit_of(nodes, fresh_key(nodes))
    target = script_of_key(fresh_key(nodes))
    outputs = [(SATOSHIS - 1000, target), message(nodes, coin, UNITS)]
    raw = leaf_spend(tree, coin, outputs, nodes.key, hash_type)
    witness = parse_transaction(raw)
    assert witness is not None
    assert len(witness.wit.vtxinwit[0].scriptWitness.stack[0]) == (65 if hash_type else 64)
    nodes.send(raw)
    nodes.confirm(shown(raw))
    assert (nodes.held(tree.script), nodes.held(target)) == (0, UNITS)


@pytest.mark.parametrize("hash_type", [0, 0x81])
def test_a_send_by_both_signatures_is_booked_and_listed(nodes: Nodes, hash_type: int) -> None:
    other = fresh_key(nodes)
    tree, coin = deposit_of(nodes, other)
    target = script_of_key(fresh_key(nodes))
    tx = unsigned([coin[0]], [(1000, target), message(nodes, coin, 4), (SATOSHIS - 3000, tree.script)])
    signatures = [
        sign_schnorr(key, tree.sighash(1, tx, [(coin[1], tree.script)], kind), kind)
        for key, kind in ((nodes.key, hash_type), (other, 0))
    ]
    raw = with_witness(tx, *signatures, tree.leaves[1], tree.control(1))
    nodes.send(raw)
    nodes.confirm(shown(raw))
    assert (nodes.held(tree.script), nodes.held(target)) == (UNITS - 4, 4)
    (row,) = nodes.chain.sends_to(nodes.address_of(target))
    assert (row.status, row.send_type, row.quantity, row.destination) == ("valid", "send", 4, target)
    (listed,) = nodes.result(f"v2/addresses/{nodes.address_of(target)}/receives")
    assert (listed["source"], listed["send_type"]) == (nodes.address_of(tree.script), "send")


def test_a_signature_for_less_than_the_whole_is_not_booked(nodes: Nodes) -> None:
    tree, coin = deposit_of(nodes, fresh_key(nodes))
    outputs = [(SATOSHIS - 1000, nodes.script), message(nodes, coin, UNITS)]
    raw = leaf_spend(tree, coin, outputs, nodes.key, 0x83)
    nodes.send(raw)
    nodes.confirm(shown(raw))
    assert nodes.held(tree.script) == UNITS


# Timing -------------------------------------------------------------------------------------------------------------


def test_a_broadcast_is_seen_by_the_index_and_a_block_by_ledger_and_index(nodes: Nodes) -> None:
    target = script_of_key(fresh_key(nodes))
    address = nodes.address_of(target)
    purse: Purse = nodes.purse()
    raw = finish_wallet(compose_send(purse, Output(1000, target), pack_send(asset_id(nodes.asset), 1)), nodes.key)
    nodes.send(raw)
    assert nodes.core.waiting(txid_of(raw)) is not None

    def listed(unconfirmed: str) -> bool:
        rows = nodes.result("v2/bitcoin/addresses/utxos", addresses=address, unconfirmed=unconfirmed)
        return shown(raw) in txids(rows)

    nodes.wait(lambda: listed("true"), "an unconfirmed coin", PATIENCE)
    assert not listed("false")
    nodes.confirm(shown(raw))
    nodes.wait(lambda: listed("false"), "a confirmed coin", PATIENCE)
    nodes.wait(lambda: nodes.held(target) == 1, "the ledger's balance", PATIENCE)


def test_a_replaced_transaction_is_gone(nodes: Nodes) -> None:
    coin = nodes.pair()
    for fee in (1000, 5000):
        raw = payment(nodes.key, coin, fee)
        nodes.send(raw)
    rows = nodes.wait(lambda: _listing(nodes, shown(raw)), "the replacement")
    assert [row["value"] for row in rows] == [coin[1] - 5000]


def _listing(nodes: Nodes, txid: str) -> list[dict[str, int]]:
    rows = nodes.result("v2/bitcoin/addresses/utxos", addresses=nodes.address, unconfirmed="true")
    return [row for row in rows if row["txid"] == txid]
