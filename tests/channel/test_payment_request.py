"""A payment request comes back as it was written, and nothing that was changed, cut or made up passes for one."""

from __future__ import annotations

from base64 import b32encode
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from channel_support import digest, key
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.counterparty import asset_id
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.payment_request import (
    AGAIN,
    MAX_LETTERS,
    PAID,
    TOO_LATE,
    TOO_LITTLE,
    PaymentRequest,
    Requested,
    _digest,
    _packed,
    read,
    receipt_of,
    token_of,
    write,
)
from picopayments_cli.channel.values import MAX_QUANTITY, Handle, Quantity, Token
from picopayments_cli.channel.wire import MAX_TIME
from picopayments_cli.errors import InvalidRequest

PAYEE, THIEF, HUB = (Key(key(name).secret) for name in ("payee", "thief", "hub"))
HANDLE, SALT = Handle(digest("handle")), digest("salt")[:16]
TOKEN = token_of(receipt_of(PAYEE, HANDLE, SALT))
REQUEST = PaymentRequest(
    *("regtest", "http://127.0.0.1:25000/api/", HUB.pubkey, HANDLE, asset_id("XCP"), Quantity(1337), 1_800_000_000),
    *(SALT, TOKEN, PAYEE.xonly, "two coffees"),
)
TEXT = write(REQUEST, PAYEE)
VECTOR = "9ac31d05fcfed57205ff2f09d86b67f8499ff65182d2d21d49405004f6bc5b67"

MEMOS = st.text(max_size=200).filter(lambda text: text.isprintable() and _fits(text))
REQUESTS = st.builds(
    PaymentRequest,
    network=st.sampled_from(sorted(NETWORKS)),
    hub_url=st.from_regex(r"https?://[a-z0-9.:/\[\]-]{1,180}", fullmatch=True),
    hub_key=st.just(HUB.pubkey),
    handle=st.binary(min_size=32, max_size=32).map(Handle),
    asset_id=st.sampled_from([asset_id(name) for name in ("XCP", "DEMOCOIN", "A95428959371716303")]),
    quantity=st.integers(1, MAX_QUANTITY).map(Quantity),
    expires=st.integers(1, MAX_TIME),
    salt=st.binary(min_size=16, max_size=16),
    token=st.binary(min_size=32, max_size=32).map(Token),
    payee=st.just(PAYEE.xonly),
    memo=MEMOS,
)


def _fits(text: str) -> bool:
    try:
        return len(text.encode()) <= 200
    except UnicodeEncodeError:
        return False


@given(REQUESTS)
def test_a_request_comes_back_as_it_was_written(request: PaymentRequest) -> None:
    text = write(request, PAYEE)
    assert read(text) == request
    assert read(text.upper()) == request
    assert write(read(text), PAYEE) == text
    assert len(text) <= MAX_LETTERS
    assert text.isascii()
    assert text.isalnum()
    assert text.islower()


def test_a_request_is_these_letters() -> None:
    assert TEXT.startswith("picopay1")
    assert sha256(TEXT.encode()).hexdigest() == VECTOR
    assert read(TEXT) == REQUEST


@given(st.integers(0, len(TEXT) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567019-= A"))
def test_no_other_letter_passes(place: int, letter: str) -> None:
    changed = TEXT[:place] + letter + TEXT[place + 1 :]
    if changed != TEXT:
        with pytest.raises(InvalidRequest):
            read(changed)


@given(st.integers(0, len(TEXT) - 1), st.integers(1, 50))
def test_nothing_that_is_cut_or_longer_passes(place: int, size: int) -> None:
    for changed in (TEXT[:place], TEXT[:place] + TEXT[place + size :], TEXT + TEXT[place : place + size], TEXT[1:]):
        if changed != TEXT:
            with pytest.raises(InvalidRequest):
                read(changed)


@given(st.text(max_size=50) | st.text("abc234567", max_size=600).map("picopay1".__add__))
def test_whatever_is_read_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read(text)


def test_a_later_version_is_told_from_nonsense() -> None:
    with pytest.raises(InvalidRequest, match="version is '2'"):
        read("picopay2" + TEXT[8:])
    with pytest.raises(InvalidRequest, match="no payment request"):
        read("bitcoin:x")
    with pytest.raises(InvalidRequest, match="no payment request"):
        read(TEXT + "a" * MAX_LETTERS)


def signed(body: bytes, by: Key = PAYEE) -> str:
    """A text of any body, signed."""
    data = body + by.sign_schnorr(_digest(body))
    return "picopay1" + b32encode(data).decode().rstrip("=").lower()


def test_only_the_payee_that_it_names_can_have_signed_it() -> None:
    assert signed(_packed(REQUEST)) == TEXT
    with pytest.raises(InvalidRequest):
        read(signed(_packed(REQUEST), THIEF))
    with pytest.raises(ValueError, match="payee"):
        write(REQUEST, THIEF)
    stolen = replace(REQUEST, handle=Handle(digest("thief's")), payee=THIEF.xonly)
    assert read(write(stolen, THIEF)).payee == THIEF.xonly  # it is another payee's request then


@pytest.mark.parametrize(
    "change",
    [
        {"network": "elsewhere"},
        {"quantity": 0},
        {"quantity": MAX_QUANTITY + 1},
        {"expires": 0},
        {"expires": MAX_TIME + 1},
        {"asset_id": 0},
        {"asset_id": 2},
        {"hub_key": bytes(33)},
        {"hub_url": "ftp://x"},
        {"hub_url": "http://user:password@x"},
        {"hub_url": "http://a b"},
        {"hub_url": "http://" + "x" * 200},
        {"hub_url": "http://é"},
        {"memo": "x" * 201},
        {"memo": "é" * 101},
        {"memo": "two\nlines"},
        {"memo": "turned \u202e round"},
        {"memo": "\ud800"},
        {"handle": bytes(31)},
        {"salt": bytes(15)},
        {"token": bytes(33)},
    ],
    ids=str,
)
def test_what_no_request_can_hold_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        replace(REQUEST, **change)


def test_a_signed_body_of_another_shape_is_refused() -> None:
    body = _packed(REQUEST)
    for broken in (body + b"\0", body[:-1], body + b"\5ab", b"", body[:100], body[:-12] + b"\x0b" + b"\xff" * 11):
        with pytest.raises(InvalidRequest):
            read(signed(broken))
    assert len(signed(b"")) < MAX_LETTERS


# Receipts -----------------------------------------------------------------------------------------------------------


def test_a_receipt_follows_from_key_handle_and_salt_alone() -> None:
    receipt = receipt_of(PAYEE, HANDLE, SALT)
    assert receipt == receipt_of(Key(PAYEE.secret), HANDLE, SALT)
    assert sha256(receipt).digest() == TOKEN
    others = {
        receipt_of(THIEF, HANDLE, SALT),
        receipt_of(PAYEE, Handle(bytes(32)), SALT),
        receipt_of(PAYEE, HANDLE, bytes(16)),
        receipt,
    }
    assert len(others) == 4
    assert receipt not in (PAYEE.secret, SALT, HANDLE)


def test_a_payment_is_judged() -> None:
    asked = Requested(TOKEN, SALT, Quantity(100), 1000)
    judged = {
        (100, 1000): PAID,
        (101, 0): PAID,
        (99, 0): TOO_LITTLE,
        (99, 1001): TOO_LITTLE,
        (100, 1001): TOO_LATE,
    }
    for (amount, time), verdict in judged.items():
        assert asked.judge(amount, time) == verdict
        assert replace(asked, payer=HANDLE).judge(amount, time) == AGAIN
