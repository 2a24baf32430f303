"""A Counterparty node's answers: each is believed up to its last possible value, and refused by name beyond it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from chain_support import (
    ADDRESS,
    BEST,
    COINS_OF_ALL,
    NEW_ID,
    NEW_RAW,
    NODE,
    OLD_ID,
    OLD_RAW,
    OLD_STATUS,
    OTHER,
    QUERY,
    RAWS,
    TESTNET,
    TIP,
    TRANSACTION,
    Place,
    changed,
    listening_node,
    node,
    refusal,
    shown,
    transaction,
)
from servers import busy_once, in_turn, saying, talking

from picopayments_cli.chain import Asset, Query, View
from picopayments_cli.chain import node as node_module
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.chain.node import MEMPOOL_PAGE, PAGE, NodeChain
from picopayments_cli.channel.networks import NETWORKS, address_of_script
from picopayments_cli.channel.values import MAX_QUANTITY, Outpoint
from picopayments_cli.errors import (
    BadAnswer,
    BadPreviousTransaction,
    BroadcastRefused,
    InvalidAddress,
    NodeBehind,
    NodeRefused,
    NodeTooOld,
    NodeUnreachable,
    UnknownAsset,
    WrongNetwork,
)

UTXOS, HISTORY = "bitcoin/addresses/utxos", f"bitcoin/addresses/{ADDRESS}/transactions"
WAITING = {"confirmed": False}


def test_a_ledger_that_stands_is_noticed_by_the_time_of_its_last_block() -> None:
    """Its heights agree: the ledger's own and that of the chain as it tells it."""
    begun = 1_700_000_000
    last = {**NODE["blocks/last"], "block_time": begun}
    with node({**NODE, "blocks/last": last}, RAWS) as chain:
        chain.check_current(begun - 7200)  # a miner's clock may be ahead
        chain.check_current(begun + 10_800)
        with pytest.raises(NodeBehind, match="3 hours old") as refused:
            chain.check_current(begun + 10_801)
        assert refused.value.data["seconds"] == 10_801
    with node(NODE, RAWS) as chain, pytest.raises(BadAnswer):
        chain.check_current(begun)


@pytest.fixture(scope="module")
def told_by_node() -> Iterator[Callable[[Place, Any], View]]:
    """A node's view with another value at a place."""
    answers = dict(NODE)
    with node(answers, RAWS, patience=0) as chain:

        def view(place: Place, to: Any) -> View:
            answers.update(changed(NODE, place, to))
            return chain.view(QUERY)

        yield view
        answers.update(NODE)


BALANCE = ("addresses/balances", 0, "addresses", 0)
NODE_BORDERS: list[tuple[Place, Any, Callable[[View], Any], Any]] = [
    (("", "counterparty_height"), TIP + 1, lambda view: view.height, TIP),
    ((UTXOS, 0, "vout"), 2**32 - 1, lambda view: view.coins[ADDRESS][0].outpoint.vout, 2**32 - 1),
    ((UTXOS, 0, "value"), 0, lambda view: view.coins[ADDRESS][0].value, 0),
    ((UTXOS, 0, "value"), COINS_OF_ALL, lambda view: view.coins[ADDRESS][0].value, COINS_OF_ALL),
    ((UTXOS, 0, "status"), WAITING, lambda view: view.balances[ADDRESS]["BTC"], 0),
    ((UTXOS, 0, "status", "block_height"), 0, lambda view: view.coins[ADDRESS][0].height, 0),
    ((*BALANCE, "quantity"), 0, lambda view: view.balances[ADDRESS]["XCP"], 0),
    ((*BALANCE, "quantity"), MAX_QUANTITY, lambda view: view.balances[ADDRESS]["XCP"], MAX_QUANTITY),
    ((*BALANCE, "address"), OTHER, lambda view: view.balances[ADDRESS], {"BTC": 123_456_789}),
    ((*BALANCE, "utxo"), f"{shown(OLD_ID)}:0", lambda view: view.balances[ADDRESS], {"BTC": 123_456_789}),
    (("bitcoin/estimatesmartfee",), 0, lambda view: view.fee_rate, 1),
    (("bitcoin/estimatesmartfee",), 1024, lambda view: view.fee_rate, 1),
    (("bitcoin/estimatesmartfee",), 1025, lambda view: view.fee_rate, 2),
    (("bitcoin/estimatesmartfee",), 2000, lambda view: view.fee_rate, 2),
    (("bitcoin/estimatesmartfee",), 2001, lambda view: view.fee_rate, 3),
]


@pytest.mark.parametrize(("place", "to", "seen", "expected"), NODE_BORDERS)
def test_values_of_a_node_are_believed_to_their_limits(
    told_by_node: Callable[[Place, Any], View], place: Place, to: Any, seen: Callable[[View], Any], expected: Any
) -> None:
    assert seen(told_by_node(place, to)) == expected
    told_by_node((), NODE)


NODE_LIES: list[tuple[Place, list[Any]]] = [
    (("",), [[], None, "x"]),
    (("", "network"), [None, 5]),
    (("", "backend_height"), [-1, MAX_QUANTITY + 1, True, None, "200", 200.0]),
    (("", "version"), [None, 5, "", "11", "11.5", "x.y.z", "-11.5.0", "9" * 5000]),
    (("", "counterparty_height"), [-1, MAX_QUANTITY + 1, True, None, "200", 200.0]),
    ((UTXOS,), [{}, None, "x", [7]]),
    ((UTXOS, 0, "address"), [OTHER, None, 5]),
    ((UTXOS, 0, "txid"), ["", "00", None]),
    ((UTXOS, 0, "vout"), [-1, 2**32, True, None]),
    ((UTXOS, 0, "value"), [-1, COINS_OF_ALL + 1, True, None, "5", 5.0]),
    ((UTXOS, 0, "status"), [None, [], True]),
    ((UTXOS, 0, "status", "confirmed"), [None, 1, "yes"]),
    ((UTXOS, 0, "status", "block_height"), [-1, None, True, "195"]),
    ((HISTORY,), [{}, None, [7]]),
    ((HISTORY, 0, "txid"), ["", None, 5]),
    ((HISTORY, 1, "status"), [None, {"confirmed": True}, {"confirmed": 1, "block_height": 195}]),
    (("addresses/balances",), [{}, None, [7]]),
    (("addresses/balances", 0, "asset"), [None, 5]),
    (("addresses/balances", 0, "addresses"), [None, {}, [7]]),
    ((*BALANCE, "quantity"), [-1, MAX_QUANTITY + 1, True, None]),
    ((*BALANCE, "address"), [5, []]),
    ((*BALANCE, "utxo"), [5, []]),
    (("bitcoin/estimatesmartfee",), [-1, True, None, 2500.0, "2500", {}]),
]


@pytest.mark.parametrize("version", ["11.4.9", "10.99.0", "2.99.99-beta"])
def test_a_node_that_is_too_old_is_refused_by_its_number(
    told_by_node: Callable[[Place, Any], View], version: str
) -> None:
    with pytest.raises(NodeTooOld) as caught:
        told_by_node(("", "version"), version)
    assert caught.value.data == {"version": version, "least": "11.5.0"}
    assert version in caught.value.message


@pytest.mark.parametrize("version", ["11.5.0", "11.5.1-rc.1", "11.10.0", "12.0.0+local"])
def test_a_node_that_is_new_enough_is_asked(told_by_node: Callable[[Place, Any], View], version: str) -> None:
    assert told_by_node(("", "version"), version).height


@pytest.mark.parametrize(("place", "lie"), [(place, lie) for place, lies in NODE_LIES for lie in lies])
def test_values_of_a_node_beyond_their_limits_are_refused(
    told_by_node: Callable[[Place, Any], View], place: Place, lie: Any
) -> None:
    with pytest.raises(BadAnswer):
        told_by_node(place, lie)
    told_by_node((), NODE)


def test_a_node_of_another_network_is_refused() -> None:
    for network, name in (("testnet", "testnet"), ("testnet", "mainnet"), ("mainnet", "testnet3"), ("regtest", "x")):
        with node(changed(NODE, ("", "network"), name), RAWS) as chain, pytest.raises(WrongNetwork):
            NodeChain(chain._rest.url, NETWORKS[network]).view(Query())


def test_a_node_is_asked_by_a_new_url_each_time() -> None:
    with listening_node({"addresses/balances": {"result": []}, UTXOS: {"result": []}}) as (chain, heard):
        chain.view(Query(coins=[ADDRESS], balances=[OTHER]))
    nonces = [params.pop("verbose") for _, params in heard]
    assert len(set(nonces)) == len(heard), "the node's cache answers a URL that was asked before"
    assert sorted(heard, key=str) == sorted(
        [
            ("", {}),
            ("", {}),
            ("addresses/balances", {"addresses": OTHER, "type": "address", "limit": "1000"}),
            ("bitcoin/estimatesmartfee", {"conf_target": "3"}),
            (UTXOS, {"addresses": f"{ADDRESS},{OTHER}", "unconfirmed": "true"}),
        ],
        key=str,
    )
    with listening_node({HISTORY: {"result": []}}) as (chain, heard):
        assert chain.view(Query(history=[ADDRESS])).history == {ADDRESS: ()}
        assert (HISTORY, "true") in [(path, params.get("unconfirmed")) for path, params in heard]
        with pytest.raises(InvalidAddress):
            chain.view(Query(history=["../../v2"]))


def test_a_node_is_asked_in_parts() -> None:
    addresses = [str(address_of_script(TESTNET, b"\xa9\x14" + bytes(19) + bytes([n]) + b"\x87")) for n in range(51)]
    txids = [OLD_ID, *(bytes([number]) + bytes(31) for number in range(99)), NEW_ID]

    with listening_node({"addresses/balances": {"result": []}, UTXOS: {"result": []}}, RAWS.get) as (chain, heard):
        view = chain.view(Query(coins=addresses, balances=addresses, transactions=[*txids, txids[0]]))
    assert view.balances == {address: {"BTC": 0} for address in addresses}
    assert view.transactions == {OLD_ID: OLD_RAW, NEW_ID: NEW_RAW}
    for path in (UTXOS, "addresses/balances"):
        parts = [params["addresses"].split(",") for at, params in heard if at == path]
        assert parts == [addresses[:50], addresses[50:]]
    asked = [(at, params["result_format"]) for at, params in heard if at.startswith(TRANSACTION)]
    assert sorted(asked) == sorted((f"{TRANSACTION}{shown(txid)}", "hex") for txid in txids)  # each once
    coins = [Outpoint(OLD_ID, number) for number in range(51)]
    told = {"result": {str(coin): coin.vout in (0, 50) for coin in coins}}
    with listening_node({"utxos/withbalances": told}) as (chain, heard):
        assert chain.attached(coins) == {coins[0], coins[50]}
        parts = [params["utxos"].split(",") for _, params in heard]
        assert parts == [[str(coin) for coin in coins[:50]], [str(coins[50])]]


def test_holdings_of_one_asset_add_up() -> None:
    rows = [NODE["addresses/balances"][0]] * 2
    with node(changed(NODE, ("addresses/balances",), rows), RAWS) as chain:
        assert chain.view(Query(balances=[ADDRESS])).balances[ADDRESS]["XCP"] == 14


def pages(cursors: Iterable[Any]) -> list[dict[str, Any]]:
    """Pages of balances, each with the same holding and the next one's cursor."""
    return [{"result": NODE["addresses/balances"], "next_cursor": cursor} for cursor in cursors]


def test_all_pages_are_read() -> None:
    with listening_node({"addresses/balances": pages([7, "x", None])}) as (chain, heard):
        assert chain.view(Query(balances=[ADDRESS])).balances[ADDRESS]["XCP"] == 21
        asked = [params.get("cursor") for path, params in heard if path == "addresses/balances"]
        assert asked == [None, "7", "x"]


@pytest.mark.parametrize("cursors", [[7, 7, None], [1, 2, 1, None], [[7], None], [{}, None], [1.5, None]])
def test_pages_that_lead_nowhere_are_refused(cursors: list[Any]) -> None:
    with listening_node({"addresses/balances": pages(cursors)}) as (chain, _), pytest.raises(BadAnswer):
        chain.view(Query(balances=[ADDRESS]))


def test_pages_that_never_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "_PAGES", 5)
    with listening_node({"addresses/balances": pages([*range(5), None])}) as (chain, _):
        assert chain.view(Query(balances=[ADDRESS])).balances[ADDRESS]["XCP"] == 6 * 7
    with listening_node({"addresses/balances": pages(range(1000))}) as (chain, heard):
        with pytest.raises(BadAnswer, match="without end"):
            chain.view(Query(balances=[ADDRESS]))
        assert [path for path, _ in heard].count("addresses/balances") == 6


@pytest.mark.parametrize("path", ["", UTXOS, HISTORY, "addresses/balances", "bitcoin/estimatesmartfee"])
def test_an_answer_without_a_result_is_refused(path: str) -> None:
    with listening_node({path: {"results": []}}) as (chain, _), pytest.raises(BadAnswer):
        chain.view(QUERY)


def test_each_refusal_of_a_node_has_its_error() -> None:
    fees, asset = "bitcoin/estimatesmartfee", "assets/TEST%2Fx"
    with listening_node({fees: refusal(404)}) as (chain, _):
        assert chain.view(Query()).fee_rate is None
    with listening_node({fees: refusal(400)}) as (chain, _), pytest.raises(NodeRefused):
        chain.view(Query())
    with listening_node({fees: refusal(500)}) as (chain, _), pytest.raises(NodeUnreachable):
        chain.view(Query())
    for status in (400, 404):
        with listening_node({asset.replace("%2F", "/"): refusal(status)}) as (chain, _), pytest.raises(UnknownAsset):
            chain.asset("TEST/x")
    with listening_node({"assets/TEST": refusal(405)}) as (chain, _), pytest.raises(NodeRefused):
        chain.asset("TEST")


def test_a_chain_that_always_moves_is_given_up() -> None:
    def states(heights: Iterable[int]) -> list[dict[str, Any]]:
        return [{"result": {**NODE[""], "backend_height": at, "counterparty_height": at}} for at in heights]

    with listening_node({"": states(range(100))}) as (chain, heard):
        with pytest.raises(NodeBehind):
            chain.view(Query())
        assert [path for path, _ in heard].count("") == 2 * 5
    with listening_node({"": states([1, 2, 3, 4, 5, 6, 7, 8, 9, 9])}) as (chain, _):
        assert chain.view(Query()).height == 9


def test_a_transaction_that_is_listed_and_not_there_is_asked_for_again() -> None:
    turns = iter([None])
    with listening_node({}, lambda txid: next(turns, RAWS[txid])) as (chain, heard):
        assert len(chain.view(Query(history=[ADDRESS])).history[ADDRESS]) == 2
        assert [path for path, _ in heard].count(HISTORY) == 2
    with listening_node({}) as (chain, heard):
        with pytest.raises(NodeBehind):
            chain.view(Query(history=[ADDRESS]))
        assert [path for path, _ in heard].count(HISTORY) == 5


@pytest.mark.parametrize("answer", [[], {}, "x", 5, "zz", [1], True])
def test_a_transaction_of_another_form_is_refused(answer: Any) -> None:
    with listening_node({}, lambda txid: answer) as (chain, _), pytest.raises(BadAnswer):
        chain.view(Query(transactions=[OLD_ID]))


def listed(confirmed: int, waiting: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """That many transactions as a history, and their bytes."""
    many = [transaction(1000 + number) for number in range(confirmed + waiting)]
    raws = {shown(tx.GetTxid()): tx.serialize().hex() for tx in many}
    states = [OLD_STATUS] * confirmed + [WAITING] * waiting
    return [{"txid": txid, "status": state} for txid, state in zip(raws, states, strict=True)], raws | RAWS


def test_lists_of_a_node_have_esploras_limits() -> None:
    assert (PAGE, MEMPOOL_PAGE) == (25, 50)  # Esplora's
    assert (node_module._LIMIT, node_module._PAGES) == (1000, 1000)


@pytest.mark.parametrize(
    ("confirmed", "waiting", "count", "complete"),
    [
        (PAGE - 1, MEMPOOL_PAGE - 1, None, True),
        (PAGE, 0, None, False),
        (PAGE + 1, 0, None, False),
        (0, MEMPOOL_PAGE, None, False),
        (PAGE, MEMPOOL_PAGE, PAGE + MEMPOOL_PAGE, True),
        (PAGE, 0, PAGE + 1, False),
        (1, 0, 2, True),  # a count of something else
    ],
)
def test_a_history_is_whole_where_no_page_is_full(
    confirmed: int, waiting: int, count: int | None, complete: bool
) -> None:
    items, raws = listed(confirmed, waiting)
    with listening_node({HISTORY: {"result": items, "result_count": count}}, raws.get) as (chain, _):
        view = chain.view(Query(history=[ADDRESS]))
    assert view.truncated == (set() if complete else {ADDRESS})
    assert len(view.history[ADDRESS]) == confirmed + waiting + (0 if complete else 2)


def test_a_node_is_handed_the_transaction_and_its_refusal_is_told() -> None:
    path, txid = "bitcoin/transactions", shown(NEW_ID)
    with listening_node({path: {"result": txid}}) as (chain, heard):
        assert chain.broadcast(NEW_RAW) == NEW_ID
        ((_, form),) = heard
        assert form["signedhex"] == NEW_RAW.hex()
        with pytest.raises(BroadcastRefused):
            chain.broadcast(NEW_RAW[:-1])
    with listening_node({path: refusal(400)}) as (chain, _), pytest.raises(BroadcastRefused) as refused:
        chain.broadcast(NEW_RAW)
    assert refused.value.data == {"txid": txid, "reason": "Not now"}
    with (
        listening_node({path: refusal(400)}, lambda _: OLD_RAW.hex()) as (chain, _),
        pytest.raises(BadPreviousTransaction),
    ):
        chain.broadcast(NEW_RAW)


def test_a_busy_node_is_asked_again() -> None:
    for made in (lambda url: NodeChain(url, TESTNET), BitcoinNode):
        with talking(busy_once({"result": shown(OLD_ID)})) as (url, heard):
            assert made(url).broadcast(OLD_RAW) == OLD_ID
            assert len(heard) == 2


def test_a_node_has_the_time_and_the_attempts_that_it_is_given() -> None:
    def silent(connection: socket.socket) -> None:
        connection.recv(1)

    told: dict[str, Any] = {"timeout": (1.0, 0.2), "retries": 0}
    for made in (lambda url: NodeChain(url, TESTNET, **told), lambda url: BitcoinNode(url, **told)):
        with talking(silent) as (url, heard), pytest.raises(NodeUnreachable, match=r"within 0\.2 s"):
            made(url).broadcast(OLD_RAW)
        with talking(saying(b"", "503 x")) as (url, heard), pytest.raises(NodeUnreachable):
            made(url).broadcast(OLD_RAW)
        assert len(heard) == 1
    for second, reason in ((silent, r"within 0\.2 s"), (saying(b"", "503 x"), "503")):
        with (
            talking(in_turn(saying({"error": "no"}, "400 x"), second)) as (url, heard),
            pytest.raises(NodeUnreachable, match=reason),
        ):
            NodeChain(url, TESTNET, **told).broadcast(OLD_RAW)  # the second question is whether the node has it
        assert len(heard) == 2
        assert heard[1].startswith(b"GET /v2/bitcoin/transactions/%s?result_format=hex" % shown(OLD_ID).encode())


def test_a_ledger_is_waited_for_as_long_as_told() -> None:
    behind = {"result": NODE[""] | {"counterparty_height": TIP - 1}}
    with listening_node({"": [behind, behind, *[{"result": NODE[""]}] * 2]}) as (chain, heard):
        patient = NodeChain(chain._rest.url, TESTNET, patience=60)
        assert patient.view(Query()).height == TIP
        assert [path for path, _ in heard].count("") == 4


def test_a_node_names_the_asset_that_was_asked_for() -> None:
    row = {"asset": "TEST", "asset_id": "337135", "divisible": True}
    with listening_node({"assets/TEST": {"result": row}, "assets/OTHER": {"result": row}}) as (chain, heard):
        assert (chain.asset("BTC"), chain.asset("XCP")) == (Asset("BTC", 0, True), Asset("XCP", 1, True))
        assert not heard
        assert chain.asset("TEST") == Asset("TEST", 337135, True)
        with pytest.raises(BadAnswer):
            chain.asset("OTHER")


def test_a_bitcoin_node_beside_it_is_asked_first() -> None:
    replies = [
        [{"result": OLD_RAW.hex(), "id": 0}, {"error": {"code": -5, "message": "No such transaction"}, "id": 1}],
        [{"result": BEST, "id": 2}, {"result": {"feerate": 0.00007}, "id": 3}],
        {"result": BEST},
        {"result": "anything"},
    ]
    with (
        talking(in_turn(*map(saying, replies))) as (url, heard),
        listening_node({}, RAWS.get) as (chain, asked),
    ):
        one = BitcoinNode(url)
        both = NodeChain(chain._rest.url, TESTNET, bitcoin=one)
        assert both._raw_transactions([OLD_ID, NEW_ID]) == {OLD_ID: OLD_RAW, NEW_ID: NEW_RAW}
        assert [path for path, _ in asked] == [f"{TRANSACTION}{shown(NEW_ID)}"]
        assert both.view(Query()).fee_rate == 7
        assert "bitcoin/estimatesmartfee" not in dict(asked)
        assert both.broadcast(NEW_RAW) == NEW_ID
        assert NEW_RAW.hex().encode() in heard[-1]


@pytest.mark.parametrize(("ledger", "block"), [(TIP - 1, "06"), (TIP, "06"), (TIP + 1, "08")])
def test_a_ledger_that_stands_on_another_block_than_bitcoin_core_is_behind(ledger: int, block: str) -> None:
    """Its server says that it is at the tip while it is stopped, and for seconds after a reorganisation."""
    last = {"result": {"block_index": ledger, "block_hash": "00" * 31 + block}}
    first = [{"result": BEST, "id": 0}, {"result": {}, "id": 1}]
    answers = [first, {"result": {"height": TIP}}]
    with talking(in_turn(*map(saying, answers))) as (url, _), listening_node({"blocks/last": last}) as (chain, _):
        both = NodeChain(chain._rest.url, TESTNET, patience=0, bitcoin=BitcoinNode(url))
        with pytest.raises(NodeBehind) as caught:
            both.view(Query())
    assert caught.value.data == {"ledger": ledger, "chain": TIP}


def test_an_outage_behind_a_node_is_told_as_one_and_never_as_a_refusal() -> None:
    away = {"error": "Error broadcasting transaction: Error calling sendrawtransaction: refused", "status": 503}
    with listening_node({"bitcoin/transactions": away}) as (chain, _), pytest.raises(NodeUnreachable):
        chain.broadcast(NEW_RAW)
    for path in (UTXOS, HISTORY):
        electrs = {"error": "Electrs server not configured", "status": 400}
        with listening_node({path: electrs}) as (chain, _), pytest.raises(NodeUnreachable):
            chain.view(QUERY)
