"""The hub's own methods over HTTP, asked by a hand that signs whatever it likes: each refusal by its name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from bitcoin.core import CTransaction, CTxIn, CTxOut
from bitcoin.core.script import CScript
from network_support import DEPOSIT, WAIT, Client, Network, key_in, running_network
from regtest_support import address_of, key_of

from picopayments_cli.channel import duplex as pair
from picopayments_cli.channel import envelope
from picopayments_cli.channel.errors import PicopaymentsError
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.messages import (
    ConnectRequest,
    DepositMessage,
    Payment,
    SyncReply,
    SyncRequest,
    close_request,
)
from picopayments_cli.channel.scripts import CommitScript, DepositScript
from picopayments_cli.channel.state import Offer
from picopayments_cli.channel.transactions import spent_outpoints
from picopayments_cli.channel.values import MAX_QUANTITY, Handle, Hash, Quantity, Secret, Token, hash_of
from picopayments_cli.rpc import RpcClient

EXPIRE, DELAY = 100, 2
STRANGER = Handle(b"\xcd" * 32)  # no handle that the hub drew


def raw_result(network: Network, method: str, body: Mapping[str, Any]) -> bytes:
    """The bytes of an HTTP answer."""
    request = {"jsonrpc": "2.0", "id": 0, "method": method, "params": body}
    return requests.post(network.hub_url, json=request, timeout=WAIT).content


def refusal(network: Network, method: str, body: Mapping[str, Any]) -> PicopaymentsError:
    """The error that a call is refused with."""
    with pytest.raises(PicopaymentsError) as caught:
        RpcClient(network.hub_url).call(method, body, retry=False)
    return caught.value


def name_of(network: Network, method: str, body: Mapping[str, Any]) -> str:
    return refusal(network, method, body).name


class ProposingClient:
    """A client without rules of its own: what it signs is what the test says."""

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.key = key_of(name)
        self.secrets = Secrets(self.key, os.urandom(16))

    def call(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A signed call's result, whose signature must be the hub's and whose request must be this one."""
        sealed = envelope.seal(self.key, body)
        result: dict[str, Any] = RpcClient(self.network.hub_url).call(method, sealed, retry=False)
        assert envelope.signed_by(result, hub_key(self.network).pubkey)
        assert result["request_sha256"] == envelope.digest(sealed).hex()
        return result

    def request(self) -> tuple[Handle, Hash]:
        """Ask for a connection: handle and the hub's spend hash."""
        reply = self.call("mph_request", ConnectRequest("XCP", self.secrets.spend_hash).as_json())
        return Handle(bytes.fromhex(reply["handle"])), Hash(bytes.fromhex(reply["spend_secret_hash"]))

    def deposit(self, hubs: Hash, **changes: Any) -> DepositMessage:
        """A proposal as the protocol has it, but for changes; ``expire`` changes the script."""
        expire = changes.pop("expire", EXPIRE)
        script = DepositScript(self.key.pubkey, hub_key(self.network).pubkey, hubs, expire)
        message = DepositMessage(script.redeem, self.secrets.revoke_hash(0), Quantity(DEPOSIT), DELAY)
        return replace(message, **changes)


def hub_key(network: Network) -> Key:
    return key_in(network.basedir / "hub.regtest.wif")


@pytest.fixture
def hand(network: Network, request: pytest.FixtureRequest) -> ProposingClient:
    return ProposingClient(network, request.node.name)


# mph_status ---------------------------------------------------------------------------------------------------------


def test_status_shows_the_assets_that_are_asked_for(network: Network) -> None:
    client = network.client("status")
    handle = network.open_connection(client)
    for assets in (None, ["XCP"]):
        status = network.hub.call("mph_status", assets=assets)
        assert status["connections"][handle]["status"] == "open"
        assert "XCP" in status["current_terms"]
        assert set(status["funds"]["liquidity"]) >= {"BTC", "XCP"}
    nothing = network.hub.call("mph_status", assets=[])
    assert (nothing["connections"], nothing["current_terms"]) == ({}, {})
    assert list(nothing["funds"]["liquidity"]) == ["BTC"]
    assert name_of(network, "mph_status", {"assets": ["NOSUCHASSET"]}) == "UnknownAsset"
    for nonsense in ("XCP", [1], {"XCP": 1}):
        assert name_of(network, "mph_status", {"assets": nonsense}) == "InvalidParams"


# mph_request --------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_with_handle_hash_and_terms_and_a_new_one_each_time(hand: ProposingClient) -> None:
    body = ConnectRequest("XCP", hand.secrets.spend_hash).as_json()
    first, second = hand.call("mph_request", body), hand.call("mph_request", body)
    for reply in (first, second):
        assert (len(reply["handle"]), len(reply["spend_secret_hash"])) == (64, 40)
    assert first["channel_terms"] == hand.network.hub.call("mph_status", assets=["XCP"])["current_terms"]["XCP"]
    assert first["handle"] != second["handle"]
    assert first["spend_secret_hash"] != second["spend_secret_hash"]


def test_a_request_must_be_signed_by_the_key_that_it_names(network: Network, hand: ProposingClient) -> None:
    body = ConnectRequest("XCP", hand.secrets.spend_hash).as_json()
    sealed = envelope.seal(hand.key, body)
    other = key_of("another").pubkey.hex()
    for broken in (
        body,
        {**sealed, "pubkey": other},
        {**sealed, "asset": "BTC"},
        {**sealed, "extra": 1},
        {**sealed, "signature": "00"},
        {**sealed, "signature": None},
        {**sealed, "pubkey": "02" + "ff" * 32},
        {name: value for name, value in sealed.items() if name != "signature"},
    ):
        assert name_of(network, "mph_request", broken) in ("BadClientSignature", "AssetNotInTerms")
    assert refusal(network, "mph_request", {**sealed, "extra": 1}).exit_code == 5


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"asset": "NOSUCHASSET"}, "AssetNotInTerms"),
        ({"asset": "BTC"}, "AssetNotInTerms"),
        ({"asset": None}, "BadRequest"),
        ({"spend_secret_hash": "00" * 19}, "BadRequest"),
        ({"spend_secret_hash": "AB" * 20}, "BadRequest"),
        ({"spend_secret_hash": 5}, "BadRequest"),
    ],
)
def test_a_request_is_refused_by_name(
    network: Network, hand: ProposingClient, changes: dict[str, Any], error: str
) -> None:
    body = ConnectRequest("XCP", hand.secrets.spend_hash).as_json() | changes
    assert name_of(network, "mph_request", envelope.seal(hand.key, body)) == error


# mph_deposit --------------------------------------------------------------------------------------------------------


def test_the_same_deposit_is_answered_with_the_same_bytes_and_another_refused(
    network: Network, hand: ProposingClient
) -> None:
    handle, hubs = hand.request()
    message = hand.deposit(hubs)
    sealed = envelope.seal(hand.key, message.as_json("XCP", handle))
    first = raw_result(network, "mph_deposit", sealed)
    assert json.loads(first)["result"]["quantity"] == DEPOSIT
    assert raw_result(network, "mph_deposit", sealed) == first
    for other in (
        replace(message, quantity=Quantity(DEPOSIT + 1)),
        replace(message, delay=DELAY + 1),
        replace(message, next_hash=hand.secrets.revoke_hash(1)),
        hand.deposit(hubs, expire=EXPIRE + 1),
    ):
        body = envelope.seal(hand.key, other.as_json("XCP", handle))
        assert name_of(network, "mph_deposit", body) == "DepositAlreadyGiven"
    assert raw_result(network, "mph_deposit", sealed) == first


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"expire": 11}, "InvalidTime"),
        ({"expire": 0}, "InvalidTime"),
        ({"delay": 0}, "InvalidTime"),
        ({"delay": -1}, "InvalidTime"),
        ({"delay": 2017}, "InvalidTime"),
        ({"quantity": 0}, "BadRequest"),
        ({"quantity": MAX_QUANTITY + 1}, "BadRequest"),
        ({"quantity": 10_000 * 10**8 + 1}, "InsufficientLiquidity"),
        ({"quantity": MAX_QUANTITY}, "InsufficientLiquidity"),
        ({"script": b""}, "BadDepositScript"),
        ({"script": b"\x51" * 150}, "BadDepositScript"),
        ({"next_hash": Hash(b"short")}, "BadRequest"),
    ],
)
def test_a_deposit_is_refused_by_name_and_a_right_one_taken_after(
    network: Network, hand: ProposingClient, changes: dict[str, Any], error: str
) -> None:
    handle, hubs = hand.request()
    wrong = hand.deposit(hubs, **changes)
    assert name_of(network, "mph_deposit", envelope.seal(hand.key, wrong.as_json("XCP", handle))) == error
    assert hand.call("mph_deposit", hand.deposit(hubs).as_json("XCP", handle))["quantity"] == DEPOSIT


def test_a_deposit_script_of_other_keys_or_hash_is_refused(network: Network, hand: ProposingClient) -> None:
    handle, hubs = hand.request()
    script = DepositScript(hand.key.pubkey, hub_key(network).pubkey, hubs, EXPIRE)
    other = key_of("another").pubkey
    for wrong in (
        replace(script, payer=other),
        replace(script, payee=other),
        replace(script, payer=script.payee, payee=script.payer),
        replace(script, spend_hash=hand.secrets.spend_hash),
    ):
        message = replace(hand.deposit(hubs), script=wrong.redeem)
        body = envelope.seal(hand.key, message.as_json("XCP", handle))
        assert name_of(network, "mph_deposit", body) == "BadDepositScript"


def test_a_deposit_is_the_connections_own(network: Network, hand: ProposingClient) -> None:
    handle, hubs = hand.request()
    body = hand.deposit(hubs).as_json("XCP", handle)
    other = key_of("a stranger's")
    assert name_of(network, "mph_deposit", envelope.seal(other, body)) == "BadClientSignature"
    assert name_of(network, "mph_deposit", body) == "BadClientSignature"
    assert name_of(network, "mph_deposit", envelope.seal(hand.key, {**body, "handle": STRANGER.hex()})) == (
        "UnknownHandle"
    )
    assert name_of(network, "mph_deposit", envelope.seal(hand.key, {**body, "handle": "12"})) == "InvalidHex"
    assert name_of(network, "mph_deposit", envelope.seal(hand.key, {"handle": handle.hex()})) == "BadRequest"


def test_a_spend_hash_does_not_pass_for_the_first_revoke_hash(network: Network, hand: ProposingClient) -> None:
    handle, hubs = hand.request()
    for taken, error in ((hand.secrets.spend_hash, "StaleRequest"), (hubs, "RepeatedHash")):
        wrong = hand.deposit(hubs, next_hash=taken)
        assert name_of(network, "mph_deposit", envelope.seal(hand.key, wrong.as_json("XCP", handle))) == error


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_deposit_address_that_was_ever_paid_is_refused(network: Network, hand: ProposingClient, blocks: int) -> None:
    handle, hubs = hand.request()
    script = DepositScript(hand.key.pubkey, hub_key(network).pubkey, hubs, EXPIRE)
    network.hub.call("faucet", address=address_of(script.output), btc=1000)
    network.mine(blocks)
    body = envelope.seal(hand.key, hand.deposit(hubs).as_json("XCP", handle))
    assert name_of(network, "mph_deposit", body) == "AddressUsed"


def test_what_is_promised_to_one_is_not_promised_to_another(tmp_path: Path) -> None:
    with running_network(tmp_path) as network:
        funds = network.hub.call("mph_status", assets=["XCP"])["funds"]["liquidity"]["XCP"]
        first, second = ProposingClient(network, "first"), ProposingClient(network, "second")
        handle, hubs = first.request()
        first.call("mph_deposit", first.deposit(hubs, quantity=Quantity(funds - 10)).as_json("XCP", handle))
        handle, hubs = second.request()
        body = second.deposit(hubs, quantity=Quantity(11)).as_json("XCP", handle)
        refused = refusal(network, "mph_deposit", envelope.seal(second.key, body))
        assert (refused.name, refused.data["available"]) == ("InsufficientLiquidity", 10)
        second.call("mph_deposit", second.deposit(hubs, quantity=Quantity(10)).as_json("XCP", handle))


def test_what_is_promised_to_one_who_never_deposits_is_free_again_after_144_blocks(tmp_path: Path) -> None:
    with running_network(tmp_path) as network:
        funds = network.hub.call("mph_status", assets=["XCP"])["funds"]["liquidity"]["XCP"]
        absent, other = ProposingClient(network, "absent"), ProposingClient(network, "other")
        handle, hubs = absent.request()
        promised = absent.deposit(hubs, quantity=Quantity(funds), expire=1024)
        absent.call("mph_deposit", promised.as_json("XCP", handle))
        network.mine(144)
        handle, hubs = other.request()
        body = other.deposit(hubs, quantity=Quantity(1)).as_json("XCP", handle)
        assert name_of(network, "mph_deposit", envelope.seal(other.key, body)) == "InsufficientLiquidity"
        network.mine(1)
        assert other.call("mph_deposit", body)["quantity"] == 1


# mph_sync -----------------------------------------------------------------------------------------------------------


class OpenConnection:
    """A connection whose client's requests are made by the test, from the state that the client would have."""

    def __init__(self, network: Network, client: Client, handle: str) -> None:
        kept = client.connection(handle)
        self.network = network
        self.key = client.key
        self.handle = kept.handle
        self.duplex = kept.duplex
        self.secrets = kept.secrets(client.key)
        self.numbers = dict(kept.numbers)
        self.next_number = kept.next_number

    def request(self, total: int, *payments: Payment) -> SyncRequest:
        """A right request that moves a sum."""
        return SyncRequest(self.handle, self._transfer(total)[1], payments, self.secrets.revoke_hash(self.next_number))

    def _transfer(self, total: int) -> tuple[pair.Duplex, pair.Half]:
        return pair.transfer(self.duplex, total, self.key, lambda item: self.secrets.revoke(self.numbers[item]))

    def sealed(self, request: SyncRequest, **changes: Any) -> dict[str, Any]:
        """Its signed body; without ``partial``, as the originals send it."""
        body = {name: value for name, value in request.as_json().items() if name != "partial"}
        return envelope.seal(self.key, body | changes)

    def refused(self, request: SyncRequest, **changes: Any) -> str:
        """The name that a request is refused by."""
        return name_of(self.network, "mph_sync", self.sealed(request, **changes))

    def sync(self, total: int, *payments: Payment, **changes: Any) -> SyncReply:
        """Send a right request and settle its reply."""
        request = self.request(total, *payments)
        body = self.sealed(request, **changes)
        result = RpcClient(self.network.hub_url).call("mph_sync", body, retry=False)
        assert envelope.signed_by(result, hub_key(self.network).pubkey)
        assert result["request_sha256"] == envelope.digest(body).hex()
        reply = SyncReply.parse(result)
        moved = pair.hand_out(self._transfer(total)[0], request.next_hash)
        self.numbers[request.next_hash] = self.next_number
        self.next_number += 1
        settled, _ = pair.settle(moved, reply.half, sum(item.amount for item in reply.receipts))
        self.duplex = pair.add_request(settled, reply.next_hash)
        return reply

    def close(self, secret: Secret | None = None) -> dict[str, Any]:
        """What the hub answers to a close."""
        body = envelope.seal(self.key, close_request(self.handle, secret))
        result: dict[str, Any] = RpcClient(self.network.hub_url).call("mph_close", body, retry=False)
        return result

    @property
    def paid(self) -> int:
        """What the hub has got from the client since the connection opened, as the hub tells it."""
        status = self.network.hub.call("mph_status", assets=None)["connections"]
        return int(status[self.handle.hex()]["balance"]) - DEPOSIT


def payment(payee: Handle | None, amount: int) -> Payment:
    """A payment with a token of its own."""
    return Payment(payee, Quantity(amount), Token(os.urandom(32)))


@pytest.fixture
def opened(network: Network, request: pytest.FixtureRequest) -> OpenConnection:
    """An open connection with one sync behind it."""
    client = network.client(request.node.name)
    handle = network.open_connection(client)
    client.run("sync")  # from then on the hub's deposit is in the state on disk
    return OpenConnection(network, client, handle)


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


# What a commit may be ------------------------------------------------------------------------------------------------


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


# What it may pay -----------------------------------------------------------------------------------------------------


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


# mph_close ----------------------------------------------------------------------------------------------------------


def test_a_close_where_nothing_moved_gives_the_spend_secret_and_ends_all_syncs(network: Network) -> None:
    client = network.client("untouched")
    still = OpenConnection(network, client, network.open_connection(client))
    request = still.request(1)
    given = bytes.fromhex(still.close()["spend_secret"])
    assert hash_of(Secret(given)) == still.duplex.sending.script.spend_hash
    assert still.refused(request) == "ConnectionNotOpen"
    assert bytes.fromhex(still.close()["spend_secret"]) == given


def test_a_close_publishes_the_hubs_commit_before_it_answers_and_keeps_the_secret(
    network: Network, opened: OpenConnection
) -> None:
    opened.sync(100, payment(None, 99))
    assert opened.close()["spend_secret"] is None
    (txid,) = network.bitcoin("getrawmempool")
    anchor = opened.duplex.sending.anchor
    assert anchor is not None
    assert anchor.outpoint in spent_outpoints(network.raw(txid))
    assert opened.refused(opened.request(1)) == "ConnectionNotOpen"
    assert opened.close()["spend_secret"] is None
    network.mine()


def test_a_close_is_refused_by_name(network: Network, hand: ProposingClient, opened: OpenConnection) -> None:
    for secret in (bytes(32), opened.secrets.revoke(0)):
        body = envelope.seal(opened.key, close_request(opened.handle, Secret(secret)))
        assert name_of(network, "mph_close", body) == "BadSecret"
    right = close_request(opened.handle, None)
    assert name_of(network, "mph_close", envelope.seal(hand.key, right)) == "BadClientSignature"
    assert name_of(network, "mph_close", envelope.seal(opened.key, {**right, "handle": STRANGER.hex()})) == (
        "UnknownHandle"
    )
    assert name_of(network, "mph_close", envelope.seal(opened.key, {"handle": opened.handle.hex()})) == "BadRequest"
    handle, _ = hand.request()
    body = envelope.seal(hand.key, close_request(handle, None))
    assert name_of(network, "mph_close", body) == "ConnectionNotOpen"
    opened.sync(1)  # nothing of it closed the connection


def test_the_client_s_spend_secret_gives_the_hub_its_deposit_at_once(network: Network) -> None:
    client = network.client("generous")
    given = OpenConnection(network, client, network.open_connection(client))
    address = address_of(given.duplex.receiving.script.output)
    assert client.run("balances", "--address", address)["XCP"] == DEPOSIT
    given.close(given.secrets.spend)
    network.mine()
    assert client.run("balances", "--address", address).get("XCP", 0) == 0
