"""A token pays once for a wallet, whatever happens to its payments, in whatever order."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from client_support import SILENT, Life
from hypothesis import given
from hypothesis import strategies as st
from regtest_support import NodeProcess

from picopayments_cli import api
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.payment_request import Requested
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, PROPOSED
from picopayments_cli.channel.values import HANDLE_SIZE, Handle, Quantity, Token
from picopayments_cli.channel.wire import Payment, RefusedPayment
from picopayments_cli.client.connection import Connection, Pending
from picopayments_cli.client.history import Event, events_of, refused, synced, told
from picopayments_cli.client.store import Store
from picopayments_cli.client.tokens import QUEUED, REFUSED, SENT, UNANSWERED, standing
from picopayments_cli.errors import (
    HubUnreachable,
    NotTransferable,
    PaymentExceedsReceivable,
    StoreDamaged,
    SyncIncomplete,
    TokenInUse,
)

ONE, TWO = Handle(b"\1" * 32), Handle(b"\2" * 32)
TOKEN, OTHER = Token(b"token"), Token(b"other")
PAYEE = Handle(b"\3" * 32)
PAYMENT = Payment(PAYEE, Quantity(5), TOKEN)
BODY = {"sends": [{"token": TOKEN.hex()}]}


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory, node: NodeProcess) -> Iterator[Connection]:
    """An open connection that has paid nothing."""
    made = Life(tmp_path_factory.mktemp("blank") / "client", node, Key(bytes(31) + b"\7"))
    made.open()
    yield made.connection
    made.session.close()


def with_payments(
    blank: Connection, *queued: Payment, pending: tuple[Payment, ...] = (), stage: str = AGREED
) -> Connection:
    """Connection ONE with payments that are queued, or in a sync."""
    waits = Pending((BODY,), pending) if pending else None
    return replace(blank, handle=ONE, queue=queued, pending=waits, stage=stage)


def paid(payment: Payment, handle: Handle = ONE) -> list[Event]:
    return events_of(handle, synced([payment], (), 1, ()), 0)


# Each place where a payment may stand -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [PROPOSED, AGREED, CLOSING, CLOSED])
def test_a_payment_that_is_queued_holds_its_token_until_the_connection_closes(blank: Connection, stage: str) -> None:
    found = standing(ONE, PAYMENT, [with_payments(blank, PAYMENT, stage=stage)], [])
    assert found == (QUEUED if stage in (PROPOSED, AGREED) else None)


@pytest.mark.parametrize("stage", [AGREED, CLOSING, CLOSED])
def test_a_payment_that_left_holds_its_token_whatever_becomes_of_the_connection(blank: Connection, stage: str) -> None:
    assert standing(ONE, PAYMENT, [with_payments(blank, pending=(PAYMENT,), stage=stage)], []) == UNANSWERED
    assert standing(ONE, PAYMENT, [with_payments(blank, stage=stage)], paid(PAYMENT)) == SENT
    assert standing(ONE, PAYMENT, [], paid(PAYMENT)) == SENT


def test_the_way_on_is_another_request_where_a_request_names_the_token() -> None:
    requested = replace(PAYMENT, amount=Quantity(6), expires=1)
    with pytest.raises(TokenInUse, match="ask the payee for another request"):
        standing(ONE, requested, [], paid(PAYMENT))
    with pytest.raises(TokenInUse, match="leave --token out for a new one"):
        standing(ONE, replace(requested, expires=None), [], paid(PAYMENT))


def test_what_the_original_client_had_queued_may_have_left() -> None:
    queued: Event = {"handle": ONE.hex(), "action": "queued", **told(PAYMENT)}
    assert standing(ONE, PAYMENT, [], [queued]) == UNANSWERED
    assert standing(ONE, PAYMENT, [], [queued, *paid(PAYMENT)]) == SENT
    with pytest.raises(TokenInUse):
        standing(TWO, PAYMENT, [], [queued])


def test_a_refused_payment_is_free_once_no_sync_holds_it(blank: Connection) -> None:
    back = events_of(ONE, [refused(PAYMENT, "AssetMismatch")], 0)
    assert standing(ONE, PAYMENT, [with_payments(blank, pending=(PAYMENT,))], back) == UNANSWERED
    assert standing(ONE, PAYMENT, [with_payments(blank)], back) is None
    assert standing(ONE, PAYMENT, [with_payments(blank, PAYMENT)], back) == QUEUED
    assert standing(ONE, PAYMENT, [with_payments(blank)], [*back, *paid(PAYMENT)]) == SENT
    assert standing(ONE, PAYMENT, [with_payments(blank)], [*paid(PAYMENT), *back]) == SENT


@pytest.mark.parametrize("stage", [AGREED, CLOSING, CLOSED])
def test_a_refused_payment_holds_its_token_until_its_amount_is_back(blank: Connection, stage: str) -> None:
    """A hub may say that it refuses what it delivers."""
    back = events_of(ONE, [refused(PAYMENT, "AssetMismatch")], 0)
    owing = replace(with_payments(blank, stage=stage), owed=1)
    other = replace(blank, handle=TWO)
    assert standing(ONE, PAYMENT, [owing, other], back) == REFUSED
    with pytest.raises(TokenInUse):
        standing(TWO, PAYMENT, [owing, other], back)
    assert standing(ONE, PAYMENT, [with_payments(blank), replace(other, owed=1)], back) is None
    assert standing(ONE, PAYMENT, [owing], [*back, *paid(PAYMENT)]) == SENT
    assert standing(ONE, PAYMENT, [replace(owing, queue=(PAYMENT,), stage=AGREED)], back) == QUEUED


@pytest.mark.parametrize("place", ["queue", "pending", "history"])
@pytest.mark.parametrize(
    ("source", "payment"),
    [
        (TWO, PAYMENT),
        (ONE, replace(PAYMENT, payee=TWO)),
        (ONE, replace(PAYMENT, payee=None)),
        (ONE, replace(PAYMENT, amount=Quantity(6))),
    ],
)
def test_with_another_field_it_is_another_payment(
    blank: Connection, place: str, source: Handle, payment: Payment
) -> None:
    connections = {
        "queue": [with_payments(blank, PAYMENT)],
        "pending": [with_payments(blank, pending=(PAYMENT,))],
        "history": [],
    }
    events = paid(PAYMENT) if place == "history" else []
    with pytest.raises(TokenInUse) as found:
        standing(source, payment, connections[place], events)
    assert found.value.data == {
        "token": TOKEN.hex(), "quantity": 5, "handle": ONE.hex(), "payee_handle": PAYEE.hex(),
    }  # fmt: skip
    assert standing(source, replace(payment, token=OTHER), connections[place], events) is None


def test_a_received_payment_holds_no_token(blank: Connection) -> None:
    """Others choose the tokens of what they pay: they must not keep this wallet from paying."""
    event = {"action": "received", "payer_handle": PAYEE.hex(), "amount": 5, "token": TOKEN.hex()}
    assert standing(ONE, PAYMENT, [with_payments(blank)], events_of(ONE, [event], 0)) is None


# Whatever happens ---------------------------------------------------------------------------------------------------


class Wallet:
    """Two connections, and the hub's word on each payment that has reached it."""

    def __init__(self, blank: Connection) -> None:
        self.connections = {handle: replace(blank, handle=handle) for handle in (ONE, TWO)}
        self.events: list[Event] = []
        self.taken: list[tuple[Handle, Payment]] = []
        self.lied_to: set[Handle] = set()

    def queue(self, handle: Handle, payment: Payment) -> None:
        """As the command does, where the connection still takes payments."""
        item = self.connections[handle]
        try:
            free = standing(handle, payment, self.connections.values(), self.events) is None
        except TokenInUse:
            return
        if free and item.stage == AGREED:
            self.connections[handle] = replace(item, queue=(*item.queue, payment))

    def cancel(self, handle: Handle) -> None:
        self.connections[handle] = replace(self.connections[handle], queue=())

    def send(self, handle: Handle) -> None:
        """A sync is on disk."""
        item = self.connections[handle]
        if item.stage == AGREED and item.pending is None:
            self.connections[handle] = replace(item, queue=(), pending=Pending((BODY,), item.queue))

    def reach(self, handle: Handle, takes: bool) -> None:
        """The hub answers: it takes the payments or refuses them."""
        pending = self.connections[handle].pending
        if pending is None:
            return
        refusals = [] if takes else [RefusedPayment(item.token, "UnknownHandle") for item in pending.payments]
        self.taken += [(handle, item) for item in pending.payments if takes]
        self.events += events_of(handle, synced(pending.payments, refusals, 1, ()), len(self.events))
        owed = self.connections[handle].owed + sum(item.amount for item in pending.payments if not takes)
        self.connections[handle] = replace(self.connections[handle], pending=None, owed=owed)

    def lie(self, handle: Handle) -> None:
        """The hub answers that it refuses what it delivers."""
        pending = self.connections[handle].pending
        if pending is not None and pending.payments:
            self.taken += [(handle, item) for item in pending.payments]
            self.lied_to.add(handle)
        self.reach(handle, takes=False)

    def come_back(self, handle: Handle) -> None:
        """The hub pays what it owes, unless it would pay for what it delivered."""
        if handle not in self.lied_to:
            self.connections[handle] = replace(self.connections[handle], owed=0)

    def repair(self, handle: Handle) -> None:
        """The hub refuses the payments; the same sync without them is not answered yet."""
        pending = self.connections[handle].pending
        if pending is not None:
            back = [refused(item, "AssetMismatch") for item in pending.payments]
            self.events += events_of(handle, back, len(self.events))

    def close(self, handle: Handle) -> None:
        self.connections[handle] = replace(self.connections[handle], stage=CLOSING)


PAYMENTS = st.builds(
    Payment,
    st.sampled_from([PAYEE, None]),
    st.sampled_from([Quantity(5), Quantity(6)]),
    st.sampled_from([TOKEN, OTHER]),
)
STEPS = st.one_of(
    st.tuples(st.just("queue"), st.sampled_from([ONE, TWO]), PAYMENTS),
    st.tuples(st.sampled_from(["cancel", "send", "repair", "close", "lie", "come_back"]), st.sampled_from([ONE, TWO])),
    st.tuples(st.just("reach"), st.sampled_from([ONE, TWO]), st.booleans()),
)


@given(st.lists(STEPS, max_size=30))
def test_whatever_happens_a_token_pays_once_and_what_never_paid_is_free(
    blank: Connection, steps: list[tuple[object, ...]]
) -> None:
    wallet = Wallet(blank)
    for name, *rest in steps:
        getattr(wallet, str(name))(*rest)
        tokens = [payment.token for _, payment in wallet.taken]
        assert len(tokens) == len({*tokens})
    for handle in (ONE, TWO):
        wallet.reach(handle, takes=False)
        wallet.cancel(handle)
        wallet.come_back(handle)
    for handle, payment in wallet.taken:
        assert standing(handle, payment, wallet.connections.values(), wallet.events) in (SENT, REFUSED)
    if wallet.lied_to:
        return
    for token in {TOKEN, OTHER} - {payment.token for _, payment in wallet.taken}:
        free = replace(PAYMENT, token=token)
        assert standing(TWO, free, wallet.connections.values(), wallet.events) is None


# As the files tell it -----------------------------------------------------------------------------------------------


@pytest.fixture
def story(it: Life) -> Life:
    it.open()
    it.restart()
    return it


def sync(it: Life) -> None:
    """What one command does, whatever comes of it."""
    it.restart()
    with suppress(HubUnreachable, PaymentExceedsReceivable, SyncIncomplete):
        api.sync(it.session)


def pay(it: Life, amount: int = 100) -> bool:
    """Run the payer's script; whether it queued the payment."""
    before = it.files()
    assert api.queuepayment(it.session, it.handle, "00" * HANDLE_SIZE, amount, TOKEN.hex()) == TOKEN.hex()
    return it.files() != before


@pytest.mark.parametrize("door", ["save sync prepared", "call mph_sync", "save sync settled"])
def test_a_process_that_is_killed_pays_once(story: Life, door: str) -> None:
    assert pay(story)
    story.killed_at(door, lambda: api.sync(story.session))
    assert not pay(story)
    sync(story)
    assert not pay(story)
    sync(story)
    assert [event["action"] for event in story.told()].count("sent") == 1
    assert len(story.connection.queue) == 0


def test_a_repaired_sync_without_an_answer_may_still_have_paid(story: Life) -> None:
    """The hub may have taken the first version: the payment counts as refused once the second is answered."""
    assert pay(story)
    honest, told = story.hub.call, [PaymentExceedsReceivable("Not these."), SILENT]

    def call(method: str, params: object, **more: bool) -> object:
        if method == "mph_sync" and told:
            raise told.pop(0)
        return honest(method, params, **more)  # type: ignore[arg-type]

    story.hub.call = call  # type: ignore[method-assign]
    sync(story)
    assert [event["action"] for event in story.told()][2:] == []
    assert not pay(story)
    sync(story)
    assert [event["action"] for event in story.told()][2:] == ["refused", "fee"]
    assert pay(story)
    sync(story)
    assert not pay(story)


def test_a_hub_that_refuses_and_keeps_the_amount_is_not_paid_again(story: Life) -> None:
    assert pay(story)
    token = story.connection.queue[0].token
    story.hub.refusing = {token}
    story.hub.due -= 100
    sync(story)
    assert story.connection.owed == 100
    for _ in range(3):
        assert not pay(story)
        sync(story)
    story.hub.refusing.clear()
    story.hub.due += 100
    sync(story)
    sync(story)
    assert story.connection.owed == 0
    assert pay(story)
    sync(story)
    sync(story)
    assert not pay(story)


def test_a_payment_that_can_not_be_moved_is_refused_and_changes_nothing(story: Life) -> None:
    before = story.files()
    with pytest.raises(NotTransferable):
        pay(story, 10_000)
    assert story.files() == before


def test_a_history_that_can_not_be_read_pays_nothing(story: Life) -> None:
    """Nobody knows what was paid."""
    assert pay(story)
    sync(story)
    sync(story)
    path = story.session.store.history_path
    whole = path.read_bytes()
    for damage in (whole.replace(b"{", b"["), whole[:20] + b"\n" + whole, bytes(9) + b"\n" + whole):
        path.write_bytes(damage)
        with pytest.raises(StoreDamaged, match="line 1"):
            pay(story)


def test_a_payment_whose_token_is_drawn_is_new_whatever_can_not_be_read(story: Life) -> None:
    assert pay(story)
    handle, store = story.handle, story.session.store
    for path in (store.history_path, store.archived.path / f"{TWO.hex()}.json", store.folder / f"{TWO.hex()}.json"):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text("nonsense\n")
        with pytest.raises(StoreDamaged, match=str(path)):
            api.queuepayment(story.session, handle, "00" * HANDLE_SIZE, 5, "ab")
        api.queuepayment(story.session, handle, "00" * HANDLE_SIZE, 5)
        path.unlink()
    assert len(story.connection.queue) == 4


def test_an_archive_that_can_not_be_read_pays_nothing(story: Life) -> None:
    folder = story.session.store.archived.path
    folder.mkdir(mode=0o700)
    path = folder / f"{TWO.hex()}.json"
    document = json.loads((story.session.store.folder / f"{story.handle}.json").read_text())
    for damage in ("", "{}", json.dumps({**document, "pending": 5})):
        path.write_text(damage)
        with pytest.raises(StoreDamaged, match=str(path)):
            pay(story)


# The history's file -------------------------------------------------------------------------------------------------


def test_only_the_lines_about_a_token_are_read(tmp_path: Path) -> None:
    with Store(tmp_path, NETWORKS["regtest"]) as store:
        for number in range(5):
            store.save(ONE, {}, "test", [{"action": "sent", "token": f"0{number}"}])
        for number in range(5):
            found = {event["token"] for event in store.history(about=f'"0{number}"')}
            assert found == {f"0{number}", "04"}  # the last is in the document yet
        assert len(store.history()) == 5
        with store.history_path.open("ab") as file:
            file.write(os.urandom(8).hex().encode() + b"\n")
        with pytest.raises(StoreDamaged, match="line 5"):
            store.history(about='"00"')


def test_a_token_of_an_own_request_pays_nobody_else(blank: Connection) -> None:
    """Whoever copies it gets the payment back from its payee as one of the request, and a receipt for it."""
    asked = Requested(PAYMENT.token, b"salt", Quantity(5), 0)
    own = replace(blank, handle=TWO, requests=(asked,))
    with pytest.raises(TokenInUse, match="a payment request of your own"):
        standing(ONE, PAYMENT, [own], [])
    assert standing(ONE, replace(PAYMENT, payee=TWO), [own], []) is None
