"""The regtest chain: judged by the kernel, policed by the mempool, undone by reorganisations, back after a kill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bitcoin.core import CTransaction
from bitcoin.core.script import OP_CHECKSEQUENCEVERIFY, OP_CHECKSIG, OP_DROP, SIGHASH_ALL, CScript
from hypothesis import given, settings
from hypothesis import strategies as st
from regtest_support import (
    BTC,
    XCP,
    NodeProcess,
    Spend,
    address_of,
    coins_of,
    key_of,
    only_coin,
    open_node,
    running_node,
    script_of_key,
    script_sigs,
    with_script_sigs,
)

from picopayments_cli.channel.counterparty import p2sh
from picopayments_cli.channel.values import Outpoint, hash160
from picopayments_cli.errors import InvalidTime, StoreDamaged, StoreLocked
from picopayments_cli.regtest.index import Index
from picopayments_cli.regtest.node import BlockRefused, Node
from picopayments_cli.regtest.policy import Refused, dust_limit

ALICE, BOB = key_of("Alice"), key_of("Bob")
ALICE_SCRIPT, BOB_SCRIPT = script_of_key(ALICE), script_of_key(BOB)
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node that mines on demand, with one bitcoin of Alice's."""
    with open_node(tmp_path / "node", 0) as opened:
        opened.faucet(ALICE_SCRIPT, BTC, "XCP", 0)
        opened.generate(1)
        yield opened


def payment(node: Node, fee: int = 1000, value: int | None = None) -> Spend:
    """Alice pays Bob her one coin, or some of it with the rest to herself."""
    outpoint, held = only_coin(node, ALICE_SCRIPT)
    outputs = [(held - fee if value is None else value, BOB_SCRIPT)]
    if value is not None:
        outputs.append((held - value - fee, ALICE_SCRIPT))
    return Spend(ALICE, [outpoint], outputs)


def refusal(node: Node, raw: bytes) -> str:
    """Why the mempool refuses a transaction; it and the chain stay as they were."""
    before = (list(node.mempool.entries), node.index.height)
    with pytest.raises(Refused) as caught:
        node.submit([raw])
    assert (list(node.mempool.entries), node.index.height) == before
    return caught.value.reason


def txid_of(raw: bytes) -> bytes:
    return bytes(CTransaction.deserialize(raw).GetTxid())


# Mining -------------------------------------------------------------------------------------------------------------


def test_a_transaction_waits_until_a_block_is_mined(node: Node) -> None:
    raw = payment(node).signed()
    height = node.index.height
    (txid,) = node.submit([raw])
    assert node.index.find(txid) is None
    node.generate(2)
    found = node.index.find(txid)
    assert found is not None
    assert found[1].height == height + 1
    assert node.index.height == node.ledger.height == node.kernel.height == height + 2
    assert not node.mempool.entries


def test_without_a_block_time_a_broadcast_answers_with_the_transaction_mined(tmp_path: Path) -> None:
    with open_node(tmp_path) as node:
        height = node.index.height
        node.faucet(ALICE_SCRIPT, BTC, "XCP", 5 * XCP)
        assert node.index.height == height + 1
        assert node.ledger.balances(ALICE_SCRIPT) == {"XCP": 5 * XCP}
        assert sum(value for _, value in coins_of(node, ALICE_SCRIPT)) == BTC
        assert len(node.submit([payment(node).signed()])) == 1
        assert node.index.height == height + 2


def test_the_faucet_joins_its_holders_and_gives_exactly_what_is_asked(node: Node) -> None:
    bob_before = node.ledger.balances(BOB_SCRIPT)
    assert bob_before == {}
    txids = node.faucet(BOB_SCRIPT, 2 * BTC, "XCP", 5000 * XCP)
    node.generate(1)
    assert len(txids) == 4
    assert node.ledger.balances(BOB_SCRIPT) == {"XCP": 5000 * XCP}
    assert sum(value for _, value in coins_of(node, BOB_SCRIPT)) == 2 * BTC


def test_the_faucet_counts_what_it_sent_before_a_block(node: Node) -> None:
    for _ in range(60):  # more than one holder has, all in the mempool together
        node.faucet(BOB_SCRIPT, 0, "XCP", 100 * XCP)
    node.generate(1)
    assert node.ledger.balances(BOB_SCRIPT) == {"XCP": 6000 * XCP}


@pytest.mark.parametrize("blocks", [0, -1, 10_001, True])
def test_an_absurd_number_of_blocks_is_refused(node: Node, blocks: int) -> None:
    with pytest.raises(InvalidTime):
        node.generate(blocks)


# Relative locks -----------------------------------------------------------------------------------------------------


def locked_spend(node: Node, delay: int) -> Spend:
    """The spend, just signed, of a coin behind a relative lock of ``delay`` blocks that stands in the tip's block."""
    redeem = bytes(CScript([delay, OP_CHECKSEQUENCEVERIFY, OP_DROP, ALICE.pubkey, OP_CHECKSIG]))
    script = p2sh(hash160(redeem))
    node.faucet(script, BTC, "XCP", 0)
    node.generate(1)
    outpoint, value = only_coin(node, script)
    return Spend(ALICE, [outpoint], [(value - 1000, BOB_SCRIPT)], sequence=delay, redeem=redeem)


@pytest.mark.parametrize("delay", [3, 5])
def test_a_relative_lock_opens_at_its_height_and_not_one_block_before(node: Node, delay: int) -> None:
    raw = locked_spend(node, delay).signed()
    node.generate(delay - 2)  # the next block would be one too early
    tip = node.index.blocks[-1].hash
    assert refusal(node, raw) == "non-BIP68-final"
    with pytest.raises(BlockRefused):
        node.mine([raw])
    assert node.index.blocks[-1].hash == tip
    assert node.kernel.hash_at(node.kernel.height) == tip
    node.generate(1)
    (txid,) = node.submit([raw])
    node.generate(1)
    assert node.index.find(txid) is not None


def test_a_sequence_below_the_scripts_lock_is_refused_by_mempool_and_kernel(node: Node) -> None:
    spend = replace(locked_spend(node, 5), sequence=2)
    node.generate(10)
    raw = spend.signed()
    assert refusal(node, raw).startswith("mandatory-script-verify-flag-failed")
    height = node.index.height
    with pytest.raises(BlockRefused):
        node.mine([raw])
    assert node.index.height == node.kernel.height == height
    node.generate(1)  # and the chain goes on
    assert node.kernel.height == height + 1


def test_an_unopened_locktime_is_refused(node: Node) -> None:
    spend = payment(node)
    height = node.index.height
    assert refusal(node, replace(spend, locktime=height + 1).signed()) == "non-final"
    assert node.submit([replace(spend, locktime=height).signed()])


# Policy -------------------------------------------------------------------------------------------------------------


def test_dust_limits_are_those_of_the_network() -> None:
    scripts = {
        546: ALICE_SCRIPT,
        540: p2sh(bytes(20)),
        294: b"\0\x14" + bytes(20),
        330: b"\0\x20" + bytes(32),
        0: b"\x6a\x02hi",
    }
    assert {dust_limit(script) for script in scripts.values()} == set(scripts)
    assert all(dust_limit(script) == limit for limit, script in scripts.items())


def test_dust_and_low_fees_are_refused_by_name(node: Node) -> None:
    assert refusal(node, payment(node, value=545).signed()) == "dust"
    assert refusal(node, payment(node, fee=150).signed()).startswith("min relay fee not met")
    assert refusal(node, payment(node, fee=-1).signed()) == "bad-txns-in-belowout"
    assert refusal(node, payment(node, fee=BTC // 2).signed()).startswith("Fee exceeds maximum")
    assert node.submit([payment(node, value=546).signed()])


def test_versions_scripts_and_sizes_out_of_the_ordinary_are_refused_by_name(node: Node) -> None:
    spend = payment(node)
    value = spend.outputs[0][0]
    assert refusal(node, replace(spend, version=4).signed()) == "version"
    assert refusal(node, replace(spend, outputs=[(value, b"\x51")]).signed()) == "scriptpubkey"
    assert refusal(node, replace(spend, outputs=[*spend.outputs, (1, b"\x6a\x02hi")]).signed()).startswith(
        "Unspendable"
    )
    large = [(600, BOB_SCRIPT)] * 3000
    assert refusal(node, replace(spend, outputs=large).signed()) == "tx-size"
    for script_sig, reason in ((b"\x61", "scriptsig-not-pushonly"), (b"\x4d\x73\x06" + bytes(1651), "scriptsig-size")):
        assert refusal(node, with_script_sigs(spend.signed(), [script_sig])) == reason


def test_signatures_that_a_node_would_not_relay_are_refused_though_the_kernel_takes_them(node: Node) -> None:
    spend = payment(node)
    signed = spend.signed()
    signature, pubkey = list(CScript(script_sigs(signed)[0]))
    high = with_script_sigs(signed, [bytes(CScript([_high_s(signature), pubkey]))])
    clumsy = with_script_sigs(signed, [b"\x4c" + bytes((len(signature),)) + signature + bytes(CScript([pubkey]))])
    unclean = with_script_sigs(signed, [bytes(CScript([1, signature, pubkey]))])
    for raw in (high, clumsy, unclean):
        assert refusal(node, raw).startswith("non-mandatory-script-verify-flag")
    odd_type = replace(spend, sighash=4).signed()
    assert refusal(node, odd_type).startswith("non-mandatory-script-verify-flag")
    found = node.mine([high])
    assert node.index.blocks[-1].hash == found


def test_a_wrong_signature_is_refused_by_mempool_and_kernel(node: Node) -> None:
    raw = replace(payment(node), key=BOB).signed()
    assert refusal(node, raw).startswith("mandatory-script-verify-flag-failed")
    with pytest.raises(BlockRefused):
        node.mine([raw])


def test_spent_and_unknown_inputs_are_refused_by_name(node: Node) -> None:
    spend = payment(node)
    unknown = replace(spend, outpoints=[Outpoint(bytes(range(32)), 0)])
    assert refusal(node, unknown.signed()) == "bad-txns-inputs-missingorspent"
    raw = spend.signed()
    node.submit([raw])
    assert node.submit([raw]) == [txid_of(raw)]  # what waits already is no error
    node.generate(1)
    assert refusal(node, raw) == "Transaction outputs already in utxo set"
    assert refusal(node, replace(spend, outputs=[(5000, BOB_SCRIPT)]).signed()) == "bad-txns-inputs-missingorspent"
    assert refusal(node, b"\x01\x02\x03").startswith("TX decode failed")


def test_a_coinbase_waits_a_hundred_blocks(node: Node) -> None:
    coin, out = next((coin, out) for coin, out in node.index.coins.items() if out.coinbase and out.height == 100)
    stranger = Spend(ALICE, [coin], [(out.value - 1000, BOB_SCRIPT)])  # the signature is judged after maturity
    assert refusal(node, stranger.signed()) == "bad-txns-premature-spend-of-coinbase"
    node.generate(200 - node.index.height)
    assert refusal(node, stranger.signed()).startswith("mandatory-script-verify-flag-failed")


def test_a_replacement_pays_more_in_all_and_per_byte(node: Node) -> None:
    first = payment(node, fee=1000).signed()
    node.submit([first])
    assert refusal(node, payment(node, fee=900).signed()).startswith("insufficient fee")
    assert refusal(node, payment(node, fee=1100).signed()).startswith("insufficient fee")  # 1 sat/vB on top is asked
    better = payment(node, fee=1300).signed()
    node.submit([better])
    assert list(node.mempool.entries) == [txid_of(better)]
    node.generate(1)
    assert node.index.find(txid_of(first)) is None


def test_a_replacement_throws_out_what_hangs_on_the_old_one(node: Node) -> None:
    parent = payment(node).signed()
    child = Spend(BOB, [Outpoint(txid_of(parent), 0)], [(BTC - 3000, ALICE_SCRIPT)]).signed()
    node.submit([parent, child])
    assert refusal(node, payment(node, fee=2900).signed()).startswith("insufficient fee")
    better = payment(node, fee=5000).signed()
    node.submit([better])
    assert list(node.mempool.entries) == [txid_of(better)]


def test_a_chain_of_unconfirmed_transactions_has_an_end(node: Node) -> None:
    raw = payment(node).signed()
    value = BTC - 1000
    owner, other = BOB, ALICE
    for _ in range(24):
        node.submit([raw])
        value -= 1000
        raw = Spend(owner, [Outpoint(txid_of(raw), 0)], [(value, script_of_key(other))]).signed()
        owner, other = other, owner
    node.submit([raw])
    raw = Spend(owner, [Outpoint(txid_of(raw), 0)], [(value - 1000, script_of_key(other))]).signed()
    assert refusal(node, raw).startswith("too-long-mempool-chain")
    node.generate(1)
    assert not node.mempool.entries


def test_a_block_throws_out_what_it_conflicts_with(node: Node) -> None:
    node.submit([payment(node).signed()])
    other = payment(node, fee=2000).signed()
    node.mine([other])
    assert not node.mempool.entries
    assert node.index.find(txid_of(other)) is not None


def _high_s(signature: bytes) -> bytes:
    r_end = 4 + signature[3]
    s = CURVE_ORDER - int.from_bytes(signature[r_end + 2 : -1], "big")
    body = signature[2:r_end] + b"\x02\x21\0" + s.to_bytes(32, "big")
    return b"\x30" + bytes((len(body),)) + body + bytes((SIGHASH_ALL,))


# Reorganisations ----------------------------------------------------------------------------------------------------


def picture(index: Index) -> tuple[object, ...]:
    """All that the index knows of Alice and Bob."""
    scripts = (ALICE_SCRIPT, BOB_SCRIPT)
    return (
        dict(index.coins),
        [set(index.coins_of(script)) for script in scripts],
        [index.history(script) for script in scripts],
        [block.hash for block in index.blocks],
    )


@pytest.mark.parametrize("depth", range(1, 7))
def test_a_reorganisation_undoes_blocks_coins_histories_and_balances(node: Node, depth: int) -> None:
    base, balances = picture(node.index), node.ledger.balances(BOB_SCRIPT)
    supply = node.ledger.assets()["XCP"].supply
    height = node.index.height
    txids = []
    for number in range(depth):
        txids += node.faucet(BOB_SCRIPT, 10_000 + number, "XCP", 100 * XCP)
        node.generate(1)
    assert node.ledger.balances(BOB_SCRIPT) == {"XCP": depth * 100 * XCP}
    mined = [block.hash for block in node.index.blocks[height + 1 :]]
    lost, gained = node.reorganise(depth)
    assert lost == mined[::-1]
    assert gained == [block.hash for block in node.index.blocks[height + 1 :]]
    assert node.index.height == node.kernel.height == height + depth + 1
    assert picture(node.index)[1:3] == base[1:3]
    assert node.ledger.balances(BOB_SCRIPT) == balances
    assert node.ledger.assets()["XCP"].supply == supply
    assert list(node.mempool.entries) == txids  # they wait again, in their order
    node.generate(1)
    assert node.ledger.balances(BOB_SCRIPT) == {"XCP": depth * 100 * XCP}
    assert all(node.index.find(txid) is not None for txid in txids)


def test_after_a_reorganisation_a_spend_that_comes_too_early_does_not_wait(node: Node) -> None:
    spend = locked_spend(node, 5)
    node.generate(4)
    (txid,) = node.submit([spend.signed()])
    node.generate(1)
    node.reorganise(6)  # the locked coin itself is unconfirmed again
    assert txid not in node.mempool.entries
    assert spend.outpoints[0].txid in node.mempool.entries


def test_a_reorganisation_may_leave_what_it_drops_to_be_published_again(node: Node) -> None:
    (txid,) = node.faucet(BOB_SCRIPT, 0, "XCP", 5 * XCP)
    raw = node.mempool.entries[txid].item.raw
    node.generate(1)
    node.reorganise(1, forget=True)
    node.generate(1)
    assert (node.index.find(txid), node.ledger.balances(BOB_SCRIPT)) == (None, {})
    node.submit([raw])
    node.generate(1)
    assert node.ledger.balances(BOB_SCRIPT) == {"XCP": 5 * XCP}


def test_the_treasurys_own_blocks_can_not_be_reorganised(node: Node) -> None:
    with pytest.raises(InvalidTime):
        node.reorganise(node.index.height)
    with pytest.raises(InvalidTime):
        node.reorganise(0)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_whatever_was_reorganised_a_restart_finds_the_same(
    tmp_path_factory: pytest.TempPathFactory, depths: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("node")
    with open_node(folder, 0) as node:
        node.generate(6)
        for depth in depths:
            node.faucet(BOB_SCRIPT, 10_000, "XCP", XCP)
            node.generate(1)
            node.reorganise(depth)
        before = (picture(node.index), node.ledger.balances(BOB_SCRIPT), list(node.mempool.entries))
    with open_node(folder, 0) as node:
        assert (picture(node.index), node.ledger.balances(BOB_SCRIPT), list(node.mempool.entries)) == before


# Processes ----------------------------------------------------------------------------------------------------------


def test_one_process_per_folder(tmp_path: Path) -> None:
    with open_node(tmp_path), pytest.raises(StoreLocked, match="Another process"):
        Node(tmp_path)
    with open_node(tmp_path) as node:  # free again
        assert node.index.height > 0


def test_a_folder_that_holds_something_else_is_refused_untouched(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    journal.write_bytes(b"my diary, " * 1000)
    before = journal.read_bytes()
    with pytest.raises(StoreDamaged):
        Node(tmp_path)
    assert journal.read_bytes() == before


def test_a_killed_node_comes_back_with_the_same_tip_and_the_same_balances(tmp_path: Path) -> None:
    alice = address_of(ALICE_SCRIPT)
    with running_node(tmp_path, 0) as node:
        node.rpc("faucet", address=alice, btc=BTC, asset="XCP", quantity=100 * XCP)
        node.rpc("generate", blocks=3)
        node.rpc("reorganise", depth=2)
        waiting = node.rpc("faucet", address=alice, btc=BTC)
        before = _seen(node, alice)
        node.kill()
    with running_node(tmp_path, 0) as node:
        assert _seen(node, alice) == before
        assert node.bitcoin("getrawmempool") == waiting
        node.rpc("generate", blocks=1)
        assert len(node.get(f"bitcoin/addresses/{alice}/utxos")) == 2


def _seen(node: NodeProcess, address: str) -> list[object]:
    return [
        node.bitcoin("getbestblockhash"),
        node.get(f"addresses/{address}/balances"),
        sorted(str(coin) for coin in node.get(f"bitcoin/addresses/{address}/utxos")),
        node.get(f"bitcoin/addresses/{address}/transactions?unconfirmed=true"),
    ]


def test_a_node_killed_in_the_middle_of_its_work_keeps_what_it_answered(tmp_path: Path) -> None:
    alice = address_of(ALICE_SCRIPT)
    with running_node(tmp_path) as node:
        node.rpc("faucet", address=alice, quantity=100 * XCP)
        height = node.bitcoin("getblockcount")
        request = (
            f"import requests; requests.post({node.url!r} + 'regtest/', json={{'jsonrpc': '2.0', 'id': 0, "
            "'method': 'generate', 'params': {'blocks': 9000}})"
        )
        with subprocess.Popen([sys.executable, "-c", request], stderr=subprocess.DEVNULL) as client:
            while not _journal_grows(tmp_path):
                assert client.poll() is None
            node.kill()
            client.wait()
    with running_node(tmp_path) as node:
        assert node.get(f"addresses/{alice}/balances")[0]["quantity"] == 100 * XCP
        now = node.bitcoin("getblockcount")
        assert height < now < height + 9000
        assert node.get("")["counterparty_height"] == now
        node.rpc("generate", blocks=1)


def _journal_grows(folder: Path) -> bool:
    wal = folder / "journal.sqlite-wal"
    return wal.exists() and wal.stat().st_size > 2_000_000


def test_a_node_killed_before_it_was_ready_starts_anew(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "picopayments_cli.regtest", "--basedir", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "kernel").exists() and process.poll() is None:
            pass
        process.kill()
    with open_node(tmp_path) as node:
        node.faucet(ALICE_SCRIPT, BTC, "XCP", XCP)
        assert node.ledger.balances(ALICE_SCRIPT) == {"XCP": XCP}


def test_a_node_ends_cleanly_on_sigterm_and_with_its_parent(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        assert node.stop() == 0
    with running_node(tmp_path) as node:
        assert node.process.stdin is not None
        node.process.stdin.close()  # as the system does when the parent dies
        node.process.wait(20)
    with open_node(tmp_path):
        pass


def test_a_second_process_on_the_folder_says_why_it_ends(tmp_path: Path) -> None:
    with running_node(tmp_path):
        command = [sys.executable, "-m", "picopayments_cli.regtest", "--basedir", str(tmp_path), "--port", "0"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 4
    assert not second.stdout
    assert '"name": "StoreLocked"' in second.stderr.splitlines()[-1]
