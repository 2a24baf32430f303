"""docs/protocol.rst as a promise: the doors that `sync` goes through in every state, and the numbers it names.

Connections are brought into each state by the client's own functions, on real files; what stands outside the doors is
in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memory_life_support import DELAY, QUANTITY, SILENT, XCP, LifeInMemory
from memory_support import REGTEST

from picopayments_cli import api, errors
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.values import Hash, Pubkey
from picopayments_cli.channel2 import messages, recovery, state, terms, transactions
from picopayments_cli.channel2.deadlines import (
    FINAL_DEPTH,
    MAX_MARGIN,
    MIN_MARGIN,
    WATCHED_REVOKED,
    WIRE_CLEARANCE,
    exposed,
)
from picopayments_cli.channel2.scripts import CommitScript, DepositScript, wallet_unlock
from picopayments_cli.channel2.transactions import Purse
from picopayments_cli.client2 import funds
from picopayments_cli.errors import PaymentExceedsReceivable, UnknownHandle
from picopayments_cli.hub import chores, methods

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.rst").read_text(encoding="utf-8")


STATES: dict[str, Callable[[LifeInMemory], object]] = {}


def story(name: str) -> Callable[[Callable[[LifeInMemory], object]], Callable[[LifeInMemory], object]]:
    """Names the state of the table that a function brings about."""

    def named(function: Callable[[LifeInMemory], object]) -> Callable[[LifeInMemory], object]:
        STATES[name] = function
        return function

    return named


# Opening ------------------------------------------------------------------------------------------------------------


@story("asked")
def asked(it: LifeInMemory) -> None:
    it.killed_at("call mph_request", it.connect)


@story("proposed")
def proposed(it: LifeInMemory) -> None:
    it.killed_at("save proposed", it.connect)


@story("agreed, deposit unseen")
def agreed(it: LifeInMemory) -> None:
    it.killed_at("save agreed", it.connect)


@story("agreed, deposit unconfirmed")
def unconfirmed(it: LifeInMemory) -> None:
    it.connect()


@story("agreed, the hub's deposit missing")
def unmatched(it: LifeInMemory) -> None:
    it.connect()
    it.chain.mine(3)


@story("agreed, the hub's deposit missing at the deadline")
def never_matched(it: LifeInMemory) -> None:
    unmatched(it)
    it.until(it.deadline)


# Open ---------------------------------------------------------------------------------------------------------------


@story("open, idle")
def idle(it: LifeInMemory) -> None:
    it.open()


@story("open, payments queued")
def queued(it: LifeInMemory) -> None:
    it.open()
    it.queue(100)


@story("open, a sync unanswered, nothing queued")
def unanswered(it: LifeInMemory) -> None:
    queued(it)
    it.hub.refuses = SILENT
    it.sync()
    it.hub.refuses = None


@story("open, a sync unanswered, payments queued")
def unanswered_and_queued(it: LifeInMemory) -> None:
    unanswered(it)
    it.queue(5)


@story("open, the hub does not answer")
def unreachable(it: LifeInMemory) -> None:
    queued(it)
    it.hub.refuses = SILENT


@story("open, a sync refused for its payments")
def refused(it: LifeInMemory) -> None:
    queued(it)
    answer = it.hub.call

    def choosy(method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        if params.get("sends"):
            raise PaymentExceedsReceivable("The payee can take nothing.")
        return answer(method, params, retry=retry)

    it.hub.call = choosy  # type: ignore[method-assign]


@story("open, the hub does not know the connection")
def forgotten(it: LifeInMemory) -> None:
    queued(it)
    it.hub.refuses = UnknownHandle("Which?")


@story("open, the chain does not know the deposit at the deadline")
def elsewhere(it: LifeInMemory) -> None:
    queued(it)
    it.until(it.deadline)
    it.chain.entries = []


@story("open, a coin on the address of a revoked commit")
def dusted(it: LifeInMemory) -> None:
    it.pay_and_get_back()
    sending = it.connection.duplex.sending
    (item,) = exposed(sending)
    it.chain.fund(sending.commit_script(item.revoke_hash).output, 2000)


@story("open, a coin on the address of the next commit")
def dirty(it: LifeInMemory) -> None:
    it.open()
    sending = it.connection.duplex.sending
    it.chain.fund(sending.commit_script(sending.requested[-1]).output, 600)


@story("open, the anchor of h2c spent")
def spent(it: LifeInMemory) -> None:
    it.open()
    channel = it.hub.duplex.sending
    secret = it.connection.secrets(it.session.wallet.key).spend
    purse = Purse(wallet_unlock(it.hub.key.pubkey, it.hub.script), (), 1)
    (draft,) = recovery.changes(channel, it.chain.facts(channel), secret, purse, 1)
    it.chain.broadcast(draft.signed(it.hub.key).serialize())


@story("open, the anchor of c2h spent by the hub's commit")
def hub_settles(it: LifeInMemory) -> None:
    queued(it)
    it.sync()
    it.hub.publish(it.hub.accepted[-1])


@story("open, the deadline reached, nothing received")
def deadline(it: LifeInMemory) -> None:
    it.open()
    it.until(it.deadline)


@story("open, the deadline reached, payments received")
def deadline_with_receipts(it: LifeInMemory) -> None:
    it.receive()
    it.until(it.deadline)


# Closing ------------------------------------------------------------------------------------------------------------


@story("closing, the hub not told")
def untold(it: LifeInMemory) -> None:
    it.open()
    it.killed_at("call mph_close", it.close)


@story("closing, a sync unanswered")
def closing_unanswered(it: LifeInMemory) -> None:
    it.open()
    it.close_silently()
    it.hub.refuses = None


@story("closing, a sync unanswered, the hub silent")
def closing_unanswered_and_silent(it: LifeInMemory) -> None:
    it.open()
    it.close_silently()


@story("closing, the hub silent")
def silent(it: LifeInMemory) -> None:
    untold(it)
    it.hub.refuses = SILENT


@story("closing, the hub told, and no secret given")
def told(it: LifeInMemory) -> None:
    untold(it)
    it.sync()


@story("closing, the hub's secret given")
def given(it: LifeInMemory) -> None:
    unmatched(it)
    it.killed_at("save hub told", it.close)


@story("closing, commit unconfirmed")
def commit_unconfirmed(it: LifeInMemory) -> None:
    it.receive()
    it.hub.reveals = False
    it.close()


@story("closing, commit lost from the mempool")
def commit_lost(it: LifeInMemory) -> None:
    commit_unconfirmed(it)
    it.chain.drop(bytes.fromhex(it.connection.published[0])[::-1])


@story("closing, commit confirmed, not ripe")
def commit_young(it: LifeInMemory) -> None:
    commit_unconfirmed(it)
    it.chain.mine(DELAY - 1)


@story("closing, commit ripe")
def commit_ripe(it: LifeInMemory) -> None:
    commit_unconfirmed(it)
    it.chain.mine(DELAY)


@story("closing, paid out")
def paid_out(it: LifeInMemory) -> None:
    commit_ripe(it)
    it.sync()
    it.chain.mine()


@story("closing, the hub's payout shows its secret")
def shown(it: LifeInMemory) -> None:
    told(it)
    it.hub.publish(it.hub.accepted[-1])
    it.chain.mine(DELAY)
    it.hub.pay_out()
    it.chain.mine()


@story("closing, a revoked commit published")
def cheated(it: LifeInMemory) -> None:
    it.pay_and_get_back()
    it.close_silently()
    it.hub.duplex = replace(it.hub.duplex, receiving=replace(it.hub.duplex.receiving, active=tuple(it.hub.accepted)))
    it.hub.publish(it.hub.accepted[-1])


@story("closing, the deposit expired")
def expired(it: LifeInMemory) -> None:
    silent(it)
    it.until(it.expiry)


@story("closing, a transaction that was to leave has left")
def left(it: LifeInMemory) -> None:
    given(it)
    it.killed_at("change is out", lambda: api.sync(it.session))


@story("closing, a transaction that was to leave has not left")
def leaving(it: LifeInMemory) -> None:
    given(it)
    it.killed_at("broadcast change", lambda: api.sync(it.session))


@story("closing, all taken back, not buried")
def taken_back(it: LifeInMemory) -> None:
    given(it)
    it.sync()


@story("closing, all taken back and buried")
def buried(it: LifeInMemory) -> None:
    taken_back(it)
    it.chain.mine()


@story("closing, the deposit lost with all that spent it")
def deposit_lost(it: LifeInMemory) -> None:
    taken_back(it)
    it.chain.entries = [item for item in it.chain.entries if item.txid not in _own(it)]


@story("closed")
def closed(it: LifeInMemory) -> None:
    buried(it)
    it.sync()


@story("closed, seven blocks deep")
def final(it: LifeInMemory) -> None:
    closed(it)
    it.chain.mine(FINAL_DEPTH)


@story("closed, then undone by a reorganisation")
def undone(it: LifeInMemory) -> None:
    closed(it)
    it.chain.entries = [item for item in it.chain.entries if item.txid not in _own(it)]


def _own(it: LifeInMemory) -> set[bytes]:
    """The txids of the deposit and of what was published after it."""
    published = {bytes.fromhex(txid)[::-1] for txid in it.connection.published}
    return {transactions.txid_of(it.connection.deposit_raw), *published}


# The walk -----------------------------------------------------------------------------------------------------------


def rows(title: str) -> list[list[str]]:
    """The cells of the document's table with that title, row by row, without its header."""
    found = re.search(
        rf"^\.\. list-table:: {title}.*?\n\n(.*?)\n\n(?=\S)", DOCUMENT + "\n\n.", re.MULTILINE | re.DOTALL
    )
    assert found is not None, title
    lines = ("\n" + found[1]).split("\n   * - ")[2:]
    return [[" ".join(cell.split()) for cell in line.split("\n     - ")] for line in lines]


def table() -> dict[str, list[str]]:
    """By the name of each state the doors that a sync goes through in it."""
    return {name: re.findall(r"``([^`]+)``", doors) for name, _, doors in rows("The steps of ``sync``")}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[LifeInMemory]:
    made = LifeInMemory(tmp_path)
    yield made
    made.session.close()


@pytest.mark.parametrize("name", sorted(table().keys() | STATES.keys()))
def test_sync_goes_through_the_doors_that_the_table_names(name: str, it: LifeInMemory) -> None:
    STATES[name](it)
    assert it.sync() == table()[name]


def test_whatever_the_state_all_comes_home(it: LifeInMemory) -> None:
    commit_ripe(it)
    it.hub.reveals = True
    for _ in range(3):
        it.sync()
        it.chain.mine()
    assert it.chain.held(it.session.wallet.script, XCP) == 299
    it.until(it.expiry)
    for _ in range(3):
        it.sync()
        it.chain.mine()
    assert it.connection.stage == "closed"
    assert it.sync() == []
    assert it.chain.held(it.session.wallet.script, XCP) == QUANTITY + 299


# The numbers --------------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_document_are_those_of_the_code() -> None:
    budget = transactions.Budget(5)
    numbers = {
        "dust": transactions.DUST,
        "commit size": transactions.COMMIT_SIZE,
        "payout size": transactions.PAYOUT_SIZE,
        "change size": transactions.CHANGE_SIZE,
        "greatest commit rate": transactions.MAX_COMMIT_RATE,
        "least commit rate": transactions.commit_rate(1),
        "commit fee at 5 sat/vB": budget.commit_fee,
        "commit output at 5 sat/vB": budget.commit_value,
        "anchor at 5 sat/vB": budget.anchor,
        "deposit at 5 sat/vB": budget.anchor + transactions.DUST,
        "greatest delay": terms.MAX_DELAY,
        "wire clearance": WIRE_CLEARANCE,
        "least margin": MIN_MARGIN,
        "greatest margin": MAX_MARGIN,
        "revoked commits watched": WATCHED_REVOKED,
        "hashes kept": state.KEPT_REQUESTS,
        "protocol": messages.PROTOCOL,
        "client's reserve": funds.WALLET_RESERVE,
        "hub's reserve": chores.WALLET_RESERVE,
        "forgotten after": methods.FORGOTTEN_AFTER,
        "safe depth": NETWORKS["mainnet"].safe_depth,
        "safe depth on regtest": REGTEST.safe_depth,
        "least expiry on regtest": REGTEST.expire_min,
        "greatest expiry": REGTEST.expire_max,
    }
    found = {name: int(number) for name, number in re.findall(r"^ \* ([^:\n]+): (\d+)", DOCUMENT, re.MULTILINE)}
    assert found == numbers


def test_the_checks_of_the_document_are_errors_of_the_program() -> None:
    checks = rows("Checks")
    assert len(checks) > 20
    for rule, when, refusal in checks:
        names = re.findall(r"``([^`]+)``", refusal)
        assert names, (rule, when)
        assert all(issubclass(getattr(errors, name), errors.PicopaymentsError) for name in names), names


PAYER, PAYEE, SPEND, REVOKE = Pubkey(b"\x02" * 33), Pubkey(b"\x03" * 33), Hash(b"\x04" * 20), Hash(b"\x05" * 20)


@pytest.mark.parametrize(
    ("title", "redeem"),
    [
        ("expiry 1024::", DepositScript(PAYER, PAYEE, SPEND, 1024).redeem),
        ("for 2)::", CommitScript(PAYER, PAYEE, SPEND, REVOKE, 2).redeem),
    ],
)
def test_the_scripts_of_the_document_are_byte_for_byte_those_of_the_code(title: str, redeem: bytes) -> None:
    shown_bytes = re.search(re.escape(title) + r"\n\n((?: +[0-9a-z<> ]+\n)+)", DOCUMENT)
    assert shown_bytes is not None
    text = "".join(shown_bytes[1].split())
    for name, data in (("payer", PAYER), ("payee", PAYEE), ("spendhash", SPEND), ("revokehash", REVOKE)):
        text = text.replace(f"<{name}>", data.hex())
    assert text == redeem.hex()
