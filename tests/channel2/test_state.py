"""One channel: what commits move, which secrets give back how much, and how a secret comes to be."""

from __future__ import annotations

import hmac
from dataclasses import replace

import pytest
from channel2_support import (
    ASSET,
    PAYEE,
    PAYER,
    hashed,
    judge,
    kernel_accepts,
    key,
    open_channel,
    parsed,
    secret,
    with_commits,
)
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.counterparty import message_of, unpack_send
from picopayments_cli.channel.values import check_secret, hash_of, looks_like_signature
from picopayments_cli.channel2.keys import FORGOTTEN, Secrets
from picopayments_cli.channel2.state import (
    KEPT_REQUESTS,
    Channel,
    accept_commit,
    commit,
    finished,
    give_back,
    request_commit,
    revoke,
    to_revoke,
)
from picopayments_cli.channel2.transactions import Output
from picopayments_cli.errors import (
    BadSecret,
    ConnectionNotOpen,
    NotTransferable,
    RepeatedHash,
    SecretLikeSignature,
    UnknownRevokeHash,
)

PRIMES = (1, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)


# Giving back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "count", "stays"), [(15, 6, 17), (31, 2, 31), (0, 13, 0), (41, 0, 41), (30, 2, 31)])
def test_commits_are_revoked_down_to_a_level(level: int, count: int, stays: int) -> None:
    channel = with_commits(open_channel(), PRIMES)
    found = to_revoke(channel, 41 - level)
    assert [item.quantity for item in found] == list(reversed(PRIMES))[:count]
    assert give_back(channel, found).moved == stays


def test_more_than_has_moved_gives_back_everything() -> None:
    channel = with_commits(open_channel(), PRIMES)
    assert give_back(channel, to_revoke(channel, 42)).moved == 0
    assert to_revoke(open_channel(), 5) == ()


@given(st.sets(st.integers(1, 60), max_size=9).map(sorted), st.integers(0, 70))
def test_giving_back_never_passes_the_amount_and_gives_the_most(quantities: list[int], amount: int) -> None:
    channel = with_commits(open_channel(), quantities)
    given_back = channel.moved - give_back(channel, to_revoke(channel, amount)).moved
    levels = [0, *quantities]
    assert given_back == max(levels[-1] - level for level in levels if levels[-1] - level <= amount)


# Committing ---------------------------------------------------------------------------------------------------------


def pay(payer: Channel, payee: Channel, quantity: int) -> tuple[Channel, Channel]:
    """Both sides of a channel once a commit was made and taken."""
    payer, offered = commit(payer, quantity, PAYER)
    return payer, accept_commit(payee, offered)


def test_a_commit_finished_by_its_payee_passes_pycoin_and_the_kernel() -> None:
    payer, payee = pay(open_channel(), open_channel(), 400)
    raw = finished(payee, payee.active[-1], PAYEE)
    assert payee.anchor is not None
    spent = [Output(payee.anchor.value, payee.script.output)]
    judge(raw, spent)
    assert kernel_accepts(raw, spent)
    tx = parsed(raw)
    assert message_of(tx.vout[1].scriptPubKey, tx.vin[0].prevout.hash) is not None
    sent = unpack_send(message_of(tx.vout[1].scriptPubKey, tx.vin[0].prevout.hash) or b"")
    assert sent is not None
    assert (sent.asset_id, sent.quantity) == (ASSET, 400)
    assert tx.vout[0].scriptPubKey == payee.commit_script(hashed("one")).output
    assert (payer.moved, payee.moved, payee.room) == (400, 400, 0)  # no room: no hash for another commit is out
    assert request_commit(payee, hashed("two")).room == 600


def test_the_kernel_refuses_a_commit_finished_by_another() -> None:
    _, payee = pay(open_channel(), open_channel(), 400)
    assert payee.anchor is not None
    spent = [Output(payee.anchor.value, payee.script.output)]
    assert not kernel_accepts(finished(payee, payee.active[-1], key("stranger")), spent)


def test_a_commit_names_the_newest_hash_and_older_ones_are_never_used() -> None:
    start = open_channel(hashes=("one", "two"))
    payer, payee = pay(start, start, 400)
    assert payee.active[-1].revoke_hash == hashed("two")
    assert payer.requested == payee.requested == ()
    _, offered = commit(open_channel(hashes=("one",)), 500, PAYER)
    with pytest.raises(UnknownRevokeHash):
        accept_commit(payee, offered)


@pytest.mark.parametrize("quantity", [0, -1, 399, 400, 1001])
def test_a_commit_of_a_quantity_that_moves_nothing_or_too_much_is_not_made(quantity: int) -> None:
    payer, _ = pay(open_channel(hashes=("one",)), open_channel(), 400)
    with pytest.raises(NotTransferable):
        commit(request_commit(payer, hashed("two")), quantity, PAYER)


def test_without_a_hash_no_commit_is_made() -> None:
    with pytest.raises(UnknownRevokeHash):
        commit(open_channel(hashes=()), 1, PAYER)


def test_without_a_confirmed_deposit_no_commit_is_made_or_taken() -> None:
    _, offered = commit(open_channel(), 1, PAYER)
    unseen = replace(open_channel(), anchor=None)
    with pytest.raises(ConnectionNotOpen):
        commit(unseen, 1, PAYER)
    with pytest.raises(ConnectionNotOpen):
        accept_commit(unseen, offered)


def test_only_the_newest_hashes_are_kept() -> None:
    names = [str(number) for number in range(KEPT_REQUESTS + 3)]
    channel = open_channel(hashes=names)
    assert channel.requested == tuple(hashed(name) for name in names[3:])


def test_a_commit_may_move_the_whole_deposit_and_not_one_more() -> None:
    paying = paid = open_channel(1000)
    made, offer = commit(paying, 1000, PAYER)
    assert (made.moved, accept_commit(paid, offer).moved) == (1000, 1000)
    with pytest.raises(NotTransferable):
        commit(paying, 1001, PAYER)
    with pytest.raises(NotTransferable):
        commit(request_commit(made, hashed("two")), 1000, PAYER)


def test_hashes_handed_out_later_than_a_commits_stay_good() -> None:
    paying = open_channel(hashes=["one"])
    paid = open_channel(hashes=["one", "two", "three"])
    _, offer = commit(paying, 10, PAYER)
    taken = accept_commit(paid, offer)
    assert taken.requested == (hashed("two"), hashed("three"))
    _, again = commit(open_channel(hashes=["three"]), 20, PAYER)
    last = accept_commit(taken, again)
    assert last.requested == ()
    with pytest.raises(UnknownRevokeHash):
        accept_commit(last, commit(open_channel(hashes=["two"]), 30, PAYER)[1])


# Revoking -----------------------------------------------------------------------------------------------------------


def punishable() -> Channel:
    """The payer's channel with two commits, the upper one revoked."""
    channel = open_channel()
    for name, quantity in (("one", 300), ("two", 500)):
        channel = channel if name == "one" else request_commit(channel, hashed(name))
        channel, _ = commit(channel, quantity, PAYER)
    return revoke(channel, [secret("two")])


def test_a_revoked_commit_no_longer_counts_and_its_secret_is_kept() -> None:
    channel = punishable()
    assert channel.moved == 300
    assert [(item.quantity, item.secret, item.revoke_hash) for item in channel.revoked] == [
        (500, secret("two"), hashed("two"))
    ]
    assert revoke(channel, [secret("one")]).moved == 0


def signature_like() -> bytes:
    """A secret that Counterparty reads as a signature which signs nothing."""
    return bytes.fromhex("301d020c") + b"\x07" * 12 + bytes.fromhex("020d") + b"\x07" * 13 + b"\x02"


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 521])
def test_a_secret_of_another_size_revokes_nothing(size: int) -> None:
    with pytest.raises(BadSecret):
        revoke(punishable(), [bytes(size)])


def test_a_secret_like_a_signature_revokes_nothing() -> None:
    data = signature_like()
    assert len(data) == 32
    assert looks_like_signature(data)
    with pytest.raises(SecretLikeSignature):
        revoke(punishable(), [data])
    with pytest.raises(SecretLikeSignature):
        revoke(punishable(), [secret("one"), data])


@pytest.mark.parametrize(
    "secrets",
    [[secret("unknown")], [secret("one"), secret("one")], [secret("two")], [secret("one"), secret("two")]],
    ids=["unknown", "twice", "of a revoked commit", "also of a revoked commit"],
)
def test_a_secret_of_no_active_commit_revokes_nothing(secrets: list[bytes]) -> None:
    with pytest.raises(BadSecret):
        revoke(punishable(), secrets)


@pytest.mark.parametrize("name", ["spend", "one", "two", "three"])
def test_a_hash_that_was_seen_before_is_refused(name: str) -> None:
    """The spend hash, that of an active commit, of a revoked one, and one that is open."""
    channel = request_commit(punishable(), hashed("three"))
    with pytest.raises(RepeatedHash):
        request_commit(channel, hashed(name))


def test_a_payer_takes_no_hash_twice_however_many_there_are() -> None:
    paying = open_channel(1000, hashes=[])
    for number in range(1, 20):
        paying, _ = commit(request_commit(paying, hashed(f"h{number}")), number, PAYER)
    paying = revoke(paying, [secret(f"h{number}") for number in (3, 11, 17, 18, 19)])
    for number in range(1, 20):
        with pytest.raises(RepeatedHash):
            request_commit(paying, hashed(f"h{number}"))


def test_a_commit_below_others_may_be_revoked_and_the_others_stay() -> None:
    channel = open_channel()
    for name, quantity in (("one", 100), ("two", 200), ("three", 300)):
        channel = channel if name == "one" else request_commit(channel, hashed(name))
        channel, _ = commit(channel, quantity, PAYER)
    left = revoke(channel, [secret("two")])
    assert [item.quantity for item in left.active] == [100, 300]
    assert [(item.quantity, item.revoke_hash) for item in left.revoked] == [(200, hashed("two"))]


# Secrets ------------------------------------------------------------------------------------------------------------


def test_secrets_differ_by_key_salt_purpose_and_number() -> None:
    drawn = [
        made
        for owner in ("client", "hub")
        for salt in (bytes(16), b"\x01" + bytes(15), bytes(15) + b"\x01")
        for secrets in [Secrets(key(owner), salt)]
        for made in (secrets.spend, *(secrets.revoke(number) for number in (0, 1, 2, 255, 256, 2**32, 2**63)))
    ]
    assert len(set(drawn)) == len(drawn) == 2 * 3 * 8
    assert len({hash_of(made) for made in drawn}) == len(drawn)


def test_secrets_are_the_same_each_time() -> None:
    one, two = (Secrets(key("client"), b"s" * 16) for _ in range(2))
    assert (one.spend, one.revoke(7)) == (two.spend, two.revoke(7))
    assert (one.spend_hash, one.revoke_hash(7)) == (hash_of(one.spend), hash_of(one.revoke(7)))
    assert one.key.secret.hex() not in repr(one)


def test_a_hash_that_was_handed_out_and_forgotten_is_known_again() -> None:
    secrets = Secrets(key("client"), b"s" * 16)
    for number in (7, 8, 7 + FORGOTTEN - 1):
        assert secrets.number_of(secrets.revoke_hash(number), 7) == number
    assert secrets.number_of(secrets.revoke_hash(6), 7) is None
    assert secrets.number_of(secrets.revoke_hash(7 + FORGOTTEN), 7) is None
    assert secrets.number_of(hashed("another's"), 7) is None


def test_a_fixed_key_and_salt_give_these_secrets_for_ever() -> None:
    """Were they to change, a new version could not pay out what an old one received."""
    secrets = Secrets(key("client"), b"s" * 16)
    assert [secrets.spend.hex(), secrets.revoke(0).hex(), secrets.revoke(300).hex()] == [
        "46d38df665915d17fe9b6e18cd6be6c13368834ba45239691582c5712ce10508",
        "1d94213b19fceb7d1aea2256443361788620871bb6310cfafc9595e65498c38c",
        "ba4e4ff0cdc974cc1a0eab12be82a05afee99cbb0c4457c3dbf7162b4d855788",
    ]


def test_a_secret_like_a_signature_is_drawn_again() -> None:
    """The one number in many millions whose first draw begins as a signature would."""
    secrets, number = Secrets(key("client"), b"s" * 16), 21975094
    text = b"picopayments secret" + secrets.salt + b"revoke" + number.to_bytes(8, "big")
    first, second = (hmac.digest(secrets.key.secret, text + draw.to_bytes(8, "big"), "sha256") for draw in (0, 1))
    assert first[:3] == b"\x30\x1d\x02"
    assert secrets.revoke(number) == second


@given(st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16))
def test_no_derived_secret_is_like_a_signature(number: int, salt: bytes) -> None:
    secrets = Secrets(key("client"), salt)
    for made in (secrets.spend, secrets.revoke(number)):
        assert check_secret(made) == made
        assert not looks_like_signature(made)
    assert secrets.spend != secrets.revoke(number)


@given(st.binary(min_size=32, max_size=32) | st.binary(min_size=29, max_size=29).map(lambda end: b"\x30\x1d\x02" + end))
def test_every_secret_that_looks_like_a_signature_is_refused(data: bytes) -> None:
    """The check refuses more than it must, never less."""
    try:
        check_secret(data)
    except SecretLikeSignature:
        assert data[:3] == b"\x30\x1d\x02"
    else:
        assert not looks_like_signature(data)
