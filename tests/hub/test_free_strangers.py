"""Strangers who agree on connections and deposit nothing, which costs them nothing; and payments of next to nothing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hub_support import Client, Desk, open_all, payment, running_desk
from sqlalchemy import event

from picopayments_cli.chain import Query
from picopayments_cli.channel.messages import MOST_PAYMENTS
from picopayments_cli.channel.values import MAX_TOKEN_SIZE, Quantity, Token
from picopayments_cli.channel.wire import Payment
from picopayments_cli.errors import PaymentExceedsReceivable
from picopayments_cli.hub import stale_database
from picopayments_cli.hub.exchange import MOST_LISTED_BYTES, MOST_WAITING, _check_place


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_desk(tmp_path) as found:
        yield found


def satoshis(desk: Desk) -> tuple[int, int]:
    """The number of the hub's coins, and their sum."""
    coins = desk.hub.chain.view(Query(coins=[desk.hub.address])).coins[desk.hub.address]
    return len(coins), sum(coin.value for coin in coins)


def test_promises_without_a_deposit_close_no_connection_and_burn_no_satoshis(desk: Desk) -> None:
    alice = Client(desk, "alice")
    alice.agree(26)
    open_all(desk, alice)
    for number in range(40):
        Client(desk, f"stranger {number}").agree(28, 1)
    before = satoshis(desk)
    desk.node.rpc("feerate", rate=90)
    desk.hub.read_rate()
    desk.mine(2)
    assert desk.account(alice.handle).stage == "open"  # the strangers expire later, and would all need their closes
    assert satoshis(desk) == before  # for cheats on what nobody deposited


def test_payments_of_one_unit_in_thousands_stop_nobodys_syncs_and_no_other_payer(desk: Desk) -> None:
    alice, bob, mallory = Client(desk, "alice"), Client(desk, "bob"), Client(desk, "mallory")
    open_all(desk, alice, bob, mallory)
    taken = []
    for _ in range(4):
        refused = mallory.sync(*(payment(alice.handle, 1) for _ in range(MOST_PAYMENTS))).refused
        taken.append(MOST_PAYMENTS - len(refused))
        assert {item.cause for item in refused} <= {"PaymentExceedsReceivable"}
    assert sum(taken) == MOST_WAITING // 2
    assert bob.sync(payment(alice.handle, 1)).refused == ()
    assert bob.sync(payment(alice.handle, 1)).refused == ()
    received = [len(alice.sync().receipts) for _ in range(4)]
    assert received == [MOST_PAYMENTS, MOST_PAYMENTS, MOST_WAITING // 2 - 2 * MOST_PAYMENTS + 2, 0]
    assert mallory.sync(payment(alice.handle, 1)).refused == ()


def test_long_tokens_come_in_replies_of_bounded_size(desk: Desk) -> None:
    alice, mallory = Client(desk, "alice"), Client(desk, "mallory")
    open_all(desk, alice, mallory)
    sent = [Payment(alice.handle, Quantity(1), Token(os.urandom(MAX_TOKEN_SIZE))) for _ in range(900)]
    mallory.sync(*sent)
    replies = [alice.sync() for _ in range(3)]
    assert all(len(json.dumps(reply.as_json()["receive"])) <= MOST_LISTED_BYTES for reply in replies)
    assert [item.token for reply in replies for item in reply.receipts] == [item.token for item in sent]


@pytest.mark.parametrize(
    ("others", "own", "refused"),
    [(0, 2499, False), (0, 2500, True), (2500, 1249, False), (2500, 1250, True), (4999, 0, False), (5000, 0, True)],
)
def test_a_payer_has_half_of_what_others_leave_and_one_place_at_least(others: int, own: int, refused: bool) -> None:
    with pytest.raises(PaymentExceedsReceivable) if refused else nullcontext():
        _check_place(others + own, own, payment(None, 1))


def test_promises_without_a_deposit_slow_down_neither_a_block_nor_the_next_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale_database, "NOTED_EVERY", math.inf)  # what is noted now and then is not counted
    count = [0]

    def counted(*_args: object) -> None:
        count[0] += 1

    def costs(number: int) -> tuple[int, int]:
        """The statements of agreeing on one connection, and of a block."""
        hand = Client(desk, f"stranger {number}")
        begun = count[0]
        hand.agree(quantity=1)
        agreed = count[0] - begun
        desk.node.rpc("generate", blocks=1)
        desk.rounds.once()
        return agreed, count[0] - begun - agreed

    desk.mine()
    event.listen(desk.database.engine, "before_cursor_execute", counted)
    costs(0)  # with what a first connection costs
    first = costs(1)
    for number in range(2, 20):
        Client(desk, f"stranger {number}").agree(quantity=1)
    assert costs(20) == first
    event.remove(desk.database.engine, "before_cursor_execute", counted)
