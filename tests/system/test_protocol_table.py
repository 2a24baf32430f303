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
from client_support import Life
from exchange_support import prepare, serve, settle, two_parties
from regtest_support import running_node

from picopayments_cli import errors
from picopayments_cli.channel import deadlines, drafts, fees, messages, rates, state, terms, transactions
from picopayments_cli.channel.counterparty import data_script, pack_send
from picopayments_cli.channel.drafts import Draft
from picopayments_cli.channel.keys import NUMS, Key
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.scripts import P2A
from picopayments_cli.channel.values import MAX_QUANTITY
from picopayments_cli.channel.wire import PROTOCOL
from picopayments_cli.client import closing, funds
from picopayments_cli.hub import chores, hub, methods

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "protocol.rst").read_text(encoding="utf-8")
SOURCES = {
    path.relative_to(ROOT): path.read_text(encoding="utf-8")
    for folder in ("channel", "client", "hub", "chain")
    for path in sorted((ROOT / "picopayments_cli" / folder).glob("*.py"))
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
    commit, ended = (make(CONTRACT, anchor, 300, *more) for make, *more in _BY_QUANTITY)
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


_BY_QUANTITY: tuple[tuple[Any, ...], ...] = ((transactions.compose_commit, ONE), (transactions.compose_close,))
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
            text = re.sub(r"commit's output", "output", text).replace("their input", "input")
            value[name] = _worth(text, {**value, "output": value.get("commit's output", Fraction(0)), "input": 10_000})
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
        "dust": transactions.DUST,
        "P2A output": transactions.P2A_VALUE,
        "commit size": transactions.COMMIT_SIZE,
        "payout, remainder and rest size": transactions.PAYOUT_SIZE,
        "close size": transactions.CLOSE_SIZE,
        "least anchor at 1 sat/vB": transactions.Budget(1).anchor,
        "least anchor at 5 sat/vB": transactions.Budget(5).anchor,
        "greatest size of a child": drafts.MAX_CHILD,
        "greatest commit rate": rates.MAX_AGREED,
        "commit rate of a payee with packages": rates.PACKAGE_MAX,
        "least delay": transactions.MIN_DELAY,
        "least delay on mainnet": deadlines.delay_min(mainnet),
        "default delay on mainnet": deadlines.default_delay(mainnet),
        "greatest delay": deadlines.MAX_DELAY,
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
        "most connections in an answer of mph_key": messages.MOST_RECOVERED,
        "most rounds of a close": closing._ROUNDS,
        "client's reserve to open": funds.WALLET_RESERVE,
        "coins in the hub's reserve": reserve.coins,
        "satoshis of each of them": reserve.each,
        "the hub's ceiling": hub.BOUNDS.ceiling,
        "seconds that the hub's view stays fresh": hub.FRESH_SECONDS,
        "forgotten after": methods.FORGOTTEN_AFTER,
        "unfunded for at most": chores.UNFUNDED_BLOCKS,
    }
    found = {name: int(number) for name, number in re.findall(r"^ \* ([^:\n]+): (\d+)$", DOCUMENT, re.MULTILINE)}
    assert found == numbers


class _HubOfBounds:
    """As much of a hub as its reserve follows of."""

    bounds = hub.BOUNDS


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
}
LISTS = ("connections", "sends", "receive", "refused")
ITEMS = {
    **{("client", "hub")[n]: "client, hub" for n in (0, 1)},
    **{("c2h", "h2c")[n]: "c2h, h2c" for n in (0, 1)},
    **{("c2h_close", "h2c_close")[n]: "c2h_close, h2c_close" for n in (0, 1)},
    **{name: name for name in ("channel_terms", "commit", "remainder")},
    **{name: f"item of {name}" for name in LISTS},
}


def spoken() -> dict[str, set[frozenset[str]]]:
    """By the name of each message and item the members that it was seen with."""
    seen: dict[str, set[frozenset[str]]] = {}

    def note(name: str, body: Mapping[str, Any]) -> None:
        seen.setdefault(name, set()).add(frozenset(body))
        for member, value in body.items():
            inside = value if member in LISTS else [value]
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
    text = "\n".join(
        re.sub(r"(?s)from picopayments_cli\.errors import (\(.*?\)|[^\n]*)", "", it) for it in sources.values()
    )
    known = {name for name, item in vars(errors).items() if isinstance(item, type)}
    return {name for name in re.findall(r"\b[A-Z]\w+\b", re.sub(r'"""(?s:.*?)"""', "", text)) if name in known}


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
    for name in set(re.findall(r"``([A-Z][a-z]+[A-Z]\w+)``", DOCUMENT)):
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
        told = serve(hub_side, messages.SyncRequest.parse(body), sha256(b"asked").digest()).as_json()
        settle(client, messages.SyncReply.parse(told))
        sizes.append((len(json.dumps(body)), len(json.dumps(told))))
    most = [max(column) for column in zip(*sizes, strict=True)]
    for size, said in zip(
        most, promised(r"at most about ([\d,]+) bytes of request and ([\d,]+) of result"), strict=True
    ):
        assert abs(size - said) < said / 20


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Life]:
    with running_node(tmp_path / "node", 0) as node:
        made = Life(tmp_path / "client", node, Key(sha256(b"hub").digest()))
        yield made
        made.session.close()


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
