"""mph_sync over HTTP, asked by a client that signs whatever it likes: refusals by name, and nothing is paid twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bitcoin.core import CTransaction, CTxIn, CTxOut
from bitcoin.core.script import CScript
from hub2_support import STRANGER, payment
from hub_http_support import DELAY, OpenConnection, name_of, raw_result, refusal
from network_support import DEPOSIT, Network
from picopayments_cli.channel2 import duplex as pair
from picopayments_cli.channel2.messages import SyncRequest
from picopayments_cli.channel2.scripts import CommitScript
from picopayments_cli.channel2.state import Offer
from regtest_support import key_of

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import Hash, Quantity, Secret

# A request ----------------------------------------------------------------------------------------------------------


def test_a_sync_before_the_connection_is_open_is_refused_and_costs_nothing(network: Network) -> None:
    client = network.client("too early")
    handle = client.run("connect", "XCP", str(DEPOSIT))["handle"]
    early = OpenConnection(network, client, handle)
    refused = refusal(network, "mph_sync", early.sealed(early.request(1)))
    assert (refused.name, refused.data["stage"]) == ("ConnectionNotOpen", "agreed")
    network.mine(2)
    early.duplex = replace(early.duplex, receiving=replace(early.duplex.receiving, anchor=early.duplex.sending.anchor))
    assert early.sync(1).receipts == ()  # the very same request
    assert early.paid == 1


def test_a_sync_must_be_signed_by_the_connections_key(network: Network, opened: OpenConnection) -> None:
    request = opened.request(1)
    sealed = opened.sealed(request)
    for broken in (
        envelope.seal(key_of("another"), request.as_json()),
        request.as_json(),
        {**sealed, "sends": [{"payee_handle": None, "amount": 1, "token": "aa"}]},
        {**sealed, "extra": True},
        {**sealed, "pubkey": key_of("another").pubkey.hex()},
    ):
        assert name_of(network, "mph_sync", broken) == "BadClientSignature"
    assert opened.paid == 1
    opened.sync(1)
    assert opened.paid == 2


def test_a_repeated_request_gets_the_same_bytes_and_is_paid_once(network: Network, opened: OpenConnection) -> None:
    body = opened.sealed(opened.request(5, payment(None, 4)))
    answers = {raw_result(network, "mph_sync", body) for _ in range(3)}
    assert len(answers) == 1
    assert b'"result"' in answers.pop()
    assert opened.paid == 6


def test_an_overtaken_request_is_refused(network: Network, opened: OpenConnection) -> None:
    overtaken = opened.sealed(opened.request(1))
    opened.sync(1)
    opened.sync(1)
    assert name_of(network, "mph_sync", overtaken) == "StaleRequest"
    assert opened.paid == 3
    opened.sync(1)


def test_what_an_answered_hash_carries_again_is_the_stored_reply(network: Network, opened: OpenConnection) -> None:
    right = opened.request(1)
    first = raw_result(network, "mph_sync", opened.sealed(right))
    other = opened.sealed(replace(right, half=opened.request(500).half, payments=(payment(None, 499),)))
    assert raw_result(network, "mph_sync", other) == first
    assert opened.paid == 2


# A commit -----------------------------------------------------------------------------------------------------------


def with_offer(request: SyncRequest, raw: bytes, script: bytes | None = None) -> SyncRequest:
    """The request with another commit."""
    assert request.half.offer is not None
    offer = Offer(raw, request.half.offer.script if script is None else script)
    return replace(request, half=replace(request.half, offer=offer))


def offered(request: SyncRequest) -> Offer:
    assert request.half.offer is not None
    return request.half.offer


def altered(raw: bytes, **changes: Any) -> bytes:
    """A commit of which one member is another."""
    tx = CTransaction.deserialize(raw)
    vin = [CTxIn(tx.vin[0].prevout, tx.vin[0].scriptSig, changes.get("sequence", tx.vin[0].nSequence))]
    vout = [*tx.vout, *changes.get("more", [])]
    if "first" in changes:
        vout[0] = CTxOut(changes["first"], vout[0].scriptPubKey)
    made: bytes = CTransaction(vin, vout, changes.get("locktime", 0), changes.get("version", tx.nVersion)).serialize()
    return made


@pytest.mark.parametrize(
    "changes",
    [
        {"locktime": 2**31 - 1},
        {"sequence": 0xFFFFFFFE},
        {"version": 2},
        {"first": 546},
        {"more": [CTxOut(546, CScript(b"\x51"))]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_commit_of_another_form_is_refused_and_the_agreed_one_taken_after(
    opened: OpenConnection, changes: dict[str, Any]
) -> None:
    right = opened.request(1)
    assert opened.refused(with_offer(right, altered(offered(right).raw, **changes))) == "BadCommit"
    assert opened.refused(with_offer(right, b"")) == "BadCommit"
    opened.sync(1)
    assert opened.paid == 2


def test_a_commit_on_other_terms_is_refused(opened: OpenConnection) -> None:
    right = opened.request(1)
    raw, script = offered(right).raw, CommitScript.parse(offered(right).script)
    for wrong, error in (
        (replace(script, delay=DELAY + 1), "BadCommitScript"),
        (replace(script, spend_hash=Hash(bytes(20))), "BadCommitScript"),
        (replace(script, payee=key_of("another").pubkey), "BadCommitScript"),
        (replace(script, revoke_hash=Hash(bytes(20))), "UnknownRevokeHash"),
        (replace(script, revoke_hash=opened.secrets.revoke_hash(opened.next_number)), "UnknownRevokeHash"),
    ):
        assert opened.refused(with_offer(right, raw, wrong.redeem)) == error
    assert opened.refused(with_offer(right, raw, b"\x00")) == "BadCommitScript"
    assert opened.refused(with_offer(right, raw, offered(right).script + b"\x61")) == "BadCommitScript"


def test_a_commit_signed_by_another_is_refused(opened: OpenConnection) -> None:
    right = opened.request(1)
    key, opened.key = opened.key, key_of("another")
    wrong = opened.request(1)
    opened.key = key
    assert opened.refused(with_offer(right, offered(wrong).raw)) == "BadPayerSignature"


def test_a_commit_that_moves_less_or_more_than_it_may_is_refused(opened: OpenConnection) -> None:
    opened.sync(1000, payment(None, 999))
    richer = opened.duplex
    for moved, quantity, error in ((500, DEPOSIT, "BadCommitQuantity"), (0, DEPOSIT + 5, "BadCommitQuantity")):
        # A state that is wrong about what has moved, or about the deposit, signs what the true one refuses.
        sending = replace(richer.sending, active=(), quantity=Quantity(quantity))
        opened.duplex = replace(richer, sending=sending)
        assert opened.refused(opened.request(moved or DEPOSIT + 1)) == error
    opened.duplex = richer
    opened.sync(1)
    assert opened.paid == 1002


def test_secrets_that_revoke_nothing_are_refused(opened: OpenConnection) -> None:
    right = opened.request(1)
    for secret, error in (
        (bytes(32), "BadSecret"),
        (bytes(31), "BadSecret"),
        (bytes(521), "BadSecret"),
        (opened.secrets.spend, "BadSecret"),
        (opened.secrets.revoke(opened.next_number), "BadSecret"),
        (bytes.fromhex("301d020c") + bytes(28), "SecretLikeSignature"),
    ):
        half = replace(right.half, revokes=(Secret(secret),))
        assert opened.refused(replace(right, half=half)) == error
    opened.sync(1)


# Payments -----------------------------------------------------------------------------------------------------------


def test_payments_and_fee_must_be_moved_by_the_request(opened: OpenConnection) -> None:
    for request in (
        opened.request(10, payment(None, 10)),
        opened.request(10, payment(None, 5), payment(None, 5)),
        replace(opened.request(1), half=pair.Half()),
    ):
        assert opened.refused(request) == "AmountExceedsSpendable"
    assert opened.paid == 1
    opened.sync(11, payment(None, 5), payment(None, 5))
    assert opened.paid == 12


@pytest.mark.parametrize("partial", [False, True])
def test_a_payment_that_can_not_be_booked_is_refused_with_the_sync_or_alone(
    opened: OpenConnection, partial: bool
) -> None:
    lost = payment(STRANGER, 30)
    request = opened.request(41, lost, payment(None, 10))
    if not partial:
        assert opened.refused(request) == "UnknownHandle"
        assert opened.paid == 1
        return
    reply = opened.sync(41, *request.payments, partial=True)
    assert [(item.token, item.cause) for item in reply.refused] == [(lost.token, "UnknownHandle")]
    assert opened.paid == 12  # the 30 came back in the same reply


@pytest.mark.parametrize(
    "changes",
    [
        {"sends": None},
        {"sends": [5]},
        {"sends": [{"payee_handle": None, "amount": 1, "token": "aa", "memo": ""}]},
        {"sends": [{"payee_handle": None, "amount": 1}]},
        {"sends": [{"payee_handle": None, "amount": -1, "token": "aa"}]},
        {"sends": [{"payee_handle": None, "amount": 1.0, "token": "aa"}]},
        {"sends": [{"payee_handle": None, "amount": True, "token": "aa"}]},
        {"sends": [{"payee_handle": "aa", "amount": 1, "token": "aa"}]},
        {"sends": [{"payee_handle": None, "amount": 1, "token": "aa" * 10_000}]},
        {"revokes": None},
        {"revokes": ["xx"]},
        {"commit": []},
        {"commit": {"rawtx": "", "script": "", "more": ""}},
        {"next_revoke_secret_hash": "00" * 21},
        {"handle": None},
    ],
    ids=str,
)
def test_nonsense_is_a_bad_request(shapes: OpenConnection, changes: dict[str, Any]) -> None:
    request = shapes.request(1)
    assert shapes.refused(request, **changes) == "BadRequest"


@pytest.fixture(scope="module")
def shapes(network: Network) -> OpenConnection:
    """A connection that no request of the tests changes."""
    client = network.client("shapes")
    return OpenConnection(network, client, network.open_connection(client))


def test_a_hash_that_the_connection_knows_is_refused_as_the_next(opened: OpenConnection) -> None:
    right = opened.request(1)
    for taken, error in (
        (opened.duplex.receiving.script.spend_hash, "StaleRequest"),
        (opened.secrets.revoke_hash(0), "StaleRequest"),
        (opened.duplex.sending.script.spend_hash, "RepeatedHash"),
        (opened.duplex.sending.requested[-1], "RepeatedHash"),
    ):
        assert opened.refused(replace(right, next_hash=taken)) == error
    opened.sync(1)
