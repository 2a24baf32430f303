"""The rules of Bitcoin Core's mempool that closes rely on: packages, version 3, P2A, dust, the least fee."""

from __future__ import annotations

import pytest
from bitcoin.core import CTransaction
from contract_support import Nodes
from taproot_support import ANCHOR, P2A, payment, raising, shown, sign_first, txid_of, unsigned, vsize_of, wtxid_of

from picopayments_cli.channel.values import Outpoint
from picopayments_cli.errors import BroadcastRefused

FEE = 3000


def anchor_of(raw: bytes) -> Outpoint:
    outs = CTransaction.deserialize(raw).vout
    return Outpoint(txid_of(raw), next(n for n, out in enumerate(outs) if bytes(out.scriptPubKey) == P2A))


def test_a_parent_that_pays_nothing_goes_with_its_child(nodes: Nodes) -> None:
    parent = payment(nodes.key, nodes.pair(), 0, ANCHOR)
    child = raising(nodes.key, anchor_of(parent), nodes.pair(), FEE)
    assert nodes.refused("sendrawtransaction", parent.hex())[1].startswith("min relay fee not met")
    answer = nodes.bitcoin("submitpackage", [parent.hex(), child.hex()])
    assert answer["package_msg"] == "success"
    assert set(answer["tx-results"]) == {wtxid_of(parent), wtxid_of(child)}
    assert {item["txid"] for item in answer["tx-results"].values()} == {shown(parent), shown(child)}
    assert nodes.bitcoin("getmempoolentry", shown(parent))["spentby"] == [shown(child)]
    nodes.send(parent, child)  # again is no error
    nodes.confirm(shown(parent), shown(child))
    answer = nodes.bitcoin("submitpackage", [parent.hex(), child.hex()])
    assert [item["error"] for item in answer["tx-results"].values()] == ["txn-already-known"] * 2
    nodes.send(parent, child)  # nor is it when they are mined
    assert nodes.refused("sendrawtransaction", child.hex()) == (-27, "Transaction outputs already in utxo set")


def test_a_package_that_pays_too_little_is_told_by_transaction(nodes: Nodes) -> None:
    parent = payment(nodes.key, nodes.pair(), 0, ANCHOR)
    child = raising(nodes.key, anchor_of(parent), nodes.pair(), 1)
    answer = nodes.bitcoin("submitpackage", [parent.hex(), child.hex()])
    assert answer["package_msg"] != "success"
    assert any(item.get("error") for item in answer["tx-results"].values())
    with pytest.raises(BroadcastRefused):
        nodes.send(parent, child)


def test_what_a_package_breaks_as_a_whole_is_told(nodes: Nodes) -> None:
    parent = payment(nodes.key, nodes.pair(), 0, ANCHOR)
    child = raising(nodes.key, anchor_of(parent), nodes.pair(), FEE, version=2)
    answer = nodes.bitcoin("submitpackage", [parent.hex(), child.hex()])
    assert answer["package_msg"].startswith("TRUC-violation")
    assert answer["tx-results"][wtxid_of(parent)]["error"].startswith("min relay fee not met")
    assert answer["tx-results"][wtxid_of(child)]["error"] == "bad-txns-inputs-missingorspent"
    with pytest.raises(BroadcastRefused, match="TRUC-violation"):
        nodes.send(parent, child)


def test_a_child_of_version_3_has_at_most_1000_vb(nodes: Nodes) -> None:
    parent = payment(nodes.key, nodes.pair(), FEE, ANCHOR)
    nodes.send(parent)
    coin = nodes.pair()
    large = raising(nodes.key, anchor_of(parent), coin, FEE, outputs=24)
    small = raising(nodes.key, anchor_of(parent), coin, FEE, outputs=22)
    assert vsize_of(small) <= 1000 < vsize_of(large)
    assert "TRUC-violation" in nodes.refused("sendrawtransaction", large.hex())[1]
    nodes.send(small)


def test_versions_do_not_mix_while_they_are_unconfirmed(nodes: Nodes) -> None:
    parent = payment(nodes.key, nodes.pair(), FEE, ANCHOR)
    nodes.send(parent)
    child = raising(nodes.key, anchor_of(parent), nodes.pair(), FEE, version=2)
    assert "TRUC-violation" in nodes.refused("sendrawtransaction", child.hex())[1]


def test_a_better_child_takes_the_place_of_its_sibling_and_a_third_generation_is_none(nodes: Nodes) -> None:
    parent = payment(nodes.key, nodes.pair(), FEE, ANCHOR)
    first = raising(nodes.key, anchor_of(parent), nodes.pair(), FEE)
    nodes.send(parent)
    nodes.send(first)
    grandchild = payment(nodes.key, (Outpoint(txid_of(first), 0), _value(first)), FEE)
    assert "TRUC-violation" in nodes.refused("sendrawtransaction", grandchild.hex())[1]
    change = (Outpoint(txid_of(parent), 0), _value(parent))
    assert nodes.refused("sendrawtransaction", payment(nodes.key, change, FEE).hex())[0] == -26
    better = payment(nodes.key, change, 3 * FEE)
    nodes.send(better)
    assert nodes.refused("getmempoolentry", shown(first))[0] == -5
    assert nodes.bitcoin("getmempoolentry", shown(parent))["spentby"] == [shown(better)]


def _value(raw: bytes) -> int:
    return int(CTransaction.deserialize(raw).vout[0].nValue)


def test_anybody_spends_a_p2a_output_without_a_witness(nodes: Nodes) -> None:
    parent = payment(nodes.key, nodes.pair(), FEE, ANCHOR)
    child = raising(nodes.key, anchor_of(parent), nodes.pair(), FEE)
    assert not CTransaction.deserialize(child).vin[0].scriptSig
    nodes.send(parent, child)
    nodes.confirm(shown(parent), shown(child))


@pytest.mark.parametrize("value", [239, 240])
def test_a_p2a_output_of_240_is_no_dust(nodes: Nodes, value: int) -> None:
    raw = payment(nodes.key, nodes.pair(), FEE, (value, P2A))
    if value < 240:
        assert "dust" in nodes.refused("sendrawtransaction", raw.hex())[1]
    else:
        nodes.send(raw)


@pytest.mark.parametrize("value", [545, 546])
def test_an_output_of_546_is_no_dust(nodes: Nodes, value: int) -> None:
    raw = payment(nodes.key, nodes.pair(), FEE, (value, nodes.script), version=2)
    if value < 546:
        assert "dust" in nodes.refused("sendrawtransaction", raw.hex())[1]
    else:
        nodes.send(raw)


def test_one_sat_per_vb_is_enough_and_nothing_is_too_little(nodes: Nodes) -> None:
    coin = nodes.pair()
    assert nodes.refused("sendrawtransaction", payment(nodes.key, coin, 0).hex())[1].startswith("min relay fee not met")
    nodes.send(payment(nodes.key, coin, 230))


def test_a_spent_coin_and_a_lock_time_are_refused(nodes: Nodes) -> None:
    coin = nodes.pair()
    late = sign_first(unsigned([coin[0]], [(coin[1] - FEE, nodes.script)], locktime=nodes.height + 10), nodes.key)
    assert "non-final" in nodes.refused("sendrawtransaction", late.serialize().hex())[1]
    raw = payment(nodes.key, coin, FEE)
    nodes.send(raw)
    assert nodes.refused("sendrawtransaction", payment(nodes.key, coin, FEE - 1).hex())[0] == -26
