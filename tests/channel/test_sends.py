"""Counterparty's sends: classic and enhanced messages in both layouts come out as they went in, or are no sends."""

from __future__ import annotations

import struct
from typing import Any

import cbor2
import pytest
from channel_support import vectors
from hypothesis import given
from hypothesis import strategies as st
from regtest_support import pack_enhanced_send

from picopayments_cli.channel.counterparty import (
    Send,
    asset_id,
    data_script,
    message_of,
    p2pkh,
    p2sh,
    pack_send,
    unpack_send,
)
from picopayments_cli.channel.values import MAX_QUANTITY

VECTORS = vectors("counterparty")
HASHED = bytes(range(20))
NUMERIC_MAX = 2**64 - 1


@pytest.mark.parametrize("recorded", VECTORS["classic_sends"], ids=lambda item: str(item["asset"]))
def test_classic_sends_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    message = pack_send(asset_id(recorded["asset"]), recorded["quantity"])
    assert message.hex() == recorded["message"]
    txid = bytes.fromhex(recorded["key"])[::-1]
    script = data_script(message, txid)
    assert script.hex() == "6a1c" + recorded["ciphertext"]
    assert message_of(script, txid) == message
    assert message_of(script, txid[::-1]) is None
    assert unpack_send(message) == Send(asset_id(recorded["asset"]), recorded["quantity"])


@pytest.mark.parametrize("recorded", VECTORS["enhanced_sends"], ids=lambda item: str(item["asset"]))
def test_enhanced_sends_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    hashed = bytes.fromhex(recorded["hash"])
    script = p2pkh(hashed) if recorded["to"] == "p2pkh" else p2sh(hashed)
    memo = bytes.fromhex(recorded["memo"])
    number = asset_id(recorded["asset"])
    assert pack_enhanced_send(number, recorded["quantity"], script, memo).hex() == recorded["cbor"]
    sent = Send(number, recorded["quantity"], script, memo)
    for text in (recorded["cbor"], recorded["legacy"]):
        assert text is None or unpack_send(bytes.fromhex(text)) == sent


def test_an_enhanced_send_reaches_segwit_addresses() -> None:
    for script in (b"\x00\x14" + b"\x22" * 20, b"\x00\x20" + b"\x22" * 32, b"\x51\x20" + b"\x22" * 32):
        assert unpack_send(pack_enhanced_send(1, 5, script)) == Send(1, 5, script)


def broken_sends() -> list[bytes]:
    good = pack_send(1, 5)
    enhanced = pack_enhanced_send(1, 5, p2pkh(b"\x22" * 20))
    return [
        b"",
        good[:-1],
        good + b"\x00",
        b"\x14" + good[4:],
        b"\x00\x00\x00\x14" + good[4:],
        enhanced[:-2],
        pack_enhanced_send(1, 0, p2pkh(b"\x22" * 20)),
        pack_enhanced_send(1, MAX_QUANTITY + 1, p2pkh(b"\x22" * 20)),
        pack_enhanced_send(1, 5, p2pkh(b"\x22" * 20), b"m" * 35),
        pack_enhanced_send(2**64, 5, p2pkh(b"\x22" * 20)),
        pack_enhanced_send(-1, 5, p2pkh(b"\x22" * 20)),
    ]


@pytest.mark.parametrize("message", broken_sends(), ids=bytes.hex)
def test_messages_of_another_form_are_no_sends(message: bytes) -> None:
    assert unpack_send(message) is None


def test_a_classic_send_of_zero_or_of_too_much_is_one() -> None:
    assert unpack_send(pack_send(1, 0)) == Send(1, 0)
    assert unpack_send(pack_send(1, 2**64 - 1)) == Send(1, MAX_QUANTITY)


@pytest.mark.parametrize(
    ("packed", "script"),
    [
        (b"\x01" + HASHED, p2pkh(HASHED)),
        (b"\x02" + HASHED, p2sh(HASHED)),
        (b"\x03\x00" + HASHED, b"\0\x14" + HASHED),
        (b"\x03\x01" + HASHED + bytes(12), b"\x51\x20" + HASHED + bytes(12)),
        (b"\x03\x10" + HASHED, b"\x60\x14" + HASHED),
        *((packed, None) for packed in (b"\x03\x11" + HASHED, b"\x04\x00" + HASHED, b"\x02" + HASHED + b"\0")),
        *((packed, None) for packed in (b"\x02" + HASHED[1:], b"\x03\x00" + HASHED[1:], b"\x03", b"")),
        (b"\x09" + HASHED, None),
    ],
    ids=str,
)
def test_destinations_of_the_new_layout_are_read(packed: bytes, script: bytes | None) -> None:
    found = unpack_send(b"\x02" + cbor2.dumps([1, 7, packed, b""]))
    assert found == (None if script is None else Send(1, 7, script))


@pytest.mark.parametrize(
    ("version", "script"),
    [
        *((version, p2pkh(HASHED)) for version in (0x00, 0x6F)),
        *((version, p2sh(HASHED)) for version in (0x05, 0xC4)),
        (0x80, b"\0\x14" + HASHED),
        *((version, None) for version in (1, 4, 6, 0x6E, 0x70, 0x7F, 0x81, 0xC3, 0xC5, 0xFF)),
    ],
    ids=str,
)
def test_destinations_of_the_older_layout_are_read(version: int, script: bytes | None) -> None:
    body = (1).to_bytes(8, "big") + (7).to_bytes(8, "big") + bytes((version,)) + HASHED
    assert unpack_send(b"\x02" + body) == (None if script is None else Send(1, 7, script))


@pytest.mark.parametrize(
    ("number", "quantity", "memo", "taken"),
    [
        *((1, 1, b"", True), (0, 1, b"", True), (1, MAX_QUANTITY, b"", True), (2**64 - 1, 1, b"m" * 34, True)),
        *((1, 0, b"", False), (1, MAX_QUANTITY + 1, b"", False), (1, 1, b"m" * 35, False)),
    ],
)
def test_an_enhanced_send_keeps_its_limits(number: int, quantity: int, memo: bytes, taken: bool) -> None:
    older = number.to_bytes(8, "big") + quantity.to_bytes(8, "big") + b"\0" + HASHED + memo
    for message in (b"\x02" + older, pack_enhanced_send(number, quantity, p2pkh(HASHED), memo)):
        assert (unpack_send(message) == Send(number, quantity, p2pkh(HASHED), memo)) is taken
        assert (unpack_send(message) is not None) is taken
    for impossible in (-1, 2**64):
        assert unpack_send(b"\x02" + cbor2.dumps([impossible, 1, b"\x01" + HASHED, b""])) is None


@given(st.binary(max_size=90) | st.binary(max_size=80).map(lambda body: b"\x02" + body))
def test_no_message_makes_the_reader_fail(message: bytes) -> None:
    sent = unpack_send(message)
    assert sent is None or 0 <= sent.quantity <= MAX_QUANTITY


def older_send(packed: bytes, memo: bytes = b"", quantity: int = 5, asset: int = 1) -> Send | None:
    """Return what is read in an enhanced send of the older layout."""
    return unpack_send(b"\x02" + struct.pack(">QQ", asset, quantity) + packed + memo)


@pytest.mark.parametrize(
    ("version", "script"),
    [
        (0x00, p2pkh(HASHED)),
        (0x6F, p2pkh(HASHED)),
        (0x05, p2sh(HASHED)),
        (0xC4, p2sh(HASHED)),
        (0x80, b"\0\x14" + HASHED),
    ],
)
def test_addresses_of_the_older_layout_are_read_with_memos(version: int, script: bytes) -> None:
    packed = bytes((version,)) + HASHED
    assert older_send(packed) == Send(1, 5, script)
    assert older_send(packed, bytes(34)) == Send(1, 5, script, bytes(34))
    assert older_send(packed, bytes(35)) is None
    assert older_send(packed[:-1]) is None
    assert older_send(bytes((version + 1,)) + HASHED) is None


def test_numbers_of_an_enhanced_send_are_taken_to_their_limits() -> None:
    packed = b"\0" + HASHED
    for asset in (0, NUMERIC_MAX):
        assert older_send(packed, asset=asset) == Send(asset, 5, p2pkh(HASHED))
    for quantity in (1, MAX_QUANTITY):
        assert older_send(packed, quantity=quantity) == Send(1, quantity, p2pkh(HASHED))
    for quantity in (0, MAX_QUANTITY + 1, NUMERIC_MAX):
        assert older_send(packed, quantity=quantity) is None


@pytest.mark.parametrize(
    "script",
    [
        p2pkh(HASHED),
        p2sh(HASHED),
        b"\0\x14" + HASHED,
        b"\0\x20" + bytes(32),
        b"\x51\x20" + bytes(32),
        b"\x60\x14" + HASHED,
    ],
)
def test_an_enhanced_send_comes_out_as_it_went_in(script: bytes) -> None:
    assert unpack_send(pack_enhanced_send(7, 9, script, b"memo")) == Send(7, 9, script, b"memo")
