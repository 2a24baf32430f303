"""The wire: every message comes back as it went out, and whatever is not exactly as it must be is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from channel_support import PAYEE, PAYER, digest, key, legacy, segwit
from envelope_support import counted_by
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel import messages
from picopayments_cli.channel.duplex import Half
from picopayments_cli.channel.envelope import canonical, counting, seal, signed_by
from picopayments_cli.channel.halves import Closing, Commit, Remainder
from picopayments_cli.channel.kept import MOST_STATE, Count, StateReply, StateRequest
from picopayments_cli.channel.keys import NUMS
from picopayments_cli.channel.keys import Key as WalletKey
from picopayments_cli.channel.messages import (
    CloseReply,
    CloseRequest,
    ConnectReply,
    ConnectRequest,
    DepositReply,
    DepositRequest,
    HubRefusal,
    KeyReply,
    KeyRequest,
    Recovered,
    SyncReply,
    SyncRequest,
)
from picopayments_cli.channel.opening import Party, Stake
from picopayments_cli.channel.receipts import Given, ReceiptsReply, ReceiptsRequest
from picopayments_cli.channel.stages import OPEN
from picopayments_cli.channel.standing import Standing
from picopayments_cli.channel.state import Signed
from picopayments_cli.channel.status import ShownConnection, StatusReply, StatusRequest
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.values import Handle, Hash, Outpoint, Quantity, Secret, Token
from picopayments_cli.channel.waiting import WaitingReply, WaitingRequest, Waits
from picopayments_cli.channel.wire import Anchors, Figures, Payment, Receipt, RefusedPayment, reply_json
from picopayments_cli.errors import BadReply, BadRequest, BadTerms, PicopaymentsError
from picopayments_cli.web import refusal

TERMS = Terms(10**12, 1, 1.5, 4032, 144, 1, 5, 100)
PARTY = Party(PAYER.xonly, PAYEE.xonly, legacy(key("wallet")))
OTHER = Party(PAYEE.xonly, PAYER.xonly, segwit(key("wallet")))
STAKE = Stake(Quantity(1000), 14, 1)
HANDLE, REQUEST = Handle(digest("handle")), digest("request")
HASH = Hash(digest("hash")[:20])
ANCHORS = Anchors(Outpoint(digest("c2h"), 0), Outpoint(digest("h2c"), 2**32 - 1))
COMMIT = Commit(Quantity(2**63 - 1), HASH, bytes(range(64)), bytes(range(65)))
REMAINDER = Remainder(Quantity(1), HASH, bytes(range(65)))
HALF = Half(REMAINDER, (Secret(digest("one")), Secret(digest("two"))), COMMIT)
STANDING = Standing(COMMIT, REMAINDER, HALF.revokes, (HASH, Hash(bytes(20))))
CLOSING = Closing(7, bytes(range(64)), bytes(range(65)))
SHOWN = ShownConnection("XCP", None, 5, None, OPEN)
COUNT = counted_by(PAYER, Count(HANDLE, 7, 253_402_300_799).as_json())
RECOVERED = Recovered(HANDLE, "XCP", bytes(16), PARTY, OTHER, 499_999_999, STAKE, STAKE, ANCHORS)

EXAMPLES: list[Any] = [
    HubRefusal(REQUEST, "ConnectionNotOpen", "It is closing.", {"stage": "closing"}),
    StatusRequest(),
    StatusRequest(("XCP", "A.b"), (HANDLE,)),
    StatusReply(
        *("address", "text", "c2ln", {"BTC": 0, "XCP": 7}, {"XCP": TERMS}, {"A1": "A.b"}),
        {"opening": 0, "open": 1, "closing": 2**40},
        {HANDLE: SHOWN},
    ),
    KeyRequest(digest("nonce")),
    KeyRequest(digest("nonce"), HANDLE),
    KeyReply(REQUEST),
    KeyReply(REQUEST, (RECOVERED, replace(RECOVERED, anchors=Anchors(None, None)))),
    ConnectRequest("XCP", PARTY, digest("salt")[:16]),
    ConnectReply(REQUEST, HANDLE, OTHER, TERMS),
    DepositRequest(HANDLE, STAKE, 5, 900_000, bytes(34), HASH),
    DepositReply(REQUEST, STAKE, 900_000, bytes(34), HASH, 899_000, 25),
    SyncRequest(HANDLE, ANCHORS, Half(), (), HASH, 1),
    SyncRequest(HANDLE, ANCHORS, HALF, (Payment(None, Quantity(1), Token(b"")),), HASH, 2, partial=False),
    SyncRequest(
        HANDLE, ANCHORS, HALF, (Payment(HANDLE, Quantity(2), Token(bytes(256)), 5),), HASH, 2**53 - 1, b"sealed"
    ),
    SyncReply(REQUEST, Half(), (), (), HASH, COUNT),
    SyncReply(
        REQUEST,
        HALF,
        (Receipt(HANDLE, Quantity(3), Token(b"t"), 253_402_300_799),),
        (RefusedPayment(Token(b"u"), "Cause"),),
        HASH,
        COUNT,
    ),
    CloseRequest(HANDLE, Anchors(None, None), Figures(0, 0), Standing()),
    CloseRequest(HANDLE, ANCHORS, Figures(2**63 - 1, 7), STANDING, CLOSING, bytes(range(64))),
    CloseReply(REQUEST, Anchors(None, None), Figures(0, 0), Standing()),
    CloseReply(REQUEST, ANCHORS, Figures(7, 8), STANDING, replace(CLOSING, rest_signature=None), bytes(64)),
    WaitingRequest(digest("nonce"), ()),
    WaitingRequest(digest("nonce"), (HANDLE, Handle(REQUEST)), 30),
    ReceiptsRequest(digest("nonce"), HANDLE, (), ()),
    ReceiptsRequest(digest("nonce"), HANDLE, (Given(Handle(REQUEST), digest("r")),), (Token(digest("token")),)),
    ReceiptsReply(REQUEST),
    ReceiptsReply(REQUEST, (digest("r"), digest("s"))),
    DepositRequest(HANDLE, STAKE, 5, 900_000, bytes(34), HASH, bytes(MOST_STATE)),
    StateRequest(digest("nonce"), HANDLE),
    StateRequest(digest("nonce"), HANDLE, HASH),
    StateReply(REQUEST),
    StateReply(
        REQUEST,
        COUNT,
        {},
        {},
        (Signed(Quantity(1), HASH), Signed(Quantity(2), HASH, bytes(65), Secret(digest("one")))),
        (COMMIT,),
    ),
    WaitingReply(REQUEST),
    WaitingReply(REQUEST, (Waits(HANDLE, 1, 2**63 - 1, 0), Waits(Handle(REQUEST), 5000, 1, 253_402_300_799))),
]


def as_sent(message: Any) -> Any:
    """A message's body as it arrives."""
    return json.loads(json.dumps(message.as_json()))


def paths(body: Any, base: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a member or an item stands in a body."""
    found = []
    for name, value in body.items() if isinstance(body, dict) else enumerate(body):
        found.append((*base, name))
        if isinstance(value, (dict, list)):
            found += paths(value, (*base, name))
    return found


def changed(body: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """The body with something done to the container of a place."""
    copied = json.loads(json.dumps(body))
    inner = copied
    for name in path[:-1]:
        inner = inner[name]
    change(inner, path[-1])
    return copied


def error_of(message: Any) -> tuple[type[PicopaymentsError], ...]:
    """The classes that refuse a body of that kind."""
    is_request = type(message).__name__.endswith("Request")
    return (BadRequest,) if is_request else (BadReply, BadTerms)


def ids(message: Any) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", EXAMPLES, ids=ids)
def test_a_message_comes_back_as_it_went_out(message: Any) -> None:
    assert type(message).parse(as_sent(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=ids)
def test_unknown_members_at_the_top_are_passed_over_and_in_items_refused(message: Any) -> None:
    body = as_sent(message)
    assert type(message).parse({**body, "later": 1, "pubkey": "", "signature": ""}) == message
    free = {"data", "liquidity", "longnames", "current_terms", "connections", "asked", "answered"}
    for path in paths(body):
        inner = body
        for name in path:
            inner = inner[name]
        if isinstance(inner, dict) and path[-1] not in free and path[0] != "current_terms":
            with pytest.raises(error_of(message)):
                type(message).parse(changed(body, (*path, "later"), lambda held, name: held.__setitem__(name, 1)))


@pytest.mark.parametrize("message", [item for item in EXAMPLES if not isinstance(item, StatusRequest)], ids=ids)
def test_a_missing_member_is_refused(message: Any) -> None:
    body = as_sent(message)
    for path in paths(body):
        if isinstance(path[-1], str) and path[0] not in ("args", "data", "liquidity", "longnames") and path[-1] not in (
            "XCP", "A1", HANDLE.hex()
        ):  # fmt: skip
            with pytest.raises(error_of(message)):
                type(message).parse(changed(body, path, lambda held, name: held.pop(name)))


@pytest.mark.parametrize("message", EXAMPLES, ids=ids)
@pytest.mark.parametrize("junk", [[1], {"a": 1}, -1, 2**64, 1.5, True, "", "zz", "00" * 33, "AB" * 32, ["00"] * 1001])
def test_a_member_of_another_type_or_size_is_refused(message: Any, junk: Any) -> None:
    body = as_sent(message)
    for path in paths(body):
        if path[0] in ("data", "message", "address", "signature"):  # free texts
            continue
        try:
            parsed = type(message).parse(changed(body, path, lambda held, name: held.__setitem__(name, junk)))
        except error_of(message):
            continue
        again = type(parsed).parse(as_sent(parsed))
        assert again == parsed  # what is taken is a message of the protocol


@pytest.mark.parametrize("junk", [None, 1, "text", [], [{}]])
@pytest.mark.parametrize("message", EXAMPLES, ids=ids)
def test_what_is_no_object_is_refused(message: Any, junk: Any) -> None:
    with pytest.raises(error_of(message)):
        type(message).parse(junk)


@pytest.mark.parametrize("message", EXAMPLES, ids=ids)
def test_a_message_survives_the_envelope(message: Any) -> None:
    owner = WalletKey(digest("signer"))
    use = counting(owner.pubkey)
    sealed = seal(owner, message.as_json(), use)
    assert signed_by(sealed, owner.pubkey, use) is not None
    assert json.loads(canonical(sealed))["pubkey"] == owner.pubkey.hex()
    if not isinstance(message, (StatusReply, StatusRequest)):
        assert type(message).parse(sealed) == message


# Bounds -------------------------------------------------------------------------------------------------------------


def put(message: Any, value: Any, *path: Any) -> Any:
    """The message parsed with one member at another value."""
    return type(message).parse(changed(as_sent(message), path, lambda held, name: held.__setitem__(name, value)))


SYNC, SYNCED = EXAMPLES[13], EXAMPLES[16]
CLOSE = EXAMPLES[18]
DEPOSIT = EXAMPLES[10]
NUMBERS = [
    (SYNC, ("commit", "quantity"), 1, 2**63 - 1),
    (SYNC, ("remainder", "quantity"), 1, 2**63 - 1),
    (SYNC, ("sends", 0, "amount"), 1, 2**63 - 1),
    (CLOSE, ("c2h_quantity",), 0, 2**63 - 1),
    (CLOSE, ("h2c_quantity",), 0, 2**63 - 1),
    (DEPOSIT, ("expiry_height",), 1, 499_999_999),
    (DEPOSIT, ("h2c_fee_rate",), 1, 100),
    (DEPOSIT, ("c2h", "quantity"), 1, 2**63 - 1),
    (DEPOSIT, ("c2h", "delay_time"), 2, 2016),
    (DEPOSIT, ("c2h", "fee_rate"), 1, 100),
    (SYNC, ("counter",), 1, 2**53 - 1),
    (SYNC, ("protocol",), 3, 3),
]


@pytest.mark.parametrize(("message", "path", "least", "most"), NUMBERS)
def test_numbers_are_taken_within_their_bounds_only(message: Any, path: tuple[Any, ...], least: int, most: int) -> None:
    put(message, least, *path)
    put(message, most, *path)
    for beyond in (least - 1, most + 1, -(2**70), 2**70, str(least), float(least), least != 1, None):
        with pytest.raises(BadRequest):
            put(message, beyond, *path)


SIZES = [
    (SYNC, ("handle",), 32),
    (SYNC, ("next_revoke_hash",), 20),
    (SYNC, ("revokes", 0), 32),
    (SYNC, ("commit", "revoke_hash"), 20),
    (SYNC, ("commit", "signature"), 64),
    (SYNC, ("commit", "payout_signature"), 65),
    (SYNC, ("remainder", "signature"), 65),
    (CLOSE, ("doubts", 0), 20),
    (CLOSE, ("h2c_close", "signature"), 64),
    (CLOSE, ("h2c_close", "rest_signature"), 65),
    (CLOSE, ("c2h_signature",), 64),
    (DEPOSIT, ("deposit_output",), 34),
    (EXAMPLES[8], ("salt",), 16),
    (EXAMPLES[4], ("nonce",), 32),
]


@pytest.mark.parametrize(("message", "path", "size"), SIZES)
def test_bytes_are_taken_in_their_size_only(message: Any, path: tuple[Any, ...], size: int) -> None:
    put(message, "00" * size, *path)
    for other in (size - 1, size + 1, 2 * size):
        with pytest.raises(BadRequest):
            put(message, "00" * other, *path)
    with pytest.raises(BadRequest):
        put(message, "AA" * size, *path)


@pytest.mark.parametrize("name", ["payer_key", "payee_key"])
@pytest.mark.parametrize("bad", [b"\x02" + PAYER.xonly.data, PAYER.xonly.data[1:], b"\xff" * 32, bytes(32), b""])
def test_a_key_has_32_bytes_and_is_on_the_curve(name: str, bad: bytes) -> None:
    asked = EXAMPLES[8]
    put(asked, NUMS.data.hex(), "client", name)  # on the curve; that it is nobody's, the contract refuses
    with pytest.raises(BadRequest):
        put(asked, bad.hex(), "client", name)


@pytest.mark.parametrize(
    "bad", ["51" + "00" * 33, "5120" + "00" * 32, "a914" + "00" * 20 + "87", "", "0015" + "00" * 21]
)
def test_a_wallet_is_of_a_kind_that_can_be_signed_for(bad: str) -> None:
    with pytest.raises(BadRequest):
        put(EXAMPLES[8], bad, "client", "wallet_script")


@pytest.mark.parametrize(
    "bad", ["00" * 32, "00" * 32 + ":", "00" * 32 + ":01", "00" * 32 + f":{2**32}", "00" * 31 + ":0", "AA" * 32 + ":0"]
)
def test_an_outpoint_is_written_in_one_way(bad: str) -> None:
    put(SYNC, "00" * 32 + ":0", "c2h_anchor")
    put(SYNC, None, "c2h_anchor")
    with pytest.raises(BadRequest):
        put(SYNC, bad, "c2h_anchor")


@pytest.mark.parametrize(
    ("message", "name", "item", "most"),
    [
        (SYNC, "revokes", "00" * 32, 256),
        (CLOSE, "revokes", "00" * 32, 256),
        (CLOSE, "doubts", "00" * 20, 256),
        (SYNC, "sends", {"payee_handle": None, "amount": 1, "token": "", "expires": None}, 1000),
    ],
)
def test_lists_are_bounded(message: Any, name: str, item: Any, most: int) -> None:
    put(message, [item] * most, name)
    with pytest.raises(BadRequest):
        put(message, [item] * (most + 1), name)


def test_the_longest_sync_fits_into_a_request() -> None:
    payment = Payment(HANDLE, Quantity(2**63 - 1), Token(bytes(256)))
    half = replace(HALF, revokes=(HALF.revokes[0],) * 256)
    longest = SyncRequest(HANDLE, ANCHORS, half, (payment,) * messages.MOST_PAYMENTS, HASH, 1, bytes(MOST_STATE))
    assert len(json.dumps(longest.as_json())) < 900_000


@pytest.mark.parametrize("cause", ["", "two words", "x" * 65, "Ärger", "1st"])
def test_a_cause_is_a_name(cause: str) -> None:
    with pytest.raises(BadReply):
        put(SYNCED, cause, "refused", 0, "name")
    with pytest.raises(BadReply):
        put(EXAMPLES[0], cause, "type")


def test_a_state_has_a_longest_size() -> None:
    for message in (SYNC, DEPOSIT):
        assert put(message, "00" * MOST_STATE, "state").state == bytes(MOST_STATE)
        with pytest.raises(BadRequest):
            put(message, "00" * (MOST_STATE + 1), "state")


def test_a_token_has_a_longest_size() -> None:
    put(SYNC, "00" * 256, "sends", 0, "token")
    with pytest.raises(BadRequest):
        put(SYNC, "00" * 257, "sends", 0, "token")


@pytest.mark.parametrize(("stage", "shown"), [*((name, name) for name in messages.STAGES), ("else", None), (7, None)])
def test_a_refusal_names_the_stage(stage: Any, shown: str | None) -> None:
    assert put(EXAMPLES[0], stage, "data", "stage").stage == shown


@pytest.mark.parametrize("data", [{}, {"stage": "closing", "quantity": 7}])
def test_a_refusal_has_the_form_of_every_servers_and_names_its_request(data: dict[str, Any]) -> None:
    refused = HubRefusal(REQUEST, "ConnectionNotOpen", "It is closing.", data)
    assert refused.as_json() == reply_json(REQUEST, refusal("ConnectionNotOpen", "It is closing.", data))
    assert HubRefusal.parse(as_sent(refused)) == refused


def test_the_request_that_a_reply_answers_is_found() -> None:
    assert messages.request_of(as_sent(SYNCED)) == REQUEST
    with pytest.raises(BadReply):
        messages.request_of({"request_sha256": "00"})


# Any values ---------------------------------------------------------------------------------------------------------

HASHES = st.binary(min_size=20, max_size=20).map(Hash)
QUANTITIES = st.integers(1, 2**63 - 1).map(Quantity)
COMMITS = st.builds(
    Commit, QUANTITIES, HASHES, st.binary(min_size=64, max_size=64), st.binary(min_size=65, max_size=65)
)
REMAINDERS = st.builds(Remainder, QUANTITIES, HASHES, st.binary(min_size=65, max_size=65))
SECRETS = st.lists(st.binary(min_size=32, max_size=32).map(Secret), max_size=4).map(tuple)
HALVES = st.builds(Half, st.none() | REMAINDERS, SECRETS, st.none() | COMMITS)
HANDLES = st.binary(min_size=32, max_size=32).map(Handle)
TOKENS = st.binary(max_size=256).map(Token)
PAYMENTS = st.lists(st.builds(Payment, st.none() | HANDLES, QUANTITIES, TOKENS), max_size=3).map(tuple)


@given(HANDLES, HALVES, PAYMENTS, HASHES, st.booleans())
def test_any_sync_comes_back(
    handle: Handle, half: Half, payments: tuple[Payment, ...], next_hash: Hash, partial: bool
) -> None:
    sync = SyncRequest(handle, ANCHORS, half, payments, next_hash, 1, b"", partial)
    assert SyncRequest.parse(as_sent(sync)) == sync


@pytest.mark.parametrize("asset", ["BTC", "XCP"])
@pytest.mark.parametrize("amount", [None, True, -1, 2**63, 1.0, "1"])
def test_a_hub_says_how_much_it_holds_of_bitcoin_and_of_what_it_offers(asset: str, amount: Any) -> None:
    status = next(item for item in EXAMPLES if isinstance(item, StatusReply))
    with pytest.raises(BadReply):
        put(status, amount, "funds", "liquidity", asset)
    with pytest.raises(BadReply):
        StatusReply.parse(changed(as_sent(status), ("funds", "liquidity", asset), lambda held, name: held.pop(name)))
