"""The agreed close: who signs what, and for what; stale parties, cheats, and deposits that count later."""

from __future__ import annotations

from dataclasses import replace

import pytest
from channel_support import close_transaction, digest, finish_rest, hashed, kernel_accepts
from exchange_support import DEPOSIT, HANDLE, Side, answer, ask, close_all, judge, prepare, sync, two_parties

from picopayments_cli.channel import close, duplex
from picopayments_cli.channel.duplex import Half
from picopayments_cli.channel.halves import Commit, sign_close, sign_commit
from picopayments_cli.channel.standing import Standing
from picopayments_cli.channel.state import Changes, commit, give_remainder, known_anchor, newest_remainder
from picopayments_cli.channel.transactions import compose_close, compose_rest
from picopayments_cli.channel.values import Hash, Outpoint, Quantity
from picopayments_cli.channel.wire import Anchors, Figures
from picopayments_cli.errors import BadPayeeSignature, BadPayerSignature, CloseBeyondLimit


def paid(c2h: int = 300, h2c: int = 120) -> tuple[Side, Side]:
    """A client that holds a commit of so much, and has paid so much; in two steps each."""
    client, hub = two_parties()
    for part in (2, 1):
        sync(client, hub, c2h // 3 * part)
    sync(client, hub, 0, 0)
    sending = hub.now.sending
    hub.load(1, 0)
    # The hub pays by commits alone, as if it had nothing to give back.
    for part in (2, 1):
        half_of(hub, client, h2c // 3 * part)
    assert sending.moved == 0
    assert close.own_figures(client.now) == Figures(c2h, h2c)
    return client, hub


def half_of(payer: Side, payee: Side, amount: int) -> None:
    """A commit, and the remainder for it, without anything else."""
    payer.load(1, 0)
    payee.load(1, 0)
    payer.request(payee.hand_out())
    sending, made = commit(payer.now.sending, payer.now.sending.moved + amount, payer.secrets.payer)
    payer.keep(replace(payer.now, sending=sending), Changes(sending.active[-1:]))
    payee.keep(*duplex.accept(payee.now, duplex.Half(commit=made)))
    receiving, remainder = give_remainder(payee.now.receiving, payee.secrets.payee)
    payee.now = replace(payee.now, receiving=receiving)
    payer.keep(*duplex.accept(payer.now, duplex.Half(remainder)))


# Two that are fresh -------------------------------------------------------------------------------------------------


def test_one_exchange_closes_both_channels() -> None:
    client, hub = paid()
    request = ask(client, sign=True)
    reply, hubs = answer(hub, request)
    outcome = judge(client, request, reply)
    assert outcome.refused == hubs.refused == ()
    assert outcome.c2h is not None
    assert outcome.h2c is not None
    assert (outcome.c2h.closing.quantity, outcome.h2c.closing.quantity) == (300, 120)
    assert hubs.h2c == outcome.h2c  # the hub can publish its own channel's
    assert hubs.c2h is None
    assert client.now.close_signed
    assert hub.now.close_signed


@pytest.mark.parametrize("figures", [(0, 0), (0, 120), (300, 0), (DEPOSIT, 1), (1, DEPOSIT)])
def test_closes_and_rests_are_valid_for_the_kernel(figures: tuple[int, int]) -> None:
    client, hub = two_parties()
    for payer, payee, quantity in ((client, hub, figures[0]), (hub, client, figures[1])):
        if quantity:
            half_of(payer, payee, quantity)
    outcome = close_all(client, hub, sign=True, rounds=1)
    pairs = ((client.now.sending, outcome.c2h, client), (hub.now.sending, outcome.h2c, hub))
    for (sending, agreed, payer), quantity in zip(pairs, figures, strict=True):
        assert agreed is not None
        assert sending.anchor is not None
        draft = compose_close(sending.contract, sending.anchor, quantity)
        assert kernel_accepts(close_transaction(sending, agreed), draft)
        if 0 < quantity < DEPOSIT:
            raw = finish_rest(sending.contract, known_anchor(sending), agreed.closing, payer.secrets.payer)
            assert kernel_accepts(raw, compose_rest(sending.contract, draft))


def test_a_client_may_hand_its_signature_over_afterwards() -> None:
    client, hub = paid()
    request = ask(client, sign=True)
    reply, _ = answer(hub, request)
    outcome = judge(client, request, reply)
    _, hubs = answer(hub, close.handed_over(request, outcome))
    assert hubs.c2h == outcome.c2h
    wrong = replace(request, c2h_signature=bytes(64))
    assert isinstance(answer(hub, wrong)[1].refused[0], BadPayerSignature)
    assert close.handed_over(request, close.Outcome()) == request


# Limits -------------------------------------------------------------------------------------------------------------


def test_a_payee_signs_nothing_below_what_it_holds() -> None:
    client, _ = paid()
    with pytest.raises(CloseBeyondLimit):
        ask(client, sign=True, figures=Figures(300, 119))
    assert ask(client, sign=True, figures=Figures(300, 121)).h2c_close is not None


def test_a_payer_signs_nothing_above_what_it_paid() -> None:
    client, hub = paid()
    request = ask(client, sign=True)
    reply, _ = answer(hub, request)
    receiving = hub.now.receiving
    assert receiving.anchor is not None
    more = sign_close(receiving.contract, receiving.anchor, 301, hub.secrets.payee)
    asked = replace(request, figures=Figures(301, 120))
    told = replace(reply, figures=Figures(301, 120), c2h_close=more)
    outcome = judge(client, asked, told)
    assert outcome.c2h is None
    assert isinstance(outcome.refused[0], CloseBeyondLimit)
    less = sign_close(receiving.contract, receiving.anchor, 299, hub.secrets.payee)
    asked, told = replace(asked, figures=Figures(299, 120)), replace(told, figures=Figures(299, 120), c2h_close=less)
    assert judge(client, asked, told).c2h is not None


@pytest.mark.parametrize("figures", [Figures(299, 120), Figures(301, 120), Figures(300, 121), Figures(0, DEPOSIT)])
def test_a_hub_signs_only_its_own_figures(figures: Figures) -> None:
    client, hub = paid()
    reply, outcome = answer(hub, ask(client, sign=True, figures=figures))
    assert reply.figures == Figures(300, 120)
    assert (reply.c2h_close is None) == (figures.c2h != 300)
    assert (reply.h2c_signature is None) == (figures.h2c != 120)
    assert outcome.c2h is None


def test_a_hub_does_not_take_what_a_stale_client_signs_away() -> None:
    client, hub = paid()
    request = ask(client, sign=True)
    receiving = client.now.receiving
    assert receiving.anchor is not None
    less = sign_close(receiving.contract, receiving.anchor, 80, client.secrets.payee)
    reply, _ = answer(hub, replace(request, figures=Figures(300, 80), h2c_close=less))
    assert reply.h2c_signature is None
    assert reply.figures.h2c == 120


def test_figures_beyond_the_limits_are_not_asked_for() -> None:
    client, hub = paid()
    reply, _ = answer(hub, ask(client, sign=False))
    for said, wanted in [
        (Figures(300, 120), Figures(300, 120)),
        (Figures(299, 121), Figures(299, 121)),
        (Figures(301, 119), Figures(300, 120)),
        (Figures(0, DEPOSIT), Figures(0, DEPOSIT)),
        (Figures(0, DEPOSIT + 1), Figures(0, 120)),
    ]:
        assert close.next_figures(client.now, replace(reply, figures=said)) == wanted


# A hub that owes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owed", "figures"),
    [
        (1, Figures(299, 120)),
        (300, Figures(0, 120)),
        (400, Figures(0, 220)),
        (300 + DEPOSIT, Figures(0, DEPOSIT)),  # there is no more
    ],
)
def test_the_close_gives_back_all_that_the_hub_owes(owed: int, figures: Figures) -> None:
    client, hub = paid()
    outcome = close_all(client, hub, sign=False, owed=owed)
    assert outcome.refused == ()
    assert outcome.c2h is not None
    assert outcome.h2c is not None
    assert Figures(outcome.c2h.closing.quantity, outcome.h2c.closing.quantity) == figures
    for agreed, sending in ((outcome.c2h, client.now.sending), (outcome.h2c, hub.now.sending)):
        draft = compose_close(sending.contract, known_anchor(sending), agreed.closing.quantity)
        assert kernel_accepts(close_transaction(sending, agreed), draft)


def test_a_hub_whose_deposit_does_not_count_gives_back_no_more_than_it_received() -> None:
    _, hub = paid()
    hub.now = replace(hub.now, sending=replace(hub.now.sending, anchor=None))
    assert close.figures_of(hub.now, 400) == Figures(0, 120)
    assert close.most_owed(hub.now) == 300


# The payee signs first ----------------------------------------------------------------------------------------------


def test_no_payer_signs_before_the_payee() -> None:
    client, hub = paid()
    request = ask(client, sign=False)
    reply, outcome = answer(hub, request)
    assert reply.h2c_signature is None
    assert outcome.h2c is None
    assert judge(client, request, replace(reply, c2h_close=None)).c2h is None


def test_who_doubts_signs_nothing() -> None:
    client, hub = paid()
    doubtful = replace(client.stand(), doubts=(hashed("held"),))
    _, request = close.ask(client.now, HANDLE, close.own_figures(client.now), doubtful, client.secrets, sign=True)
    assert request.h2c_close is None
    request = ask(client, sign=True)
    assert request.standing.commit is not None
    lower = replace(request.standing.commit, quantity=Quantity(250))  # a payer that names less than it has signed
    reply, _ = answer(hub, replace(request, standing=replace(request.standing, commit=lower)))
    assert reply.standing.doubts
    assert reply.c2h_close is None
    stale, _ = answer(hub, replace(request, standing=replace(request.standing, commit=lower)), stale=True)
    assert stale.c2h_close is None


@pytest.mark.parametrize("broken", ["signature", "rest_signature", "no rest"])
def test_no_payer_signs_where_the_payees_close_or_rest_is_not_valid(broken: str) -> None:
    client, hub = paid()
    request = ask(client, sign=True)
    assert request.h2c_close is not None
    assert request.h2c_close.rest_signature is not None
    bad = {
        "signature": replace(request.h2c_close, signature=bytes(64)),
        "rest_signature": replace(request.h2c_close, rest_signature=bytes(64) + b"\x81"),
        "no rest": replace(request.h2c_close, rest_signature=None),
    }[broken]
    reply, outcome = answer(hub, replace(request, h2c_close=bad))
    assert reply.h2c_signature is None
    assert isinstance(outcome.refused[0], BadPayeeSignature)
    good, _ = answer(hub, request)
    assert good.c2h_close is not None
    assert good.c2h_close.rest_signature is not None
    worse = {
        "signature": replace(good.c2h_close, signature=bytes(64)),
        "rest_signature": replace(good.c2h_close, rest_signature=bytes(64) + b"\x81"),
        "no rest": replace(good.c2h_close, rest_signature=None),
    }[broken]
    judged = judge(client, request, replace(good, c2h_close=worse))
    assert judged.c2h is None
    assert isinstance(judged.refused[0], BadPayeeSignature)


def test_a_false_signature_of_the_payer_is_not_taken() -> None:
    client, hub = paid()
    request = ask(client, sign=True)
    reply, _ = answer(hub, request)
    outcome = judge(client, request, replace(reply, h2c_signature=bytes(64)))
    assert outcome.h2c is None
    assert isinstance(outcome.refused[0], BadPayerSignature)
    assert outcome.c2h is not None


def test_a_signature_that_was_not_asked_for_is_not_taken() -> None:
    client, hub = paid()
    request = ask(client, sign=False)
    reply, _ = answer(hub, request)
    assert judge(client, request, replace(reply, h2c_signature=bytes(64))).h2c is None


# Anchors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["c2h", "h2c"])
@pytest.mark.parametrize("named", [None, Outpoint(digest("another"), 0)])
def test_nothing_is_signed_for_another_anchor(channel: str, named: Outpoint | None) -> None:
    client, hub = paid()
    request = ask(client, sign=True)
    reply, _ = answer(hub, replace(request, anchors=replace(request.anchors, **{channel: named})))
    signed = {"c2h": reply.c2h_close, "h2c": reply.h2c_signature}
    assert [name for name, given in signed.items() if given is None] == [channel]


def test_a_deposit_that_counts_later_is_closed_with_nothing() -> None:
    client, hub = two_parties()
    late = client.now.sending.anchor
    for side, field in ((client, "sending"), (hub, "receiving")):
        side.now = replace(side.now, **{field: replace(getattr(side.now, field), anchor=None)})
    request = ask(client, sign=True)
    assert request.anchors.c2h is None
    reply, _ = answer(hub, request)
    assert reply.c2h_close is None
    outcome = judge(client, request, reply)
    assert outcome.c2h is None
    assert outcome.h2c is not None
    assert outcome.h2c.closing.quantity == 0
    client.now = replace(client.now, sending=replace(client.now.sending, anchor=late))
    hub.now = replace(hub.now, receiving=replace(hub.now.receiving, anchor=late))
    outcome = close_all(client, hub, sign=True, rounds=1)
    assert outcome.c2h is not None
    assert outcome.c2h.closing.quantity == 0


def test_nothing_is_signed_where_no_deposit_counts() -> None:
    client, hub = two_parties()
    for side in (client, hub):
        side.now = replace(
            side.now,
            sending=replace(side.now.sending, anchor=None),
            receiving=replace(side.now.receiving, anchor=None),
        )
    request = ask(client, sign=True)
    assert request.anchors == Anchors(None, None)
    reply, _ = answer(hub, request)
    assert judge(client, request, reply) == close.Outcome()
    assert not client.now.close_signed
    assert not hub.now.close_signed


# Stale parties ------------------------------------------------------------------------------------------------------


def test_a_client_from_a_backup_learns_what_it_received_since() -> None:
    client, hub = paid(300, 60)
    old = client.backup()
    half_of(hub, client, 200)
    half_of(client, hub, 90)
    request = ask(old, sign=False)
    assert request.h2c_close is None
    reply, _ = answer(hub, request)
    assert (reply.c2h_close, reply.h2c_signature) == (None, None) or reply.figures.c2h == request.figures.c2h
    outcome = close_all(old, hub, sign=False)
    assert outcome.h2c is not None
    assert outcome.h2c.closing.quantity == 260


def test_a_client_from_a_backup_learns_what_it_gave_back_since() -> None:
    client, hub = paid(300, 120)
    old = client.backup()
    sync(client, hub, 40)  # gives the higher commit back
    assert close.own_figures(client.now).h2c == 80
    outcome = close_all(old, hub, sign=False)
    assert outcome.h2c is not None
    assert outcome.h2c.closing.quantity == 80


def test_a_hub_with_an_old_database_learns_what_it_received_and_gave_back() -> None:
    client, hub = paid(300, 120)
    old = hub.backup()
    sync(client, hub, 0, 100)  # gives the higher commit back
    half_of(client, hub, 7)
    assert close.own_figures(client.now).c2h == 207
    outcome = close_all(client, old, sign=True, stale=True)
    assert outcome.c2h is not None
    assert outcome.c2h.closing.quantity == 207
    assert outcome.h2c is not None


def test_a_sync_without_an_answer_is_closed_at_what_left() -> None:
    client, hub = paid(300, 120)
    request = prepare(client, 45)  # its secrets and its commit have left; the hub never saw them
    left = request.half.revokes
    assert left
    asked = ask(client, sign=False, left=left)
    reply, _ = answer(hub, asked)
    assert reply.figures == Figures(305, 80)
    outcome = close_all(client, hub, sign=True)
    assert outcome.c2h is not None
    assert outcome.h2c is not None


def test_secrets_shown_count_without_a_remainder() -> None:
    client, hub = two_parties()
    sync(client, hub, 0, 50)
    hub.load(1)
    row = hub.now.sending.active[-1]
    assert row.remainder is None
    hub.learn(Standing(revokes=(client.secrets.revoke(0),)))
    assert hub.now.sending.moved == 0
    assert hub.signed[row.revoke_hash].secret == client.secrets.revoke(0)


def test_a_remainder_shown_is_kept() -> None:
    client, hub = two_parties()
    sync(client, hub, 0, 50)
    said = client.stand()
    assert said.remainder is not None
    hub.learn(said)
    (row,) = hub.signed.values()
    assert row.remainder == said.remainder.signature


def test_what_is_shown_and_not_valid_changes_nothing() -> None:
    client, hub = paid()
    said = client.stand()
    assert said.commit is not None
    hub.load(256, 2 * DEPOSIT)
    before = hub.now
    on_own = hub.secrets.revoke_hash(hub.now.receiving.next_number)
    for named in (
        replace(said.commit, revoke_hash=hashed("another")),
        replace(said.commit, revoke_hash=on_own),
        replace(said.commit, revoke_hash=on_own, quantity=Quantity(DEPOSIT + 1)),
        said.commit,
    ):
        hub.learn(Standing(named, revokes=(client.secrets.revoke(900),)))
        assert hub.now == before


def test_only_what_was_given_back_is_learned_once_a_close_is_signed() -> None:
    client, hub = paid(300, 120)
    hub.now = replace(hub.now, close_signed=True)
    more = replace(client.stand(), revokes=(hub.secrets.revoke(1), client.secrets.revoke(4)))
    hub.load(256, 2 * DEPOSIT)
    before = hub.now
    hub.learn(more)
    assert hub.now.sending == before.sending
    assert hub.now.receiving == replace(before.receiving, active=before.receiving.active[:-1])


def test_a_payee_doubts_what_is_higher_than_the_payer_names() -> None:
    client, hub = paid(300, 120)
    named = Commit(Quantity(80), hashed("another"), bytes(64), bytes(65))
    client.load(0, 2 * DEPOSIT)
    top, lower = (item.revoke_hash for item in reversed(client.now.receiving.active))
    assert client.stand(Standing(named)).doubts == (top,)
    assert client.stand(Standing()).doubts == (top, lower)
    assert hub.stand(Standing(doubts=(top, lower))).revokes == ()  # it knows no secret: nothing was given back


def test_an_answer_after_signing_is_judged_anew_and_takes_nothing_from_anybody() -> None:
    client, hub = paid()
    first = close_all(client, hub, sign=True, rounds=1)
    again = close_all(client, hub, sign=True, rounds=1)
    assert first == again


def test_a_signature_as_payee_stops_the_client() -> None:
    client, _ = paid()
    assert not client.now.close_signed
    ask(client, sign=True)
    assert client.now.close_signed


def signed_by_client(client: Side, quantity: int, on: Hash) -> Commit:
    """A commit with valid signatures of the client's."""
    sending = client.now.sending
    assert sending.anchor is not None
    return sign_commit(sending.contract, sending.anchor, Quantity(quantity), on, client.secrets.payer)


def test_a_commit_that_was_given_back_is_not_taken_again() -> None:
    """Its payer has the secret, and would take all of it from who publishes it."""
    client, hub = two_parties()
    made = prepare(client, 100).half.commit
    assert made is not None
    hub.now = duplex.accept(hub.now, Half(commit=made))[0]
    hub.transfer(100)
    assert hub.now.receiving.moved == 0
    hub.hand_out()
    hub.learn(Standing(made))
    assert hub.now.receiving.active == ()


def test_a_commit_on_a_hash_of_nobody_is_not_taken() -> None:
    client, hub = two_parties()
    hub.learn(Standing(signed_by_client(client, 100, hashed("nobody's"))))
    assert hub.now.receiving.active == ()


@pytest.mark.parametrize("later", [0, 1, 500])
def test_a_commit_that_may_be_newer_is_taken_and_its_number_never_used_again(later: int) -> None:
    client, hub = two_parties()
    hub.learn(Standing(signed_by_client(client, 100, hub.secrets.revoke_hash(later))))
    assert hub.now.receiving.moved == 100
    assert hub.now.receiving.next_number == later + 1
    assert hub.now.receiving.owing
    assert all(item.number != later for item in hub.now.receiving.requested)


def test_a_party_that_signed_a_close_still_takes_the_remainder_of_its_newest_commit() -> None:
    """The peer may publish that commit all the same, and the rest would lie until the expiry."""
    client, hub = two_parties()
    made = prepare(client, 100).half.commit
    assert made is not None
    hub.now = duplex.accept(hub.now, Half(commit=made))[0]
    client.now = replace(client.now, close_signed=True)
    owed = newest_remainder(hub.now.receiving, hub.secrets.payee)
    client.learn(Standing(remainder=owed))
    assert owed is not None
    assert client.now.sending.active[-1].remainder == owed.signature
