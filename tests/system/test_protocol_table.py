"""docs/protocol.rst as a promise: its scripts, transactions, numbers, messages, refusals, and what a sync costs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from channel.test_messages import EXAMPLES
from channel_support import (
    ASSET,
    CONTRACT,
    DEPOSIT,
    ONE,
    PAYEE,
    PAYER,
    anchor_of,
    compose_expire,
    compose_revoke,
    purse,
)
from client_support import DELAY, Life
from exchange_support import prepare, serve, settle, two_parties
from regtest_support import NodeProcess, running_node

from picopayments_cli import errors
from picopayments_cli.channel import (
    deadlines,
    drafts,
    fees,
    kept,
    messages,
    rates,
    receipts,
    state,
    terms,
    transactions,
    waiting,
)
from picopayments_cli.channel.counterparty import data_script, pack_send
from picopayments_cli.channel.drafts import Draft
from picopayments_cli.channel.keys import NUMS, Key
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.scripts import P2A
from picopayments_cli.channel.values import MAX_QUANTITY
from picopayments_cli.channel.wire import MOST_UNKNOWN, PROTOCOL
from picopayments_cli.client import closing, funds, state_from_hub
from picopayments_cli.hub import arrivals, exchange, hub, methods, promises
from picopayments_cli.hub.waiting import MOST_BYTES

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "protocol.rst").read_text(encoding="utf-8")
SOURCES = {
    path: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "picopayments_cli").rglob("*.py"))
    if path.name != "errors.py"
}


def cells(*titles: str) -> list[list[str]]:
    """The rows of the simple table with these columns; a row without a first cell goes on with the one before."""
    lines = DOCUMENT.splitlines()
    top = next(n for n, line in enumerate(lines) if re.split(r" {2,}| (?=by|vB|seq)", line.strip()) == list(titles))
    ends = [(found.start(), found.end()) for found in re.finditer("=+", lines[top - 1])]
    ends[-1] = (ends[-1][0], 200)
    found: list[list[str]] = []
    for line in lines[top + 2 :]:
        if line.startswith("==="):
            break
        row = [line[begin:end].strip() for begin, end in ends]
        if row[0]:
            found.append(row)
        else:
            found[-1] = [" ".join(filter(None, pair)) for pair in zip(found[-1], row, strict=True)]
    return found


# Scripts ------------------------------------------------------------------------------------------------------------


def test_the_scripts_of_the_document_are_byte_for_byte_those_of_the_code() -> None:
    commit = CONTRACT.commit_script(ONE)
    scripts = {"both": DEPOSIT.both.script, "expire": DEPOSIT.expire.script, "revoke": commit.revoke.script}
    assert commit.both.script == DEPOSIT.both.script
    block = re.search(r"Byte for byte.*?::\n\n((?: +\w+ +[0-9a-z<> ]+\n)+)", DOCUMENT)
    assert block is not None
    words = {"payer": PAYER.xonly.data, "payee": PAYEE.xonly.data, "hash": ONE}
    shown = {}
    for line in block[1].splitlines():
        name, *parts = line.split()
        shown[name] = "".join(parts)
        for word, data in words.items():
            shown[name] = shown[name].replace(f"<{word}>", data.hex())
    assert shown == {name: script.hex() for name, script in scripts.items()}
    assert f"``{NUMS}``" in DOCUMENT
    assert f"``{P2A.hex()}``" in DOCUMENT


# Transactions -------------------------------------------------------------------------------------------------------


def compositions() -> dict[str, Draft]:
    """Every transaction of a channel, at 1 sat/vB and with the least anchor."""
    anchor = anchor_of(CONTRACT)
    commit = transactions.compose_commit(CONTRACT, anchor, 300, ONE)
    ended = transactions.compose_close(CONTRACT, anchor, 300)
    return {
        "deposit": transactions.compose_deposit(CONTRACT, purse([100_000])),
        "commit": commit,
        "payout": transactions.compose_payout(CONTRACT, commit, ONE),
        "remainder": transactions.compose_remainder(CONTRACT, commit),
        "revoke": compose_revoke(CONTRACT, commit.coin(0), ONE, ASSET, purse()),
        "expire": compose_expire(CONTRACT, [anchor], ASSET, purse()),
        "close": ended,
        "rest": transactions.compose_rest(CONTRACT, ended),
        "close of nothing": transactions.compose_close(CONTRACT, anchor, 0),
        "close of all": transactions.compose_close(CONTRACT, anchor, CONTRACT.quantity),
    }


PLACES = {
    DEPOSIT.output: "deposit's address",
    CONTRACT.commit_script(ONE).output: "commit's address",
    CONTRACT.payer_wallet: "payer's wallet",
    CONTRACT.payee_wallet: "payee's wallet",
    P2A: "P2A",
}


def described(name: str, draft: Draft) -> list[str]:
    """A transaction as the table shows it."""
    sequence = {drafts.REPLACEABLE: "fffffffd", CONTRACT.delay: "delay"}.get(draft.inputs[0].sequence, "1")
    outputs = []
    for number, out in enumerate(draft.outputs):
        change = name == "deposit" and number == 2
        message = number == 1
        value = "change" if change else "message" if message else str(out.value)
        outputs.append(f"{value} {_message(draft) if message else PLACES[out.script]}")
    return [name, str(draft.version), sequence, str(draft.size), ", ".join(outputs)]


def _message(draft: Draft) -> str:
    """The word of the quantity in a transaction's message."""
    first, script = draft.inputs[0].coin.outpoint, draft.outputs[1].script
    quantities = {"MAX": MAX_QUANTITY, "Q": CONTRACT.quantity, "q": 300}
    return next(w for w, q in quantities.items() if data_script(pack_send(ASSET, q), first.txid) == script)


def test_the_transactions_of_the_document_are_those_that_are_composed() -> None:
    titles = ("transaction", "version", "sequence", "vB", "outputs, in satoshis at 1 sat/vB")
    assert cells(*titles) == [described(name, draft) for name, draft in compositions().items()]


def test_the_sums_of_the_document_are_the_budgets() -> None:
    for rate in (1, 5, 50, 100):
        contract = replace(CONTRACT, rate=rate)
        anchor = anchor_of(contract, more=1000)
        value = {"r": Fraction(rate), "anchor": Fraction(anchor.value)}
        sums = re.findall(r"(?m)^    ([a-z', ]+[a-z]) +=  (.+)$", DOCUMENT.partition("Satoshis\n====")[2])
        for name, text in sums:
            known = {**value, "output": value.get("commit's output", Fraction(0)), "input": Fraction(10_000)}
            value[name] = _worth(text.replace("commit's output", "output").replace("their input", "input"), known)
        commit = transactions.compose_commit(contract, anchor, 300, ONE)
        ended = transactions.compose_close(contract, anchor, 300)
        assert value["commit's output"] == commit.outputs[0].value
        assert value["least anchor"] == contract.budget.anchor
        assert value["rest of a commit"] == commit.outputs[2].value
        assert value["rest of a close"] == ended.outputs[2].value
        assert 10_000 - value["payout, remainder, rest"] == contract.budget.payout_fee


def _worth(text: str, value: Mapping[str, Any]) -> Fraction:
    """The value of a sum as the document writes it: numbers, names, products by a blank."""
    return Fraction(eval(re.sub(r"(\d) (?=[r(])", r"\1 * ", text), {}, dict(value)))


# Numbers ------------------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_document_are_those_of_the_code() -> None:
    mainnet, regtest = NETWORKS["mainnet"], NETWORKS["regtest"]
    reserve = hub.Hub.reserve.fget(_HubOfBounds())  # type: ignore[attr-defined]
    numbers = {
        "protocol": PROTOCOL,
        "dust": drafts.DUST,
        "P2A output": transactions.P2A_VALUE,
        "least anchor at 5 sat/vB": transactions.Budget(5).anchor,
        "greatest size of a child": drafts.MAX_CHILD,
        "greatest commit rate": rates.MAX_AGREED,
        "commit rate of a payee with packages": rates.PACKAGE_MAX,
        "least delay": transactions.MIN_DELAY,
        "least delay on mainnet": deadlines.delay_min(mainnet),
        "default delay on mainnet": deadlines.default_delay(mainnet),
        "greatest delay": transactions.MAX_DELAY,
        "least expiry": mainnet.expire_min,
        "least expiry on regtest": regtest.expire_min,
        "greatest expiry": mainnet.expire_max,
        "blocks by which tips may differ": terms.TIP_SLACK,
        "safe depth": mainnet.safe_depth,
        "safe depth on regtest": regtest.safe_depth,
        "wire clearance": deadlines.WIRE_CLEARANCE,
        "least margin": deadlines.MIN_MARGIN,
        "greatest margin": deadlines.MAX_MARGIN,
        "patience": fees.PATIENCE,
        "times the ceiling at most": rates.RESCUE,
        "hashes kept": state.KEPT_REQUESTS,
        "most secrets in a message": state.MOST_REVOKED,
        "most payments in a message": messages.MOST_PAYMENTS,
        "most payments that wait for a connection": exchange.MOST_WAITING,
        "most bytes of the payments in a reply": exchange.MOST_LISTED_BYTES,
        "most connections in an answer of mph_key": messages.MOST_RECOVERED,
        "most bytes of a sealed state": kept.MOST_STATE,
        "most characters of a request that no member takes": MOST_UNKNOWN,
        "most commits in an answer of mph_state": kept.MOST_ROWS,
        "seconds by which clocks may differ": state_from_hub.CLOCK_SLACK,
        "most receipts in a message": receipts.MOST_RECEIPTS,
        "most connections in a request of mph_waiting": waiting.MOST_NAMED,
        "most bytes of its body": MOST_BYTES,
        "most seconds that it waits": waiting.MOST_SECONDS,
        "most that wait at a time": arrivals.MOST,
        "most of them from one address": arrivals.MOST_EACH,
        "most rounds of a close": closing._ROUNDS,
        "client's reserve to open": funds.WALLET_RESERVE,
        "coins in the hub's reserve": reserve.coins,
        "satoshis of each of them": reserve.each,
        "the hub's ceiling": hub.BOUNDS.ceiling,
        "seconds that the hub's view stays fresh": hub.FRESH_SECONDS,
        "forgotten after": methods.FORGOTTEN_AFTER,
        "blocks for a deposit": mainnet.deposit_blocks,
        "blocks for a deposit on testnet and testnet4": NETWORKS["testnet4"].deposit_blocks,
        "blocks for the lock fee": deadlines.FEE_BLOCKS,
        "most promises of a key": promises.MOST_OF_KEY,
        "most requests of all addresses": promises.MOST_REQUESTS,
        "most requests of an address": promises.MOST_OF_ADDRESS,
    }
    found = {name: int(number) for name, number in re.findall(r"^\* ([^:\n]+): (\d+)$", DOCUMENT, re.MULTILINE)}
    assert found == numbers


class _HubOfBounds:
    """As much of a hub as its reserve follows of."""

    bounds = hub.BOUNDS
    delay = 2 * NETWORKS["mainnet"].safe_depth
    reserve_of = hub.Hub.reserve_of


# Messages -----------------------------------------------------------------------------------------------------------

NAMES = {
    messages.KeyRequest: "mph_key request",
    messages.KeyReply: "mph_key result",
    messages.ConnectRequest: "mph_request request",
    messages.ConnectReply: "mph_request result",
    messages.DepositRequest: "mph_deposit request",
    messages.DepositReply: "mph_deposit result",
    messages.SyncRequest: "mph_sync request",
    messages.SyncReply: "mph_sync result",
    messages.CloseRequest: "mph_close request",
    messages.CloseReply: "mph_close result",
    kept.StateRequest: "mph_state request",
    kept.StateReply: "mph_state result",
    receipts.ReceiptsRequest: "mph_receipts request",
    receipts.ReceiptsReply: "mph_receipts result",
    waiting.WaitingRequest: "mph_waiting request",
    waiting.WaitingReply: "mph_waiting result",
}
LISTS = ("connections", "signed", "held", "sends", "receive", "refused", "given", "receipts", "waiting")
ITEMS = {
    **dict.fromkeys(("client", "hub"), "client, hub"),
    **dict.fromkeys(("c2h", "h2c"), "c2h, h2c"),
    **dict.fromkeys(("c2h_close", "h2c_close"), "c2h_close, h2c_close"),
    **{name: name for name in ("channel_terms", "commit", "count", "remainder")},
    **{name: f"item of {name}" for name in LISTS},
    "held": "commit",
}
WHOLE = ("asked", "answered")  # messages inside others


def spoken() -> dict[str, set[frozenset[str]]]:
    """By the name of each message and item the members that it was seen with."""
    seen: dict[str, set[frozenset[str]]] = {}

    def note(name: str, body: Mapping[str, Any]) -> None:
        seen.setdefault(name, set()).add(frozenset(body))
        for member, value in body.items():
            inside = value if member in LISTS else [] if member in WHOLE else [value]
            for item in inside:
                if isinstance(item, dict):
                    note(ITEMS[member], item)

    for example in EXAMPLES:
        if type(example) in NAMES:
            note(NAMES[type(example)], json.loads(json.dumps(example.as_json())))
    return seen


def test_the_members_of_the_document_are_those_of_the_messages() -> None:
    table = {name: {frozenset(members.split(", "))} for name, members in cells("message or item", "members")}
    assert table == spoken()


# Refusals -----------------------------------------------------------------------------------------------------------


def named_in(sources: Mapping[Path, str]) -> set[str]:
    """The errors that these modules name beside their imports."""
    imports, docstrings = r"from picopayments_cli\.errors import (\(.*?\)|[^\n]*)", r'"""(.*?)"""'
    text = re.sub(f"(?s){imports}|{docstrings}", "", "\n".join(sources.values()))
    known = {name for name, item in vars(errors).items() if isinstance(item, type)}
    return known & set(re.findall(r"\b[A-Z]\w+\b", text))


def refusals() -> set[str]:
    """The refusals that the document names."""
    found = [name for name, _, _ in cells("refusal", "by", "unless")]
    assert len(found) == len(set(found))
    return {name.strip("`") for name in found}


def test_the_refusals_of_the_document_are_made_by_the_program() -> None:
    assert refusals() <= named_in(SOURCES)


def test_no_check_of_a_peer_is_missing_in_the_document() -> None:
    checks = {name for name in named_in(SOURCES) if issubclass(getattr(errors, name), errors.PeerMisbehaved)}
    assert checks - {"PeerMisbehaved"} <= refusals()


def test_every_error_that_the_document_names_exists() -> None:
    named = set(re.findall(r"``([A-Z][a-z]+[A-Z]\w+)``", DOCUMENT))
    assert len(named) > 20
    for name in named:
        assert issubclass(getattr(errors, name), errors.PicopaymentsError), name


# The cost of a sync -------------------------------------------------------------------------------------------------


def promised(text: str) -> list[int]:
    """The numbers in a sentence of the document."""
    found = re.search(text, " ".join(DOCUMENT.split()))
    assert found is not None, text
    return [int(number.replace(",", "")) for number in found.groups()]


def test_a_sync_is_as_large_as_the_document_says() -> None:
    client, hub_side = two_parties()
    sizes = []
    for number in range(40):
        body = prepare(client, 10 + number % 7).as_json()
        hub_side.due += 10 + 3 * number % 7
        answer = serve(hub_side, messages.SyncRequest.parse(body), sha256(b"asked").digest()).as_json()
        settle(client, messages.SyncReply.parse(answer))
        sizes.append((len(json.dumps(body)), len(json.dumps(answer))))
    most = [max(column) for column in zip(*sizes, strict=True)]
    told = promised(r"at most about ([\d,]+) bytes of request and ([\d,]+) of result")
    for size, said in zip(most, told, strict=True):
        assert abs(size - said) < said / 20


# The client ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with running_node(tmp_path_factory.mktemp("chain") / "node", 0) as running:
        yield running


@pytest.fixture
def it(tmp_path: Path, node: NodeProcess) -> Iterator[Life]:
    made = Life(tmp_path / "client", node, Key(sha256(str(tmp_path).encode()).digest()))
    made.doors.passed.clear()
    yield made
    made.session.close()


def sync(it: Life) -> None:
    it.open()


def refused(it: Life) -> None:
    it.open()
    it.hub.refuses, it.hub.forgives = errors.PaymentExceedsReceivable("Too much."), True
    it.pay(5)


def cheated(it: Life) -> None:
    it.open()
    it.pay(300)
    it.receive(250)
    it.hub.publish(max(it.hub.received, key=lambda commit: commit.quantity))
    it.hub.silent = True
    it.sync()


def closed(it: Life) -> None:
    it.open()
    it.pay(30)
    it.receive(100)
    it.close()


def close_mined(it: Life) -> None:
    closed(it)
    it.mine()
    it.sync()


def all_home(it: Life) -> None:
    close_mined(it)
    it.mine()
    it.sync()


def closed_alone(it: Life) -> None:
    it.open()
    it.receive(100)
    it.hub.silent = True
    it.close()


def ripe(it: Life) -> None:
    closed_alone(it)
    it.mine(DELAY + 1)
    it.sync()


def expired(it: Life) -> None:
    ripe(it)
    it.until(it.connection.expiry.height)
    it.sync()


STATES = {
    "connect": Life.connect,
    "sync": sync,
    "sync, payments refused": refused,
    "sync, a cheat published": cheated,
    "close": closed,
    "sync, the close mined": close_mined,
    "sync, all home": all_home,
    "close, the hub silent": closed_alone,
    "sync, the delay over": ripe,
    "sync, the expiry reached": expired,
}


@pytest.mark.parametrize("state", STATES)
def test_a_command_goes_through_the_doors_of_the_document(state: str, it: Life) -> None:
    STATES[state](it)
    passed = [door for door in it.doors.passed if door.startswith(("save ", "call ", "broadcast "))]
    assert dict(cells("command", "doors of the client"))[state] == ", ".join(passed)


def test_every_command_of_the_document_is_tried() -> None:
    assert [name for name, _ in cells("command", "doors of the client")] == list(STATES)


def test_a_connections_file_grows_as_the_document_says(it: Life) -> None:
    it.open()
    (rows,) = it.session.store.folder.glob("*.commits.jsonl")
    sizes = []
    for number in range(10):
        it.hub.to_pay = [3]
        it.pay(5, b"token %d" % number)
        sizes.append(rows.stat().st_size)
    grown = (sizes[-1] - sizes[1]) / 8
    (said,) = promised(r"one that moves something both ways adds about ([\d,]+) bytes")
    assert abs(grown - said) < said / 20
