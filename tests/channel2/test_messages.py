"""Each member of a message, of terms and of a value, broken alone, is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from channel2_support import (
    PAYER,
    hashed,
    secret,
)

from picopayments_cli.channel import envelope
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.values import (
    MAX_QUANTITY,
    Coin,
    Entry,
    Handle,
    Hash,
    Height,
    Outpoint,
    Quantity,
    Token,
    check_quantity,
    check_secret,
    from_hex,
)
from picopayments_cli.channel2.duplex import Half
from picopayments_cli.channel2.messages import (
    CloseReply,
    CloseRequest,
    ConnectReply,
    ConnectRequest,
    DepositMessage,
    DepositRequest,
    KeyRequest,
    Payment,
    Receipt,
    Refusal,
    StatusReply,
    StatusRequest,
    SyncReply,
    SyncRequest,
    answering,
    answers,
    refuses,
)
from picopayments_cli.channel2.state import Offer
from picopayments_cli.channel2.terms import Terms, check_delay
from picopayments_cli.errors import (
    BadAnswer,
    BadReply,
    BadRequest,
    BadSecret,
    BadTerms,
    DepositRefused,
    InvalidHex,
    InvalidQuantity,
    InvalidTime,
    PicopaymentsError,
    SecretLikeSignature,
)

# Values -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "ab", "00ff"])
def test_lower_case_hex_is_read(value: str) -> None:
    assert from_hex(value, "thing").hex() == value


NO_HEX: list[Any] = ["a", "AB", "aB", "0x00", " ab", "ab ", "gg", "\uff10\uff10", b"ab", None, 5, ["ab"], {}]


@pytest.mark.parametrize("value", NO_HEX)
def test_other_text_than_lower_case_hex_is_refused(value: Any) -> None:
    with pytest.raises(InvalidHex):
        from_hex(value, "thing")


def test_hex_of_another_size_is_refused() -> None:
    for value in ("", "ab", "abab" * 2):
        with pytest.raises(InvalidHex):
            from_hex(value, "thing", 2)
    with pytest.raises(InvalidHex):
        Outpoint.parse("ab:1")
    assert Outpoint.parse(f"{'ab' * 32}:{2**32 - 1}").vout == 2**32 - 1
    for end in ("", "x", "-1", "1.0", "\u00b2", str(2**32), "9" * 5000, "1:1"):
        with pytest.raises(InvalidHex):
            Outpoint.parse(f"{'ab' * 32}:{end}")
    assert str(Outpoint.parse(f"{'ab' * 31}cd:7")) == f"{'ab' * 31}cd:7"
    assert Outpoint.parse(f"{'ab' * 31}cd:7").txid == b"\xcd" + b"\xab" * 31


@pytest.mark.parametrize("value", [0, -1, 2**63, True, 1.0, "1", None, [1], float("nan")])
def test_other_values_than_quantities_are_refused(value: Any) -> None:
    with pytest.raises(InvalidQuantity):
        check_quantity(value)


def test_quantities_are_taken_to_their_limits() -> None:
    assert [check_quantity(value) for value in (1, 2**63 - 1)] == [1, 2**63 - 1]


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(BadSecret):
        check_secret(bytes(size))


def test_a_secret_that_begins_like_a_signature() -> None:
    with pytest.raises(SecretLikeSignature):
        check_secret(b"\x30\x1d\x02" + bytes(29))
    for start in (b"\x30\x1e\x02", b"\x31\x1d\x02", b"\x30\x1d\x03"):
        assert check_secret(start + bytes(29)) == start + bytes(29)


def test_an_unconfirmed_coin_has_no_depth() -> None:
    script, height, outpoint = b"", Height(100), Outpoint(bytes(32), 0)
    assert Coin(outpoint, 1, script, height).depth(100) == 1
    assert Entry(b"", b"", height).depth(105) == 6
    assert Coin(outpoint, 1, script, None).depth(105) == 0
    assert Entry(b"", b"", None).depth(105) == 0


def test_an_outpoint_has_one_number() -> None:
    assert Outpoint.parse(str(Outpoint(b"\1" * 32, 7))) == Outpoint(b"\1" * 32, 7)
    for bad in ("ab" * 32, "ab" * 32 + ":", "ab" * 32 + ":1:2", "ab" * 31 + ":1", "ab" * 32 + ":-1"):
        with pytest.raises(InvalidHex):
            Outpoint.parse(bad)


MISSING = object()

# Messages -----------------------------------------------------------------------------------------------------------

HANDLE, OTHER_HANDLE = Handle(b"\xaa" * 32), Handle(b"\xbb" * 32)
HALF = Half((secret("one"), secret("two")), Offer(b"\x01\x02", b"\x03"))
TERMS = {
    "deposit_max": 0,
    "deposit_min": 10,
    "deposit_ratio": 1.5,
    "expire_max": 0,
    "expire_min": 144,
    "sync_fee": 1,
    "fee_rate": 5,
}
CONNECT_REQUEST = ConnectRequest("XCP", hashed("one"))
CONNECT_REPLY = ConnectReply(HANDLE, hashed("one"), TERMS)
DEPOSIT_MESSAGE = DepositMessage(b"\x01\x02", hashed("one"), Quantity(7), 2)
SYNC_REQUEST = SyncRequest(
    HANDLE,
    HALF,
    (Payment(OTHER_HANDLE, Quantity(5), Token(b"t")), Payment(None, Quantity(6), Token(b"u" * 256))),
    hashed("three"),
)
SYNC_REPLY = SyncReply(
    HALF,
    (Receipt(OTHER_HANDLE, Quantity(5), Token(b"t")),),
    hashed("three"),
    (Refusal(Token(b"u"), "PaymentExceedsReceivable"),),
)

STATUS_REPLY = StatusReply(
    address="an address",
    message="00",
    signature="c2ln",
    liquidity={"BTC": 5, "XCP": 7},
    terms={"XCP": TERMS},
    longnames={"A7": "PARENT.child"},
    connections={HANDLE.hex(): {"balance": 7}},
)


def parse_deposit_request(body: Any) -> DepositMessage:
    return DepositMessage.parse(body, BadRequest)


ROUNDS: list[tuple[Any, Callable[[Any], Any], type[PicopaymentsError]]] = [
    (CONNECT_REQUEST, ConnectRequest.parse, BadRequest),
    (CONNECT_REPLY, ConnectReply.parse, BadReply),
    (DEPOSIT_MESSAGE, parse_deposit_request, BadRequest),
    (SYNC_REQUEST, SyncRequest.parse, BadRequest),
    (SyncRequest(HANDLE, Half(), (), hashed("three")), SyncRequest.parse, BadRequest),
    (SYNC_REPLY, SyncReply.parse, BadReply),
    (SyncReply(Half((), None), (), hashed("three")), SyncReply.parse, BadReply),
    (STATUS_REPLY, StatusReply.parse, BadAnswer),
    (DepositRequest(DEPOSIT_MESSAGE, "XCP", HANDLE), DepositRequest.parse, BadRequest),
    (replace(SYNC_REQUEST, partial=False), SyncRequest.parse, BadRequest),
    (CloseRequest(HANDLE, secret("one"), HALF), CloseRequest.parse, BadRequest),
    (CloseRequest(HANDLE, None, Half()), CloseRequest.parse, BadRequest),
    (CloseRequest(HANDLE, None), CloseRequest.parse, BadRequest),  # an original client's
    (CloseReply(secret("one"), HALF), CloseReply.parse, BadReply),
    (CloseReply(None, Half()), CloseReply.parse, BadReply),
    (CloseReply(None), CloseReply.parse, BadReply),
]


@pytest.mark.parametrize(("value", "parse", "error"), ROUNDS)
def test_messages_come_out_as_they_went_in(
    value: Any, parse: Callable[[Any], Any], error: type[PicopaymentsError]
) -> None:
    body = json.loads(json.dumps(value.as_json()))
    assert parse(body) == value
    assert parse({**body, "of another program": [1]}) == value
    for broken in (None, [], "", 5, [body]):
        with pytest.raises(error):
            parse(broken)


def test_what_is_on_the_wire() -> None:
    """To the letter: hubs and clients of other versions read it."""
    assert StatusRequest(None).as_json() == {"assets": None}
    assert StatusRequest("XCP").as_json() == {"assets": ["XCP"]}
    assert KeyRequest(b"\x01\x02").as_json() == {"nonce": "0102"}
    deposit = DEPOSIT_MESSAGE.as_json()
    assert list(deposit) == ["deposit_script", "next_revoke_secret_hash", "quantity", "delay_time"]
    request = DepositRequest(DEPOSIT_MESSAGE, "XCP", HANDLE).as_json()
    assert request == {**deposit, "asset": "XCP", "handle": HANDLE.hex()}
    assert CloseRequest(HANDLE, None).as_json() == {"handle": HANDLE.hex(), "spend_secret": None}
    half: dict[str, Any] = {"revokes": [], "commit": None}
    assert CloseRequest(HANDLE, secret("one"), Half()).as_json() == {
        "handle": HANDLE.hex(),
        "spend_secret": secret("one").hex(),
        **half,
    }
    assert CloseReply(None, Half()).as_json() == {"spend_secret": None, **half}
    assert list(STATUS_REPLY.as_json()) == ["funds", "current_terms", "longnames", "connections"]
    assert list(STATUS_REPLY.as_json()["funds"]) == ["address", "message", "signature", "liquidity"]
    assert list(SYNC_REQUEST.as_json())[:4] == ["handle", "next_revoke_secret_hash", "sends", "partial"]


def test_a_reply_names_the_request_that_it_answers() -> None:
    request, other = envelope.seal(PAYER, {"a": 1}), envelope.seal(PAYER, {"a": 2})
    body = answering({"type": "UnknownHandle"}, envelope.digest(request))
    assert list(body) == ["type", "request_sha256"]
    assert answers(body, request)
    assert not answers(body, other)
    assert not answers({}, request)
    assert refuses(body, "UnknownHandle", request)
    assert not refuses(body, "StaleRequest", request)
    assert not refuses(body, "UnknownHandle", other)


def test_a_sync_without_its_payments_is_the_same_but_for_them() -> None:
    body = {**SYNC_REQUEST.as_json(), "of another program": 1}
    left = SyncRequest.without_payments(body)
    assert left == {**body, "sends": []}
    assert SyncRequest.parse(left) == replace(SYNC_REQUEST, payments=())


@pytest.mark.parametrize("partial", [False, 1, "true", None, MISSING])
def test_nothing_but_true_asks_for_payments_to_be_refused_alone(partial: object) -> None:
    body = {name: value for name, value in SYNC_REQUEST.as_json().items() if name != "partial"}
    assert not SyncRequest.parse(body if partial is MISSING else {**body, "partial": partial}).partial


@pytest.mark.parametrize("name", ["funds", "current_terms", "connections"])
def test_a_status_without_what_the_client_shows(name: str) -> None:
    body = STATUS_REPLY.as_json()
    not_objects: list[Any] = [None, [], "ab", 5]
    for wrong in not_objects:
        with pytest.raises(BadAnswer):
            StatusReply.parse({**body, name: wrong})
    with pytest.raises(BadAnswer):
        StatusReply.parse({other: value for other, value in body.items() if other != name})


@pytest.mark.parametrize("amount", [MISSING, None, True, -1, 2**63, 1.0, "1"])
@pytest.mark.parametrize("asset", ["BTC", "XCP"])
def test_a_status_with_impossible_liquidity(asset: str, amount: Any) -> None:
    body = STATUS_REPLY.as_json()
    held = {name: value for name, value in body["funds"]["liquidity"].items() if name != asset}
    held |= {} if amount is MISSING else {asset: amount}
    with pytest.raises(BadAnswer):
        StatusReply.parse({**body, "funds": {**body["funds"], "liquidity": held}})


def test_a_status_of_a_hub_that_knows_no_longnames() -> None:
    body = STATUS_REPLY.as_json()
    del body["longnames"]
    assert StatusReply.parse(body).longnames == {}
    with pytest.raises(BadAnswer):
        StatusReply.parse({**body, "longnames": []})


def test_an_original_hubs_reply_without_refusals_is_one() -> None:
    body = SYNC_REPLY.as_json()
    del body["refused"]
    assert SyncReply.parse(body).refused == ()


@pytest.mark.parametrize(
    ("name", "wrong"), [("revokes", "ab"), ("revokes", ["zz"]), ("commit", {"rawtx": "ab"}), ("commit", "ab")]
)
def test_a_standing_that_can_not_be_read(name: str, wrong: Any) -> None:
    body = CloseRequest(HANDLE, None, HALF).as_json()
    with pytest.raises(BadRequest):
        CloseRequest.parse({**body, name: wrong})
    reply = CloseReply.parse({**CloseReply(secret("one"), HALF).as_json(), name: wrong})
    assert (reply.spend_secret, reply.standing) == (secret("one"), None)  # it does not hold the secret back
    assert isinstance(reply.unreadable, BadReply)


@pytest.mark.parametrize("handle", [None, "", "ab" * 31, "AB" * 32, 5])
def test_a_request_for_no_handle(handle: Any) -> None:
    for request in (CloseRequest(HANDLE, None), DepositRequest(DEPOSIT_MESSAGE, "XCP", HANDLE)):
        with pytest.raises(InvalidHex):
            type(request).parse({**request.as_json(), "handle": handle})


def test_requests_ask_for_protocol_2_and_partial_syncs() -> None:
    asked = ConnectRequest("XCP", Hash(bytes(20))).as_json()
    assert asked["protocol"] == 2
    assert asked["url"] is None
    request = SyncRequest(Handle(bytes(32)), Half(), (), Hash(bytes(20)))
    assert request.as_json()["partial"] is True


@pytest.mark.parametrize("size", [1, 250])
def test_an_assets_name_has_a_letter_at_least_and_250_at_most(size: int) -> None:
    body = ConnectRequest("A" * size, Hash(bytes(20))).as_json()
    assert len(ConnectRequest.parse(body).asset) == size
    with pytest.raises(BadRequest):
        ConnectRequest.parse({**body, "asset": "A" * 251})


def test_a_payment_to_the_hub_itself_has_no_payee() -> None:
    payment = Payment(None, Quantity(5), Token(b"t"))
    request = SyncRequest(Handle(bytes(32)), Half(), (payment,), Hash(bytes(20)))
    assert SyncRequest.parse(request.as_json()).payments == (payment,)


def test_a_refusals_name_has_at_most_64_letters() -> None:
    def parse(name: str) -> SyncReply:
        return SyncReply.parse(SyncReply(Half(), (), Hash(bytes(20)), (Refusal(Token(b"t"), name),)).as_json())

    assert parse("N" * 64).refused[0].cause == "N" * 64
    with pytest.raises(BadReply):
        parse("N" * 65)


NOT_HEX: list[Any] = [None, 5, True, 1.5, [], {}, "AB", "abc", "zz"]
NOT_HASH = [*NOT_HEX, "", "ab" * 19, "ab" * 21]
NOT_HANDLE = [*NOT_HEX, "", "ab" * 31, "ab" * 33]
NOT_QUANTITY: list[Any] = [None, True, 1.0, "1", 0, -1, 2**63, [], {}]
NOT_NUMBER: list[Any] = [None, True, 1.0, "1", [], {}]
NOT_LIST: list[Any] = [None, True, 1, "ab", {}]
SEND = SYNC_REQUEST.as_json()["sends"][0]
RECEIVE = SYNC_REPLY.as_json()["receive"][0]
OFFERED = SYNC_REPLY.as_json()["commit"]
NO_TOKEN = [*NOT_HEX, "", "ab" * 257]


def items(item: dict[str, Any], wrong: dict[str, list[Any]]) -> list[Any]:
    """Lists whose one item has a member too few, too many, or of a wrong type."""
    short = [{name: value for name, value in item.items() if name != gone} for gone in item]
    typed = [{**item, name: value} for name, values in wrong.items() for value in values]
    broken: list[Any] = [*short, {**item, "more": 1}, *typed, None, "ab", []]
    return [[bad] for bad in broken]


NO_HALF: dict[str, list[Any]] = {
    "revokes": [*NOT_LIST, *[[value] for value in NOT_HEX]],
    "commit": [
        *[5, True, "ab", []],
        {"rawtx": "01"},
        {"script": "01"},
        {},
        {**OFFERED, "more": 1},
        *[{**OFFERED, name: value} for name in ("rawtx", "script") for value in NOT_HEX],
    ],
}
WRONG: list[tuple[Any, Callable[[Any], Any], type[PicopaymentsError], dict[str, list[Any]]]] = [
    (
        CONNECT_REQUEST,
        ConnectRequest.parse,
        BadRequest,
        {"asset": [None, 5, True, "", "A" * 251, []], "spend_secret_hash": NOT_HASH},
    ),
    (
        CONNECT_REPLY,
        ConnectReply.parse,
        BadReply,
        {"handle": NOT_HANDLE, "spend_secret_hash": NOT_HASH, "channel_terms": []},
    ),
    (
        DEPOSIT_MESSAGE,
        parse_deposit_request,
        BadRequest,
        {
            "deposit_script": NOT_HEX,
            "next_revoke_secret_hash": NOT_HASH,
            "quantity": NOT_QUANTITY,
            "delay_time": NOT_NUMBER,
        },
    ),
    (
        SYNC_REQUEST,
        SyncRequest.parse,
        BadRequest,
        {
            "handle": NOT_HANDLE,
            "next_revoke_secret_hash": NOT_HASH,
            "sends": [
                *NOT_LIST,
                *items(SEND, {"payee_handle": NOT_HANDLE[1:], "amount": NOT_QUANTITY, "token": NO_TOKEN}),
            ],
            **NO_HALF,
        },
    ),
    (
        SYNC_REPLY,
        SyncReply.parse,
        BadReply,
        {
            "next_revoke_secret_hash": NOT_HASH,
            "receive": [
                *NOT_LIST,
                *items(RECEIVE, {"payer_handle": NOT_HANDLE, "amount": NOT_QUANTITY, "token": NO_TOKEN}),
            ],
            **NO_HALF,
        },
    ),
]


def broken_bodies() -> list[Any]:
    """Every member of every message, missing and of each wrong type."""
    return [
        pytest.param(value.as_json(), parse, error, member, bad, id=f"{type(value).__name__}-{member}-{number}")
        for value, parse, error, wrong in WRONG
        for member, values in wrong.items()
        for number, bad in enumerate([MISSING, *values])
    ]


@pytest.mark.parametrize(("body", "parse", "error", "member", "bad"), broken_bodies())
def test_a_member_missing_or_of_a_wrong_type(
    body: dict[str, Any], parse: Callable[[Any], Any], error: type[PicopaymentsError], member: str, bad: Any
) -> None:
    changed_body = {name: value for name, value in body.items() if name != member}
    if bad is not MISSING:
        changed_body[member] = bad
    with pytest.raises(error) as caught:
        parse(changed_body)
    assert type(caught.value) is error
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    "refused",
    [
        None,
        {},
        "ab",
        [None],
        [{"token": "ab"}],
        [{"name": "A"}],
        [{"token": "ab", "name": "A", "more": 1}],
        [{"token": "AB", "name": "A"}],
        [{"token": "ab", "name": None}],
        [{"token": "ab", "name": ""}],
        [{"token": "ab", "name": "a b"}],
        [{"token": "ab", "name": "A" * 65}],
    ],
)
def test_refusals_of_another_shape(refused: Any) -> None:
    with pytest.raises(BadReply):
        SyncReply.parse({**SYNC_REPLY.as_json(), "refused": refused})


@pytest.mark.parametrize("bad", [{}, *({"spend_secret": value} for value in NOT_HEX[1:]), None, []])
def test_a_close_without_a_usable_secret(bad: Any) -> None:
    with pytest.raises(BadReply):
        CloseReply.parse(bad)


# Terms --------------------------------------------------------------------------------------------------------------


def test_terms_come_out_as_they_went_in() -> None:
    assert Terms.parse(TERMS).as_json() == TERMS
    assert Terms.parse({**TERMS, "more": 1, "deposit_ratio": 1}).deposit_ratio == 1.0


@pytest.mark.parametrize("body", [None, [], "terms", 5])
def test_terms_that_are_no_object(body: Any) -> None:
    with pytest.raises(BadTerms):
        Terms.parse(body)


@pytest.mark.parametrize("member", TERMS)
def test_terms_with_a_member_missing_or_of_a_wrong_type(member: str) -> None:
    with pytest.raises(BadTerms):
        Terms.parse({name: value for name, value in TERMS.items() if name != member})
    wrong: list[Any] = [None, True, "1", -1, [], float("nan"), float("inf")]
    for value in wrong if member == "deposit_ratio" else [*wrong, 1.0, 2**63]:
        with pytest.raises(BadTerms):
            Terms.parse({**TERMS, member: value})


@pytest.mark.parametrize("change", [{"sync_fee": 0}, {"fee_rate": 0}, {"fee_rate": 101}, {"deposit_ratio": 1_000_001}])
def test_terms_that_no_honest_hub_offers(change: dict[str, Any]) -> None:
    with pytest.raises(BadTerms):
        Terms.parse({**TERMS, **change})


@pytest.mark.parametrize(
    ("member", "last", "beyond"),
    [
        ("fee_rate", 1, 0),
        ("fee_rate", 100, 101),
        ("sync_fee", 1, 0),
        ("deposit_min", MAX_QUANTITY, MAX_QUANTITY + 1),
        ("deposit_max", 0, -1),
        ("deposit_ratio", 1_000_000, 1_000_001),
        ("deposit_ratio", 0, -0.5),
    ],
)
def test_terms_are_taken_to_their_limits_and_no_further(member: str, last: float, beyond: float) -> None:
    body = Terms(0, 0, 1.0, 0, 12, 1, 5).as_json()
    assert getattr(Terms.parse({**body, member: last}), member) == last
    with pytest.raises(BadTerms):
        Terms.parse({**body, member: beyond})


def terms(**changes: Any) -> Terms:
    return Terms.parse({**TERMS, **changes})


def test_deposits_outside_the_terms() -> None:
    regtest, mainnet = NETWORKS["regtest"], NETWORKS["mainnet"]
    terms().check_deposit(10, 144, mainnet)
    terms().check_deposit(2**63 - 1, 65535, mainnet)
    terms(deposit_max=20).check_deposit(20, 144, mainnet)
    terms(expire_min=12).check_deposit(10, 12, regtest)
    for offered, quantity in ((terms(), 9), (terms(deposit_max=20), 21)):
        with pytest.raises(DepositRefused) as refused:
            offered.check_deposit(quantity, 144, mainnet)
        assert refused.value.data["quantity"] == quantity
    for offered, expire, network in (
        (terms(), 143, mainnet),
        (terms(expire_min=12), 143, mainnet),
        (terms(expire_min=12), 11, regtest),
        (terms(expire_min=0), 11, regtest),
        (terms(expire_max=200), 201, mainnet),
        (terms(), 65536, mainnet),
        (terms(expire_max=70000), 65536, mainnet),
    ):
        with pytest.raises(InvalidTime):
            offered.check_deposit(10, expire, network)


@pytest.mark.parametrize(
    ("ratio", "quantity", "matched"),
    [
        (1.0, 7, 7),
        (1.5, 7, 10),
        (0.1, 30, 3),
        (0.3, 10, 3),
        (0.0, 10, 0),
        (1e-05, 100_000, 1),
        (1.0, 2**63 - 1, 2**63 - 1),
        (0.9999999999999999, 10**17 + 1, 99999999999999990),
    ],
)
def test_the_hubs_deposit_is_rounded_down(ratio: float, quantity: int, matched: int) -> None:
    assert terms(deposit_ratio=ratio).matching_deposit(quantity) == matched


def test_delays_that_no_commit_may_have() -> None:
    for delay in (1, 2, 2016):
        check_delay(delay)
    for delay in (0, -1, 2017, 65535):
        with pytest.raises(InvalidTime):
            check_delay(delay)
