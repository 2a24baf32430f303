"""Version 3 over HTTP, as a hub or its follower meets it: packages, siblings, cycling, eviction, taproot spends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bitcoin.core import CTransaction
from bitcoin.core.script import (
    OP_CHECKMULTISIG,
    OP_CHECKSIG,
    OP_CHECKSIGVERIFY,
    OP_EQUAL,
    OP_EQUALVERIFY,
    OP_HASH160,
    SIGHASH_ALL,
    SIGVERSION_WITNESS_V0,
    CScript,
    SignatureHash,
)
from regtest_support import BTC, XCP, NodeProcess, address_of, key_of, pack_enhanced_send, running_node, script_of_key
from taproot_support import (
    ANCHOR,
    P2A,
    Coin,
    Tree,
    leaf_spend,
    payment,
    raising,
    shown,
    sign_first,
    sign_schnorr,
    txid_of,
    unsigned,
    vsize_of,
    with_witness,
    wtxid_of,
    x_only,
)

from picopayments_cli.channel.counterparty import XCP_ID, data_script, pack_send
from picopayments_cli.channel.values import MAX_QUANTITY, Outpoint, hash160

ALICE, BOB, MALLORY = key_of("Alice"), key_of("Bob"), key_of("Mallory")
ALICE_SCRIPT, BOB_SCRIPT, MALLORY_SCRIPT = map(script_of_key, (ALICE, BOB, MALLORY))
BOB_ADDRESS, MALLORYS = map(address_of, (BOB_SCRIPT, MALLORY_SCRIPT))
BOTH = bytes(CScript([x_only(BOB), OP_CHECKSIGVERIFY, x_only(ALICE), OP_CHECKSIG]))
SECRET = b"s" * 32
REVOKE = bytes(CScript([OP_HASH160, hash160(SECRET), OP_EQUALVERIFY, x_only(ALICE), OP_CHECKSIG]))
DEPOSIT = Tree([BOTH, REVOKE])
SIMPLE = Tree([bytes(CScript([x_only(ALICE), OP_CHECKSIG])), REVOKE])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    """A node that mines on demand; Alice, Bob and Mallory have three coins of a bitcoin each."""
    with running_node(tmp_path / "node", 0) as running:
        for script in (ALICE_SCRIPT, BOB_SCRIPT, MALLORY_SCRIPT):
            for _ in range(3):
                running.rpc("faucet", address=address_of(script), btc=BTC)
        running.rpc("generate")
        yield running


def coins(node: NodeProcess, script: bytes) -> list[Coin]:
    """The confirmed coins of a script that nothing spends."""
    rows = node.get(f"bitcoin/addresses/{address_of(script)}/utxos")
    return [
        (Outpoint(bytes.fromhex(row["txid"])[::-1], row["vout"]), row["value"])
        for row in sorted(rows, key=lambda row: row["txid"])
        if row["status"]["confirmed"]
    ]


def refused(node: NodeProcess, method: str, *params: Any) -> tuple[int, str]:
    """Code and message of an error of Bitcoin Core's interface."""
    error = node.post("bitcoin/", {"jsonrpc": "2.0", "id": 0, "method": method, "params": params})["error"]
    return error["code"], error["message"]


def mined(node: NodeProcess, raw: bytes) -> bool:
    """Whether a transaction stands in a block."""
    return "blockhash" in node.bitcoin("getrawtransaction", shown(raw), True)


def commit_of(node: NodeProcess, fee: int = 0, place: int = 0) -> bytes:
    """A version 3 transaction of Alice's with an anchor."""
    return payment(ALICE, coins(node, ALICE_SCRIPT)[place], fee, ANCHOR)


def anchor_of(raw: bytes) -> Outpoint:
    """Where a transaction's P2A output is."""
    outs = CTransaction.deserialize(raw).vout
    return Outpoint(txid_of(raw), next(n for n, out in enumerate(outs) if bytes(out.scriptPubKey) == P2A))


# Packages -----------------------------------------------------------------------------------------------------------


def test_a_parent_that_pays_nothing_is_mined_with_its_child(node: NodeProcess) -> None:
    parent = commit_of(node)
    child = raising(BOB, anchor_of(parent), coins(node, BOB_SCRIPT)[0], 2000)
    code, why = refused(node, "sendrawtransaction", parent.hex())
    assert (code, why.startswith("min relay fee not met, 0 <")) == (-26, True)
    answer = node.bitcoin("submitpackage", [parent.hex(), child.hex()])
    sizes = vsize_of(parent) + vsize_of(child)
    together = {
        "effective-feerate": 2000 * 1000 // sizes / 10**8,
        "effective-includes": [*map(wtxid_of, (parent, child))],
    }
    assert answer == {
        "package_msg": "success",
        "tx-results": {
            wtxid_of(raw): {"txid": shown(raw), "vsize": vsize_of(raw), "fees": {"base": fee, **together}}
            for raw, fee in ((parent, 0.0), (child, 0.00002))
        },
        "replaced-transactions": [],
    }
    again = node.bitcoin("submitpackage", [parent.hex(), child.hex()])
    assert again["tx-results"][wtxid_of(parent)] == {
        "txid": shown(parent),
        "vsize": vsize_of(parent),
        "fees": {"base": 0.0},
    }
    entry = node.bitcoin("getmempoolentry", shown(parent))
    assert (entry["spentby"], entry["depends"], entry["descendantcount"], entry["ancestorcount"]) == (
        [shown(child)],
        [],
        2,
        1,
    )
    assert entry["fees"] == {"base": 0.0, "modified": 0.0, "ancestor": 0.0, "descendant": 0.00002}
    node.rpc("generate")
    assert mined(node, parent)
    assert mined(node, child)
    assert refused(node, "getmempoolentry", shown(parent)) == (-5, "Transaction not in mempool")


def test_a_package_is_mined_at_once_where_blocks_come_so(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        for _ in range(2):
            node.rpc("faucet", address=address_of(ALICE_SCRIPT), btc=BTC)
        parent = commit_of(node)
        child = raising(ALICE, anchor_of(parent), coins(node, ALICE_SCRIPT)[1], 1500)
        assert node.bitcoin("submitpackage", [parent.hex(), child.hex()])["package_msg"] == "success"
        assert node.bitcoin("getrawmempool") == []
        assert mined(node, child)


def test_what_a_package_is_refused_for_is_told_by_transaction(node: NodeProcess) -> None:
    parent = commit_of(node)
    child = raising(BOB, anchor_of(parent), coins(node, BOB_SCRIPT)[0], 100)
    answer = node.bitcoin("submitpackage", [parent.hex(), child.hex()])
    assert answer["package_msg"] == "transaction failed"
    assert answer["tx-results"][wtxid_of(parent)]["error"].startswith("min relay fee not met, 0 <")
    assert answer["tx-results"][wtxid_of(child)]["error"].startswith("min relay fee not met, 100 <")
    assert node.bitcoin("getrawmempool") == []
    assert refused(node, "submitpackage", [child.hex(), parent.hex()])[0] == -25
    assert refused(node, "submitpackage", [])[0] == -8
    assert refused(node, "submitpackage", ["00"])[0] == -22
    assert refused(node, "submitpackage", "00")[0] == -8


def test_a_trial_changes_nothing(node: NodeProcess) -> None:
    raw = commit_of(node, 1000)
    before = node.bitcoin("getrawmempool", False, True)
    (answer,) = node.bitcoin("testmempoolaccept", [raw.hex()])
    assert answer == {
        "txid": shown(raw),
        "wtxid": wtxid_of(raw),
        "allowed": True,
        "vsize": vsize_of(raw),
        "fees": {
            "base": 0.00001,
            "effective-feerate": 10**6 // vsize_of(raw) / 10**8,
            "effective-includes": [wtxid_of(raw)],
        },
    }
    (answer,) = node.bitcoin("testmempoolaccept", [commit_of(node).hex()])
    assert (answer["allowed"], answer["reject-reason"][:21]) == (False, "min relay fee not met")
    assert node.bitcoin("getrawmempool", False, True) == before


# One child ----------------------------------------------------------------------------------------------------------


def test_a_better_child_evicts_the_other_sides(node: NodeProcess) -> None:
    commit = commit_of(node, 500)
    own = raising(BOB, anchor_of(commit), coins(node, BOB_SCRIPT)[0], 2000)
    change = Outpoint(txid_of(commit), 0)
    change_value = CTransaction.deserialize(commit).vout[0].nValue
    for raw in (commit, own):
        node.bitcoin("sendrawtransaction", raw.hex())
    before = node.bitcoin("getrawmempool", False, True)
    assert before["txids"] == [shown(commit), shown(own)]
    same = payment(ALICE, (change, change_value), 2000)
    assert refused(node, "sendrawtransaction", same.hex())[1].startswith("insufficient fee")
    other = payment(ALICE, (change, change_value), 5000)
    answer = node.bitcoin("submitpackage", [commit.hex(), other.hex()])
    assert (answer["package_msg"], answer["replaced-transactions"]) == ("success", [shown(own)])
    after = node.bitcoin("getrawmempool", False, True)
    assert after["txids"] == [shown(commit), shown(other)]
    assert after["mempool_sequence"] == before["mempool_sequence"] + 2
    assert refused(node, "getmempoolentry", shown(own))[0] == -5
    asked = [{"txid": shown(commit), "vout": 0}, {"txid": shown(commit), "vout": 1}]
    assert node.bitcoin("gettxspendingprevout", asked) == [asked[0] | {"spendingtxid": shown(other)}, asked[1]]
    assert node.bitcoin("gettxout", shown(commit), 1)["value"] == 0.0000024
    assert node.bitcoin("gettxout", shown(commit), 0) is None


def test_replacement_cycling_leaves_a_commit_alone_until_it_is_sent_again(node: NodeProcess) -> None:
    commit = commit_of(node)
    own = raising(BOB, anchor_of(commit), coins(node, BOB_SCRIPT)[0], 2000)
    node.bitcoin("submitpackage", [commit.hex(), own.hex()])
    mallorys = coins(node, MALLORY_SCRIPT)[0]
    evicting = raising(MALLORY, anchor_of(commit), mallorys, 4000)
    node.bitcoin("sendrawtransaction", evicting.hex())
    assert node.bitcoin("getrawmempool") == [shown(commit), shown(evicting)]
    withdrawn = payment(MALLORY, mallorys, 6000)
    node.bitcoin("sendrawtransaction", withdrawn.hex())
    assert node.bitcoin("getrawmempool") == [shown(commit), shown(withdrawn)]
    node.rpc("generate")
    assert mined(node, withdrawn)
    assert not mined(node, commit)
    answer = node.bitcoin("submitpackage", [commit.hex(), own.hex()])
    assert answer["package_msg"] == "success"
    node.rpc("generate")
    assert mined(node, commit)
    assert mined(node, own)


def test_a_package_takes_the_place_of_a_revoked_one(node: NodeProcess) -> None:
    coin = coins(node, ALICE_SCRIPT)[0]
    cheat, honest = (payment(ALICE, coin, 0, ANCHOR, (value, BOB_SCRIPT)) for value in (1000, 2000))
    bobs = coins(node, BOB_SCRIPT)
    node.bitcoin("submitpackage", [cheat.hex(), raising(MALLORY, anchor_of(cheat), bobs[0], 1, 3).hex()])
    assert node.bitcoin("getrawmempool") == []
    first = raising(BOB, anchor_of(cheat), bobs[0], 2000)
    node.bitcoin("submitpackage", [cheat.hex(), first.hex()])
    low = raising(BOB, anchor_of(honest), bobs[1], 2100)
    answer = node.bitcoin("submitpackage", [honest.hex(), low.hex()])
    assert answer["package_msg"].startswith("package RBF failed: insufficient anti-DoS fees")
    high = raising(BOB, anchor_of(honest), bobs[1], 3000)
    answer = node.bitcoin("submitpackage", [honest.hex(), high.hex()])
    assert answer["replaced-transactions"] == [shown(cheat), shown(first)]
    assert node.bitcoin("getrawmempool") == [shown(honest), shown(high)]


# Fees ---------------------------------------------------------------------------------------------------------------


def test_a_rising_minimum_evicts_and_is_told(node: NodeProcess) -> None:
    low = commit_of(node, 1000)
    node.bitcoin("sendrawtransaction", low.hex())
    before = node.bitcoin("getrawmempool", False, True)["mempool_sequence"]
    assert node.rpc("feerate", minimum=20) == {"fee_rate": None, "minimum": 20}
    assert node.bitcoin("getrawmempool", False, True) == {"txids": [], "mempool_sequence": before + 1}
    info = node.bitcoin("getmempoolinfo")
    assert (info["mempoolminfee"], info["minrelaytxfee"], info["incrementalrelayfee"]) == (0.0002, 0.00001, 0.00001)
    assert refused(node, "sendrawtransaction", low.hex())[1].startswith("mempool min fee not met, 1000 <")
    child = raising(BOB, anchor_of(low), coins(node, BOB_SCRIPT)[0], 20_000)
    assert node.bitcoin("submitpackage", [low.hex(), child.hex()])["package_msg"] == "success"
    assert node.rpc("feerate", minimum=1) == {"fee_rate": None, "minimum": 1}


def test_a_low_fee_waits_while_others_are_mined(node: NodeProcess) -> None:
    low, high = commit_of(node, 1000), commit_of(node, 10_000, 1)
    assert node.rpc("feerate", rate=20) == {"fee_rate": 20, "minimum": 1}
    assert node.bitcoin("estimatesmartfee", 2) == {"feerate": 0.0002, "blocks": 2}
    assert node.get("bitcoin/estimatesmartfee") == 20_000
    for raw in (low, high):
        node.bitcoin("sendrawtransaction", raw.hex())
    node.rpc("generate", blocks=3)
    assert mined(node, high)
    assert not mined(node, low)
    child = raising(BOB, anchor_of(low), coins(node, BOB_SCRIPT)[0], 10_000)
    node.bitcoin("sendrawtransaction", child.hex())
    node.rpc("generate")
    assert mined(node, low)
    assert node.rpc("feerate", rate="none") == {"fee_rate": None, "minimum": 1}
    assert node.bitcoin("estimatesmartfee", 2)["errors"]


def test_a_block_with_little_room_takes_what_pays_best(node: NodeProcess) -> None:
    raws = [commit_of(node, fee, place) for place, fee in enumerate((1000, 3000, 2000))]
    for raw in raws:
        node.bitcoin("sendrawtransaction", raw.hex())
    node.rpc("setblockroom", vbytes=500)
    node.rpc("generate")
    assert [mined(node, raw) for raw in raws] == [False, True, True]
    node.rpc("generate")
    assert mined(node, raws[0])


@pytest.mark.parametrize("params", [{"rate": 0}, {"rate": "x"}, {"rate": 10_001}, {"minimum": 0}, {"minimum": "none"}])
def test_absurd_rates_are_refused(node: NodeProcess, params: dict[str, Any]) -> None:
    reply = node.post("regtest/", {"jsonrpc": "2.0", "id": 0, "method": "feerate", "params": params})
    assert reply["error"]["data"]["type"] == "InvalidParams"
    assert node.rpc("feerate") == {"fee_rate": None, "minimum": 1}


# Taproot, and the ledger --------------------------------------------------------------------------------------------


@pytest.fixture
def deposit(node: NodeProcess) -> Coin:
    """A coin on the deposit's address, which holds 50 XCP."""
    return paid(node, DEPOSIT.script)


def paid(node: NodeProcess, script: bytes) -> Coin:
    node.rpc("faucet", address=address_of(script), btc=20_000, asset="XCP", quantity=50 * XCP)
    node.rpc("generate")
    (coin,) = coins(node, script)
    return coin


def held(node: NodeProcess, script: bytes) -> int:
    """The XCP of a script."""
    return sum(row["quantity"] for row in node.get(f"addresses/{address_of(script)}/balances"))


def commit(coin: Coin, quantity: int, fee: int = 500) -> CTransaction:
    """An unsigned commit that pays Bob, with the rest to the deposit's address and an anchor."""
    message = data_script(pack_send(XCP_ID, quantity), coin[0].txid)
    rest = coin[1] - fee - 1000 - 240
    return unsigned([coin[0]], [(1000, BOB_SCRIPT), (0, message), (rest, DEPOSIT.script), ANCHOR])


def signed_by_both(tx: CTransaction, coin: Coin, hash_types: tuple[int, int] = (0, 0)) -> bytes:
    """A commit as its payee publishes it: the payer's signature first."""
    alice, bob = (
        sign_schnorr(key, DEPOSIT.sighash(0, tx, [(coin[1], DEPOSIT.script)], hash_type), hash_type)
        for key, hash_type in zip((ALICE, BOB), hash_types, strict=True)
    )
    return with_witness(tx, alice, bob, BOTH, DEPOSIT.control(0))


@pytest.mark.parametrize("hash_types", [(0, 0), (0x81, 1), (1, 0x83)])
def test_a_spend_by_the_script_of_both_is_mined_and_booked(
    node: NodeProcess, deposit: Coin, hash_types: tuple[int, int]
) -> None:
    raw = signed_by_both(commit(deposit, 7 * XCP), deposit, hash_types)
    node.bitcoin("sendrawtransaction", raw.hex())
    node.rpc("generate")
    assert mined(node, raw)
    assert (held(node, DEPOSIT.script), held(node, BOB_SCRIPT)) == (43 * XCP, 7 * XCP)


def test_commit_and_payout_of_all_that_is_there(node: NodeProcess) -> None:
    """The revoke leaf, with the signature before the secret; MAX moves what lies there."""
    coin = paid(node, SIMPLE.script)
    message = data_script(pack_send(XCP_ID, MAX_QUANTITY), coin[0].txid)
    tx = unsigned([coin[0]], [(coin[1] - 500, BOB_SCRIPT), (0, message)])
    signature = sign_schnorr(ALICE, SIMPLE.sighash(1, tx, [(coin[1], SIMPLE.script)], 0))
    raw = with_witness(tx, signature, SECRET, REVOKE, SIMPLE.control(1))
    node.bitcoin("sendrawtransaction", raw.hex())
    node.rpc("generate")
    assert (held(node, SIMPLE.script), held(node, BOB_SCRIPT)) == (0, 50 * XCP)
    (row,) = node.get(f"transactions/{shown(raw)}/sends")
    assert row == {
        "tx_index": row["tx_index"],
        "tx_hash": shown(raw),
        "block_index": node.bitcoin("getblockcount"),
        "source": address_of(SIMPLE.script),
        "destination": BOB_ADDRESS,
        "asset": "XCP",
        "quantity": 50 * XCP,
        "status": "valid",
        "msg_index": 0,
        "memo": None,
        "fee_paid": 0,
        "send_type": "send",
        "source_address": None,
        "destination_address": None,
    }


def test_an_anchor_right_behind_the_message_is_change(node: NodeProcess, deposit: Coin) -> None:
    """The agreed close of nothing: payer, message, P2A."""
    message = data_script(pack_send(XCP_ID, MAX_QUANTITY), deposit[0].txid)
    tx = unsigned([deposit[0]], [(deposit[1] - 740, ALICE_SCRIPT), (0, message), ANCHOR])
    node.bitcoin("sendrawtransaction", signed_by_both(tx, deposit).hex())
    node.rpc("generate")
    assert (held(node, DEPOSIT.script), held(node, ALICE_SCRIPT)) == (0, 50 * XCP)


@pytest.mark.parametrize(
    ("hash_type", "booked"),
    [(0, True), (1, True), (0x81, True), (2, False), (3, False), (0x82, False), (0x83, False)],
)
def test_the_ledger_books_what_is_signed_as_a_whole(node: NodeProcess, hash_type: int, booked: bool) -> None:
    coin = paid(node, SIMPLE.script)
    outputs = [(coin[1] - 500, BOB_SCRIPT), (0, data_script(pack_send(XCP_ID, XCP), coin[0].txid))]
    raw = leaf_spend(SIMPLE, coin, outputs, ALICE, hash_type)
    node.bitcoin("sendrawtransaction", raw.hex())
    node.rpc("generate")
    assert mined(node, raw)
    assert held(node, BOB_SCRIPT) == (XCP if booked else 0)
    assert len(node.get(f"transactions/{shown(raw)}/sends")) == booked


def test_a_secret_before_the_signature_moves_nothing(node: NodeProcess) -> None:
    """The ledger looks at the first item alone."""
    tree = Tree([bytes(CScript([x_only(ALICE), OP_CHECKSIGVERIFY, OP_HASH160, hash160(SECRET), OP_EQUAL]))])
    coin = paid(node, tree.script)
    outputs = [(coin[1] - 500, BOB_SCRIPT), (0, data_script(pack_send(XCP_ID, XCP), coin[0].txid))]
    tx = unsigned([coin[0]], outputs)
    signature = sign_schnorr(ALICE, tree.sighash(0, tx, [(coin[1], tree.script)], 0))
    raw = with_witness(tx, SECRET, signature, tree.leaves[0], tree.control(0))
    node.bitcoin("sendrawtransaction", raw.hex())
    node.rpc("generate")
    assert mined(node, raw)
    assert held(node, BOB_SCRIPT) == 0


def test_nobody_speaks_for_an_address_through_the_anchor_that_it_made(node: NodeProcess, deposit: Coin) -> None:
    """Before 11.5 a miner could: three items on the P2A input, and a plain prefix in an OP_RETURN."""
    raw = signed_by_both(commit(deposit, XCP), deposit)
    node.bitcoin("sendrawtransaction", raw.hex())
    node.rpc("generate")
    message = pack_enhanced_send(XCP_ID, 49 * XCP, MALLORY_SCRIPT)
    envelope = b"\x00\x63" + bytes(CScript([message])) + b"\x68" + bytes(CScript([x_only(MALLORY)])) + b"\xac"
    outputs = [(0, b"\x6a\x08CNTRPRTY"), (BTC - 5000, MALLORY_SCRIPT)]
    theft = sign_first(unsigned([anchor_of(raw), coins(node, MALLORY_SCRIPT)[0][0]], outputs), MALLORY, 1)
    stuffed = with_witness(theft, sign_schnorr(MALLORY, bytes(32)), envelope, b"\xc0" + x_only(MALLORY))
    code, why = refused(node, "sendrawtransaction", stuffed.hex())
    assert (code, why) == (-26, "bad-witness-nonstandard")
    assert (held(node, DEPOSIT.script), held(node, MALLORY_SCRIPT)) == (49 * XCP, 0)


def test_sends_are_listed_by_address_newest_first_and_undone(node: NodeProcess, deposit: Coin) -> None:
    raw = signed_by_both(commit(deposit, 7 * XCP), deposit)
    node.bitcoin("sendrawtransaction", raw.hex())
    node.rpc("generate")
    path = f"addresses/{address_of(DEPOSIT.script)}/sends"
    sent, received = node.get(path)
    assert (sent["tx_hash"], sent["quantity"], sent["destination"]) == (shown(raw), 7 * XCP, BOB_ADDRESS)
    assert (received["quantity"], received["destination"]) == (50 * XCP, address_of(DEPOSIT.script))
    assert node.get(f"addresses/{BOB_ADDRESS}/receives") == [sent]
    assert node.get(f"{path}/xcp?limit=1") == [sent]
    assert node.get(f"{path}/ABCD") == []
    assert node.get(f"{path}?send_type=attach,move") == []
    assert node.get(f"{path}?send_type=send") == [sent, received]
    assert node.get("sends?limit=1") == [sent]
    node.rpc("reorganise", depth=1)
    assert node.get(path) == [received]
    node.rpc("generate")
    assert node.get(path)[0] | {"block_index": sent["block_index"]} == sent


@pytest.mark.parametrize(
    ("message", "row"),
    [
        (pack_send(XCP_ID, XCP), (BOB_ADDRESS, "XCP", XCP, "invalid: insufficient funds")),
        (pack_send(17_576, XCP), (BOB_ADDRESS, None, None, "invalid: could not unpack")),
        (pack_send(0, 5), (BOB_ADDRESS, "BTC", 5, "invalid: insufficient funds")),
        (pack_send(XCP_ID, 5)[:-1], (BOB_ADDRESS, None, None, "invalid: could not unpack")),
        (
            pack_enhanced_send(XCP_ID, 5, MALLORY_SCRIPT),
            (address_of(MALLORY_SCRIPT), "XCP", 5, "invalid: insufficient funds"),
        ),
        (b"\x02\x01", (None, None, None, "invalid: could not unpack")),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else "",
)
def test_a_send_that_moves_nothing_says_why(node: NodeProcess, message: bytes, row: tuple[Any, ...]) -> None:
    coin = coins(node, ALICE_SCRIPT)[0]
    tx = unsigned([coin[0]], [(1000, BOB_SCRIPT), (0, data_script(message, coin[0].txid)), (BTC - 5000, ALICE_SCRIPT)])
    raw = sign_first(tx, ALICE).serialize()
    node.bitcoin("sendrawtransaction", raw.hex())
    node.rpc("generate")
    (found,) = node.get(f"transactions/{shown(raw)}/sends")
    assert (found["destination"], found["asset"], found["quantity"], found["status"]) == row
    assert found["source"] == address_of(ALICE_SCRIPT)


def test_multisig_behind_a_witness_hash_is_no_source(node: NodeProcess) -> None:
    script = CScript([1, ALICE.pubkey, BOB.pubkey, 2, OP_CHECKMULTISIG])
    coin = paid(node, b"\0\x20" + hashlib.sha256(script).digest())
    outputs = [(coin[1] - 500, BOB_SCRIPT), (0, data_script(pack_send(XCP_ID, XCP), coin[0].txid))]
    tx = unsigned([coin[0]], outputs)
    digest = SignatureHash(script, tx, 0, SIGHASH_ALL, coin[1], SIGVERSION_WITNESS_V0)
    raw = with_witness(tx, b"", ALICE.sign(digest) + bytes((SIGHASH_ALL,)), bytes(script))
    node.bitcoin("sendrawtransaction", raw.hex())
    node.rpc("generate")
    assert mined(node, raw)
    assert held(node, BOB_SCRIPT) == 0


def test_a_killed_node_keeps_a_package_whose_parent_paid_nothing(tmp_path: Path) -> None:
    with running_node(tmp_path, 0) as node:
        for _ in range(2):
            node.rpc("faucet", address=address_of(ALICE_SCRIPT), btc=BTC)
        node.rpc("generate")
        parent = commit_of(node)
        child = raising(ALICE, anchor_of(parent), coins(node, ALICE_SCRIPT)[1], 1500)
        node.bitcoin("submitpackage", [parent.hex(), child.hex()])
        node.kill()
    with running_node(tmp_path, 0) as node:
        assert node.bitcoin("getrawmempool") == [shown(parent), shown(child)]
        node.rpc("generate")
        assert mined(node, child)
