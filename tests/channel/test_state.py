"""Each rule of one channel's exchange, broken exactly once: then nothing is credited, and the state stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
from channel_support import PAYEE, hashed, secret
from exchange_support import DEPOSIT, Side, prepare, sync, two_parties

from picopayments_cli.channel import duplex
from picopayments_cli.channel.duplex import Half
from picopayments_cli.channel.halves import Commit, Remainder, sign_commit, sign_remainder
from picopayments_cli.channel.state import (
    KEPT_REQUESTS,
    Held,
    Receiving,
    accept_commit,
    accept_remainder,
    commit,
    deepened,
    floor_of,
    give_back,
    revoke,
    to_revoke,
)
from picopayments_cli.channel.values import Hash, Quantity, Secret
from picopayments_cli.errors import (
    AmountsDiffer,
    BadCommitQuantity,
    BadPayeeSignature,
    BadPayerSignature,
    BadSecret,
    CloseSigned,
    ConnectionNotOpen,
    NotTransferable,
    PeerMisbehaved,
    PicopaymentsError,
    RemainderMissing,
    RepeatedHash,
    UnknownRevokeHash,
)


def signed_to(hub: Side, client: Side, quantity: int, on: Hash | None = None) -> Commit:
    """A commit that the client signs, on the newest hash of the hub's unless another is named."""
    sending = client.now.sending
    assert sending.anchor is not None
    return sign_commit(
        sending.contract, sending.anchor, Quantity(quantity), on or sending.requested[-1], client.secrets.payer
    )


def refused(hub: Side, half: Half, error: type[PicopaymentsError]) -> PicopaymentsError:
    """The error with which the hub refuses a half, and nothing of it counts."""
    before = hub.now
    with pytest.raises(error) as raised:
        duplex.accept(hub.now, half)
    assert hub.now == before
    return raised.value


# Commits ------------------------------------------------------------------------------------------------------------


def test_a_commit_with_both_signatures_is_credited() -> None:
    client, hub = two_parties()
    made = signed_to(hub, client, DEPOSIT)
    after, changes = duplex.accept(hub.now, Half(commit=made))
    assert (after.receiving.moved, after.receiving.owing, after.receiving.newest) == (DEPOSIT, True, made)
    assert changes.held == (Held(made, 0),)


@pytest.mark.parametrize("signature", ["signature", "payout_signature"])
@pytest.mark.parametrize("place", [0, 31, 32, 63])
def test_a_commit_needs_both_signatures(signature: str, place: int) -> None:
    client, hub = two_parties()
    made = signed_to(hub, client, 100)
    data = bytearray(getattr(made, signature))
    data[place] ^= 1
    half = Half(commit=replace(made, **{signature: bytes(data)}))  # type: ignore[arg-type]
    refused(hub, half, BadPayerSignature)


@pytest.mark.parametrize("signature", ["signature", "payout_signature"])
def test_a_signature_of_another_commit_is_none_of_this_one(signature: str) -> None:
    client, hub = two_parties()
    made, other = signed_to(hub, client, 100), signed_to(hub, client, 101)
    half = Half(commit=replace(made, **{signature: getattr(other, signature)}))
    refused(hub, half, BadPayerSignature)


@pytest.mark.parametrize("suffix", [b"", b"\x01", b"\x83", b"\x81\x81"])
def test_a_payout_signature_of_another_hash_type_is_refused(suffix: bytes) -> None:
    client, hub = two_parties()
    made = signed_to(hub, client, 100)
    refused(hub, Half(commit=replace(made, payout_signature=made.payout_signature[:64] + suffix)), BadPayerSignature)


def test_a_payout_of_another_delay_is_refused() -> None:
    client, hub = two_parties()
    longer = replace(client.now.sending.contract, delay=15)
    assert client.now.sending.anchor is not None
    made = sign_commit(
        longer, client.now.sending.anchor, Quantity(5), client.now.sending.requested[-1], client.secrets.payer
    )
    refused(hub, Half(commit=made), BadPayerSignature)


def test_a_commit_on_a_hash_that_was_not_handed_out_is_refused() -> None:
    client, hub = two_parties()
    refused(hub, Half(commit=signed_to(hub, client, 100, hashed("another"))), UnknownRevokeHash)


def test_a_hash_is_used_once_and_older_ones_never_after_it() -> None:
    client, hub = two_parties()
    older = client.now.sending.requested[-1]
    client.request(hub.hand_out())
    newer = client.now.sending.requested[-1]
    after, _ = duplex.accept(hub.now, Half(commit=signed_to(hub, client, 100)))
    hub.now = after
    for used in (newer, older):
        refused(hub, Half(commit=signed_to(hub, client, 200, used)), UnknownRevokeHash)


@pytest.mark.parametrize("quantity", [1, 99, 100])
def test_a_commit_moves_more_than_the_one_before(quantity: int) -> None:
    client, hub = two_parties()
    sync(client, hub, 100)
    refused(hub, Half(commit=signed_to(hub, client, quantity)), BadCommitQuantity)


@pytest.mark.parametrize("quantity", [0, -1, DEPOSIT + 1, 2**63 - 1, 2**64])
def test_a_commit_moves_at_most_the_deposit_and_never_nothing(quantity: int) -> None:
    client, hub = two_parties()
    made = replace(signed_to(hub, client, 100), quantity=Quantity(quantity))
    refused(hub, Half(commit=made), BadCommitQuantity)
    with pytest.raises(NotTransferable):
        commit(client.now.sending, quantity, client.secrets.payer)


def test_nothing_is_signed_or_taken_before_the_deposit_counts() -> None:
    client, hub = two_parties()
    made = signed_to(hub, client, 100)
    with pytest.raises(ConnectionNotOpen):
        commit(replace(client.now.sending, anchor=None), 100, client.secrets.payer)
    with pytest.raises(ConnectionNotOpen):
        accept_commit(replace(hub.now.receiving, anchor=None), made)


def test_a_commit_needs_a_hash_of_the_payee() -> None:
    client, _ = two_parties()
    with pytest.raises(UnknownRevokeHash):
        commit(replace(client.now.sending, requested=()), 100, client.secrets.payer)


# Hashes -------------------------------------------------------------------------------------------------------------


def test_a_hash_is_taken_once_in_a_connection() -> None:
    client, hub = two_parties()
    sync(client, hub, 100, 50)
    own = client.now.receiving
    known = [*client.now.sending.requested, own.requested[-1].revoke_hash, own.active[-1].revoke_hash]
    known.append(client.now.sending.active[-1].revoke_hash)
    for name in known:
        with pytest.raises(RepeatedHash):
            duplex.add_request(client.now, name, seen=False)
    with pytest.raises(RepeatedHash):
        duplex.add_request(client.now, hashed("of a row"), seen=True)


def test_the_hashes_that_wait_are_bounded() -> None:
    client, hub = two_parties()
    for _ in range(20):
        client.request(hub.hand_out())
    assert len(client.now.sending.requested) == KEPT_REQUESTS
    assert [item.revoke_hash for item in hub.now.receiving.requested] == list(client.now.sending.requested)


def test_no_two_hashes_of_a_party_are_alike() -> None:
    client, hub = two_parties()
    drawn = [side.hand_out() for side in (client, hub) for _ in range(50)]
    assert len(set(drawn)) == 100


# Remainders ---------------------------------------------------------------------------------------------------------


def owed(client: Side, hub: Side) -> tuple[Commit, Remainder]:
    """A commit that the client has sent and whose remainder the hub owes, and that remainder."""
    request = prepare(client, 100)
    hub.now, _ = duplex.accept(hub.now, request.half)
    made = request.half.commit
    assert made is not None
    receiving = hub.now.receiving
    assert receiving.anchor is not None
    return made, sign_remainder(receiving.contract, receiving.anchor, made, hub.secrets.payee)


def test_a_remainder_is_taken_and_kept() -> None:
    client, hub = two_parties()
    _, remainder = owed(client, hub)
    after, changes = duplex.accept(client.now, Half(remainder))
    assert after.sending.awaited is None
    assert [row.remainder for row in changes.signed] == [remainder.signature]


def test_a_message_without_the_remainder_that_it_owes_is_no_answer() -> None:
    client, hub = two_parties()
    owed(client, hub)
    refused(client, Half(), RemainderMissing)


def test_a_new_commit_is_not_credited_without_the_remainder() -> None:
    client, hub = two_parties()
    owed(client, hub)
    made = signed_to(client, hub, 10)
    refused(client, Half(commit=made), RemainderMissing)


def test_a_secret_is_not_credited_without_the_remainder_of_its_commit() -> None:
    client, hub = two_parties()
    owed(client, hub)
    refused(client, Half(revokes=(hub.secrets.revoke(0),)), RemainderMissing)
    with pytest.raises(RemainderMissing):
        revoke(client.now.sending, [hub.secrets.revoke(0)])


def test_a_secret_counts_with_the_remainder_in_the_same_message() -> None:
    client, hub = two_parties()
    _, remainder = owed(client, hub)
    after, changes = duplex.accept(client.now, Half(remainder, (hub.secrets.revoke(0),)))
    assert after.sending.moved == 0
    assert (changes.signed[-1].secret, changes.signed[-1].remainder) == (hub.secrets.revoke(0), remainder.signature)


@pytest.mark.parametrize("place", [0, 40, 63, 64])
def test_a_remainder_with_another_signature_is_refused(place: int) -> None:
    client, hub = two_parties()
    _, remainder = owed(client, hub)
    data = bytearray(remainder.signature)
    data[place] ^= 1
    refused(client, Half(replace(remainder, signature=bytes(data))), BadPayeeSignature)


def test_a_remainder_of_another_commit_is_none_of_this_one() -> None:
    client, hub = two_parties()
    _, remainder = owed(client, hub)
    refused(client, Half(replace(remainder, quantity=Quantity(99))), RemainderMissing)
    refused(client, Half(replace(remainder, revoke_hash=hashed("another"))), RemainderMissing)


def test_a_remainder_of_another_payee_is_refused() -> None:
    client, hub = two_parties()
    made, _ = owed(client, hub)
    receiving = hub.now.receiving
    assert receiving.anchor is not None
    forged = sign_remainder(receiving.contract, receiving.anchor, made, PAYEE)
    refused(client, Half(forged), BadPayeeSignature)


def test_no_further_commit_is_signed_while_a_remainder_is_owed() -> None:
    client, hub = two_parties()
    owed(client, hub)
    client.request(hub.hand_out())
    with pytest.raises(RemainderMissing):
        commit(client.now.sending, 200, client.secrets.payer)


def test_a_remainder_goes_out_once_and_a_needless_one_changes_nothing() -> None:
    client, hub = two_parties()
    first = sync(client, hub, 100)
    assert first.half.remainder is not None
    assert sync(client, hub, 0).half.remainder is None
    assert accept_remainder(client.now.sending, first.half.remainder) == client.now.sending


def test_the_remainder_of_a_commit_that_was_given_back_at_once_goes_out() -> None:
    client, hub = two_parties()
    reply = sync(client, hub, 100, 100)
    assert reply.half.remainder is not None
    assert reply.half.revokes == (hub.secrets.revoke(0),)
    assert hub.now.receiving.newest is not None


# Giving back --------------------------------------------------------------------------------------------------------


def ladder(*quantities: int) -> tuple[Side, Side]:
    """A client that has sent commits of those quantities, one after the other."""
    client, hub = two_parties()
    last = 0
    for quantity in quantities:
        sync(client, hub, quantity - last)
        last = quantity
    hub.load(0, DEPOSIT)
    client.load(len(quantities))
    return client, hub


@pytest.mark.parametrize(
    ("amount", "kept"), [(0, 60), (9, 60), (10, 50), (29, 50), (30, 30), (59, 30), (60, 0), (61, 0), (10**9, 0)]
)
def test_whole_commits_are_given_back_the_highest_first(amount: int, kept: int) -> None:
    _, hub = ladder(30, 50, 60)
    given = to_revoke(hub.now.receiving, amount)
    assert give_back(hub.now.receiving, given).moved == kept
    assert [item.quantity for item in given] == [quantity for quantity in (60, 50, 30) if quantity > kept]


def test_no_secret_leaves_once_the_own_half_of_a_commit_has() -> None:
    _, hub = ladder(30, 50, 60)
    given = to_revoke(hub.now.receiving, 30)
    left = duplex.half_left(hub.now)
    assert to_revoke(left.receiving, 30) == ()
    _, half, _ = duplex.transfer(left, 30, hub.secrets)
    assert half.revokes == ()
    assert half.commit is not None
    with pytest.raises(ValueError, match="own half"):
        give_back(left.receiving, given)


@pytest.mark.parametrize("chosen", [(0,), (1, 0), (2, 0), (1,)])
def test_only_the_highest_commits_are_given_back(chosen: tuple[int, ...]) -> None:
    _, hub = ladder(30, 50, 60)
    active = hub.now.receiving.active
    with pytest.raises(ValueError, match="highest"):
        give_back(hub.now.receiving, [active[number] for number in chosen])


def test_secrets_are_credited_in_their_order() -> None:
    client, hub = ladder(30, 50, 60)
    after, rows = revoke(client.now.sending, [hub.secrets.revoke(2), hub.secrets.revoke(1)])
    assert after.moved == 30
    assert [row.quantity for row in rows] == [60, 50]


@pytest.mark.parametrize("numbers", [(1,), (1, 2), (2, 0), (2, 2), (2, 1, 0, 3), (7,)])
def test_a_secret_that_does_not_open_the_next_highest_commit_is_refused(numbers: tuple[int, ...]) -> None:
    client, hub = ladder(30, 50, 60)
    refused(client, Half(revokes=tuple(hub.secrets.revoke(number) for number in numbers)), BadSecret)


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(33), bytes(32)])
def test_what_is_no_secret_of_the_commit_is_refused(data: bytes) -> None:
    client, _ = ladder(30)
    refused(client, Half(revokes=(Secret(data),)), BadSecret)


def test_a_secret_of_the_own_channel_revokes_nothing_of_the_other() -> None:
    client, hub = two_parties()
    sync(client, hub, 100, 50)
    client.load(1)
    refused(client, Half(revokes=(client.secrets.revoke(0),)), BadSecret)


def test_nothing_counts_where_the_commit_of_the_same_half_is_bad() -> None:
    client, hub = ladder(30, 50, 60)
    made = replace(signed_to(client, hub, 10), quantity=Quantity(11))
    refused(client, Half(None, (hub.secrets.revoke(2),), made), BadPayerSignature)


# What is loaded -----------------------------------------------------------------------------------------------------


def test_what_is_needed_and_not_loaded_is_asked_for() -> None:
    _, hub = ladder(30, 50, 60)
    rows = hub.now.receiving.active
    window = replace(hub.now.receiving, active=rows[-1:], deeper=True)
    with pytest.raises(ValueError, match="loaded"):
        to_revoke(window, 1)
    assert floor_of(window, 1) == 59
    wider = deepened(window, rows[-2:-1], deeper=True)
    assert to_revoke(wider, 9) == ()
    assert to_revoke(deepened(wider, rows[:1], deeper=False), 10**9) == rows[::-1]
    with pytest.raises(ValueError, match="next lower"):
        deepened(wider, rows[-1:], deeper=True)


def test_a_channel_whose_height_is_not_loaded_can_not_be_made() -> None:
    client, hub = two_parties()
    with pytest.raises(ValueError, match="loaded"):
        Receiving(hub.now.receiving.contract, deeper=True)
    with pytest.raises(ValueError, match="loaded"):
        replace(client.now.sending, deeper=True)


# The pair -----------------------------------------------------------------------------------------------------------


def test_less_than_expected_is_refused_and_more_is_taken() -> None:
    client, hub = two_parties()
    request = prepare(client, 0)
    hub.now, _ = duplex.accept(hub.now, request.half)
    half = hub.transfer(50)
    with pytest.raises(AmountsDiffer):
        duplex.settle(client.now, half, 51)
    assert duplex.settle(client.now, half, 50)[2] == 0
    assert duplex.settle(client.now, half, 20)[2] == 30


def test_the_remainder_of_a_commit_that_was_not_credited_is_owed() -> None:
    client, hub = two_parties()
    hub.now, _ = duplex.accept(hub.now, prepare(client, 0).half)
    half = hub.transfer(50)
    noted = duplex.noted(client.now, half)
    assert (noted.receiving.newest, noted.receiving.owing, noted.receiving.moved) == (half.commit, True, 0)
    assert half.commit is not None
    assert duplex.noted(client.now, Half(commit=replace(half.commit, signature=bytes(64)))) == client.now
    assert duplex.noted(client.now, Half()) == client.now
    assert duplex.settle(noted, half, 50)[0] == duplex.settle(client.now, half, 50)[0]


def test_what_can_be_moved_is_what_whole_commits_and_room_come_up_to() -> None:
    client, hub = two_parties(1000, 10)
    sync(client, hub, 500)
    sync(client, hub, 100)
    hub.load(0, 2000)
    possible = [amount for amount in range(1, 700) if duplex.transferable(hub.now, amount)]
    assert possible == [*range(1, 11), *range(100, 111), *range(600, 611)]
    assert [duplex.most_transferable(hub.now, amount) for amount in (5, 50, 100, 105, 599, 600, 999)] == [
        5, 10, 100, 105, 110, 600, 610
    ]  # fmt: skip
    assert duplex.deliverable(hub.now, 50, [55, 400, 200]) == (1, 105)
    assert duplex.deliverable(hub.now, 50, [1, 2]) == (0, 10)


def test_a_payment_waits_for_the_next_hash() -> None:
    _, hub = two_parties()
    unasked = replace(hub.now, sending=replace(hub.now.sending, requested=()))
    assert not duplex.transferable(unasked, 10)
    assert duplex.transferable(duplex.expecting(unasked), 10)


def test_nothing_moves_once_a_close_is_signed() -> None:
    client, hub = two_parties()
    sync(client, hub, 100, 50)
    half = prepare(client, 10).half
    hub.load(1, 50)
    signed = replace(hub.now, close_signed=True)
    assert not duplex.transferable(signed, 1)
    assert duplex.most_transferable(signed, 1) == 0
    for refuse in (
        lambda: duplex.accept(signed, half),
        lambda: duplex.settle(signed, half, 0),
        lambda: duplex.transfer(signed, 10, hub.secrets),
        lambda: duplex.hand_out(signed, hub.secrets),
        lambda: duplex.add_request(signed, hashed("new"), seen=False),
    ):
        with pytest.raises(CloseSigned):
            refuse()
    assert signed.guaranteed == hub.now.guaranteed


def test_what_a_peer_does_wrong_is_named_so() -> None:
    for error in (RemainderMissing, BadSecret, BadPayerSignature, BadPayeeSignature, UnknownRevokeHash):
        assert issubclass(error, PeerMisbehaved)


def test_secrets_are_not_shown_in_what_is_logged() -> None:
    drawn = secret("shown")
    assert drawn.hex() not in repr(Half(revokes=(drawn,)))
    assert repr(drawn) not in repr(Half(revokes=(drawn,)))
