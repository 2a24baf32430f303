"""A Bitcoin node's answers: each is believed up to its last possible value, and refused by name beyond it."""

from __future__ import annotations

import contextlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_support import NEW_ID, OLD_ID, OLD_RAW, shown
from servers import saying, talking

from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.errors import (
    BadAnswer,
    BadPreviousTransaction,
    BroadcastRefused,
    NodeRefused,
    NodeUnreachable,
    UnknownTransaction,
)


@contextlib.contextmanager
def bitcoin(reply: Any) -> Iterator[tuple[BitcoinNode, list[bytes]]]:
    """A node that always says that, and what it heard."""
    with talking(saying(reply)) as (url, heard):
        yield BitcoinNode(url), heard


@contextlib.contextmanager
def answering(result: Any) -> Iterator[tuple[BitcoinNode, list[bytes]]]:
    with bitcoin({"result": result, "error": None, "id": 0}) as both:
        yield both


@contextlib.contextmanager
def refusing(code: Any, text: str = "no") -> Iterator[BitcoinNode]:
    with bitcoin({"result": None, "error": {"code": code, "message": text}, "id": 0}) as (one, _):
        yield one


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(None, None), (0, 1), (0.00001, 1), (0.00001001, 2), (0.00002, 2), (0.00058675, 59), (21_000_000, 21 * 10**11)],
)
def test_a_rate_that_bitcoin_core_may_estimate_is_believed(rate: Any, expected: int | None) -> None:
    with answering({"feerate": rate, "blocks": 3}) as (one, heard):
        assert one.estimate() == expected
        assert b'"method": "estimatesmartfee", "params": [3]' in heard[0]


@pytest.mark.parametrize("rate", [-0.00001, True, "0.1", [], 21_000_001])
def test_a_rate_that_it_may_not_estimate_is_refused(rate: Any) -> None:
    for answer in ({"feerate": rate}, [rate], rate):
        with answering(answer) as (one, _), pytest.raises(BadAnswer):
            one.estimate()


def test_blocks_are_named_and_read() -> None:
    block = bytes(31) + b"\1"
    with answering({"height": 5}) as (one, heard):
        assert one.height_of(block) == 5
        assert f'"method": "getblockheader", "params": ["{shown(block)}", true]'.encode() in heard[0]
    with answering(shown(block)) as (one, heard):
        assert one.best_block() == one.block_hash(7) == block
        assert b'"method": "getblockhash", "params": [7]' in heard[1]
    with answering("00ff") as (one, heard):
        assert one.block(block) == b"\0\xff"
        assert f'"method": "getblock", "params": ["{shown(block)}", 0]'.encode() in heard[0]
    with answering([shown(block)] * 2) as (one, _):
        assert one.mempool() == [block, block]
    with refusing(-8) as refuser:
        assert refuser.block_hash(5) is None
    for code in (-5, -1, 8, None):
        with refusing(code) as refuser, pytest.raises(NodeRefused):
            refuser.block_hash(5)


@pytest.mark.parametrize("answer", [None, 5, [], {}, "zz", "00", {"height": -1}, {"height": True}, ["00"], [5]])
def test_an_answer_that_tells_of_no_block_is_refused(answer: Any) -> None:
    with answering(answer) as (one, _):
        asked: list[Callable[[], Any]] = [one.best_block, lambda: one.block_hash(5), lambda: one.height_of(bytes(32))]
        for ask in asked:
            with pytest.raises(BadAnswer):
                ask()
        if answer != []:
            with pytest.raises(BadAnswer):
                one.mempool()
        if answer != "00":
            with pytest.raises(BadAnswer):
                one.block(bytes(32))


def test_transactions_that_bitcoin_core_lacks_are_left_out() -> None:
    unknown = {"code": -5, "message": "No such mempool transaction"}
    replies = [{"result": OLD_RAW.hex(), "id": 0}, {"error": unknown, "id": 1}]
    with bitcoin(replies) as (one, heard):
        assert one.transactions([OLD_ID, NEW_ID, OLD_ID]) == {OLD_ID: OLD_RAW}
        assert heard[0].count(b"getrawtransaction") == 2
    for code in (-8, 5, None):
        replies[1] = {"error": unknown | {"code": code}, "id": 1}
        with bitcoin(replies) as (one, _), pytest.raises(NodeRefused):
            one.transactions([OLD_ID, NEW_ID])
    replies[1] = {"result": OLD_RAW.hex(), "id": 1}
    with bitcoin(replies) as (one, _), pytest.raises(BadPreviousTransaction):
        one.transactions([OLD_ID, NEW_ID])


def test_a_transaction_is_told_in_words() -> None:
    with answering({"vout": []}) as (one, heard):
        assert one.verbose_transaction(OLD_ID) == {"vout": []}
        assert f'"params": ["{shown(OLD_ID)}", true]'.encode() in heard[0]
    others: list[Any] = [None, [], "00", 5]
    for answer in others:
        with answering(answer) as (one, _), pytest.raises(BadAnswer):
            one.verbose_transaction(OLD_ID)
    with refusing(-5) as refuser, pytest.raises(UnknownTransaction):
        refuser.verbose_transaction(OLD_ID)
    with refusing(-8) as refuser, pytest.raises(NodeRefused):
        refuser.verbose_transaction(OLD_ID)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-27, "no"),
        (-26, "txn-already-known"),
        (-26, "TXN-ALREADY-IN-MEMPOOL"),
        (-26, "Transaction already in block chain"),
        (-25, "Transaction outputs already in utxo set"),
    ],
)
def test_a_transaction_that_bitcoin_core_has_already_counts_as_sent(code: int, text: str) -> None:
    with refusing(code, text) as refuser:
        assert refuser.broadcast(OLD_RAW) == OLD_ID


def test_a_broadcast_that_bitcoin_core_refuses_is_told() -> None:
    with refusing(-26, "dust") as refuser, pytest.raises(BroadcastRefused) as refused:
        refuser.broadcast(OLD_RAW)
    assert refused.value.data == {"txid": shown(OLD_ID), "reason": "sendrawtransaction was refused: dust", "code": -26}
    with answering(shown(OLD_ID)) as (one, heard):
        assert one.broadcast(OLD_RAW) == OLD_ID
        assert f'"method": "sendrawtransaction", "params": ["{OLD_RAW.hex()}"]'.encode() in heard[0]
        with pytest.raises(BroadcastRefused):
            one.broadcast(b"\0" + OLD_RAW)
        assert len(heard) == 1


def test_a_cookie_may_hold_any_bytes(tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    cookie.write_bytes(b"user:\xff\xe2\x82\xac\n")
    with talking(saying({"result": "00" * 32, "error": None, "id": 0})) as (url, heard):
        assert BitcoinNode(url, cookie=cookie).best_block() == bytes(32)
    assert b"Authorization: Basic " + b64encode(b"user:\xff\xe2\x82\xac") in heard[0]


def test_the_cookie_of_bitcoin_core_is_sent(tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    with talking(saying({"result": 5 * "00", "error": None, "id": 0})) as (url, heard):
        bitcoin = BitcoinNode(url, cookie=cookie)
        with pytest.raises(NodeUnreachable, match=r"\.cookie"):
            bitcoin.best_block()
        cookie.write_text("__cookie__:abc")
        with pytest.raises(BadAnswer, match="block hash"):
            bitcoin.best_block()
        assert b"Authorization: Basic X19jb29raWVfXzphYmM=" in heard[0]


@pytest.mark.parametrize(
    ("code", "text", "known"),
    [
        (-27, "Transaction outputs already in utxo set", True),
        (-26, "txn-already-known", True),
        (-26, "txn-mempool-conflict", False),
        (-25, "bad-txns-inputs-missingorspent", False),
    ],
)
def test_a_broadcast_fails_unless_bitcoin_core_has_the_transaction(code: int, text: str, known: bool) -> None:
    with talking(saying({"error": {"code": code, "message": text}, "id": 0})) as (url, _):
        bitcoin = BitcoinNode(url)
        if known:
            assert bitcoin.broadcast(OLD_RAW) == OLD_ID
        else:
            with pytest.raises(BroadcastRefused, match=text):
                bitcoin.broadcast(OLD_RAW)
