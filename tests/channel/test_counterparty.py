"""Counterparty's asset ids, issuances and reading of transactions: recorded ones, and those that must not be read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cbor2
import pytest
from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxInWitness, CTxOut, CTxWitness
from bitcoin.core.script import CScript, CScriptWitness
from channel_support import ASSET, PAYER, PAYER_WALLET, legacy, vectors
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.channel.arc4 import arc4
from picopayments_cli.channel.counterparty import (
    Issuance,
    Send,
    asset_id,
    asset_name,
    compact_longname,
    data_script,
    expand_longname,
    is_address,
    is_destination,
    is_p2pkh,
    is_p2sh,
    message_of,
    p2pkh,
    p2sh,
    pack_issuance,
    pack_send,
    parent_of,
    read_transaction,
    unpack_issuance,
    unpack_send,
)
from picopayments_cli.channel.drafts import parse_transaction
from picopayments_cli.channel.networks import NETWORKS, address_of_script, script_of_address
from picopayments_cli.channel.values import looks_like_signature
from picopayments_cli.errors import InvalidAsset

VECTORS = vectors("counterparty")
MAINNET, REGTEST = NETWORKS["mainnet"], NETWORKS["regtest"]
# A signature of 71 bytes without its hash type: two numbers of 32 bytes, the highest bits of which are not set.
PLAIN_SIGNATURE = bytes.fromhex("3044" + 2 * ("0220" + "04" + 31 * "00"))


def parsed(raw: bytes) -> CTransaction:
    """A transaction that must parse."""
    tx = parse_transaction(raw)
    assert tx is not None
    return tx


def changed(tx: CTransaction, **members: Any) -> CTransaction:
    """A transaction with its inputs or outputs replaced."""
    return CTransaction(members.get("vin", tx.vin), members.get("vout", tx.vout), tx.nLockTime, tx.nVersion)


# ARC4 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "at", "stream"),
    [
        ("0102030405", 0, "b2396305f03dc027ccc3524a0a1118a8"),
        ("0102030405", 240, "28cb1132c96ce286421dcaadb8b69eae"),
        ("0102030405", 496, "42b7d0cdd918a8a33dd51781c81f4041"),
        ("0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20", 0, "eaa6bd25880bf93d3f5d1e4ca2611d91"),
    ],
)
def test_arc4_makes_the_key_stream_of_rfc_6229(key: str, at: int, stream: str) -> None:
    made = arc4(bytes.fromhex(key), bytes(at + 16))
    assert made[at:].hex() == stream
    assert arc4(bytes.fromhex(key), made) == bytes(at + 16)


# Assets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), VECTORS["asset_ids"].items())
def test_asset_ids_are_the_recorded_ones(name: str, number: int) -> None:
    assert asset_id(name) == number
    assert asset_name(number) == name


@pytest.mark.parametrize("name", VECTORS["not_assets"], ids=ascii)
def test_a_name_of_no_asset_is_refused(name: str) -> None:
    with pytest.raises(InvalidAsset):
        asset_id(name)


@pytest.mark.parametrize("number", [-1, 2, 26**3 - 1, 26**12, 2**64])
def test_ids_of_no_asset_are_refused(number: int) -> None:
    with pytest.raises(InvalidAsset):
        asset_name(number)


@given(st.integers(26**3, 26**12 - 1) | st.integers(26**12 + 1, 2**64 - 1))
def test_every_id_has_one_name(number: int) -> None:
    assert asset_id(asset_name(number)) == number


@given(st.text(alphabet="ABCXZ0129", max_size=22))
def test_every_name_that_is_taken_is_the_name_of_its_id(name: str) -> None:
    try:
        number = asset_id(name)
    except InvalidAsset:
        return
    assert asset_name(number) == name


@pytest.mark.parametrize("child", ["c", "child", "a.b", "A0-_@!z", "x" * (250 - len("PARENT."))])
def test_a_subasset_has_a_parent(child: str) -> None:
    assert parent_of(f"PARENT.{child}") == "PARENT"
    assert parent_of(f"A95428956661682177.{child[:200]}") == "A95428956661682177"


@pytest.mark.parametrize(
    "longname",
    [
        *("PARENT", "PARENT.", "PARENT..a", "PARENT.a.", "PARENT.a..b", "PARENT.a b", "PARENT.a/b", ".a", "", "."),
        *("XCP.a", "BTC.a", "parent.a", "AB.a", "PARENT." + "x" * 244),
    ],
)
def test_a_name_of_no_subasset_is_refused(longname: str) -> None:
    with pytest.raises(InvalidAsset):
        parent_of(longname)


# Issuances ----------------------------------------------------------------------------------------------------------

TEST = 337135
DEMO = Issuance(TEST, 100_000_000, divisible=True, description="demo")
DEMO_STRUCT = bytes.fromhex("1600000000000524ef0000000005f5e10001000064656d6f")
DEMO_CBOR = bytes.fromhex("16871a000524ef1a05f5e100010000604464656d6f")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@!"


def test_both_layouts_of_an_issuance() -> None:
    assert pack_issuance(DEMO) == DEMO_CBOR
    assert unpack_issuance(DEMO_CBOR) == unpack_issuance(DEMO_STRUCT) == DEMO
    for kind in (20, 22):  # of v9 and of v11, in one byte or in four
        assert unpack_issuance(bytes((kind,)) + DEMO_STRUCT[1:]) == DEMO
        assert unpack_issuance(bytes((0, 0, 0, kind)) + DEMO_STRUCT[1:]) == DEMO


@pytest.mark.parametrize(
    ("longname", "packed"), [("PARENT.child", "014a74856171cbc166c4"), ("PARENT.a", "01034bec72f89d")]
)
def test_longnames_are_compacted(longname: str, packed: str) -> None:
    assert compact_longname(longname).hex() == packed
    assert expand_longname(bytes.fromhex(packed)) == longname


@given(st.text(alphabet=LETTERS, min_size=1, max_size=250))
def test_every_longname_comes_back(longname: str) -> None:
    assert expand_longname(compact_longname(longname)) == longname


def test_a_longname_of_no_letters_or_too_many_is_none() -> None:
    assert expand_longname(b"") is expand_longname(b"\0" * 5) is None
    assert expand_longname(compact_longname("a" * 250)) == "a" * 250
    assert expand_longname(b"\1" * 201) is None


issuances = st.builds(
    Issuance,
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.none() | st.text(max_size=60),
    st.none() | st.text(alphabet=LETTERS, min_size=1, max_size=40),
)


@given(issuances)
def test_every_issuance_comes_back(issuance: Issuance) -> None:
    assert unpack_issuance(pack_issuance(issuance)) == issuance


@given(issuances, st.sampled_from([20, 21, 22, 23]))
def test_the_older_layout_is_read(issuance: Issuance, kind: int) -> None:
    child = kind in (21, 23)
    longname = (issuance.longname or "x") if child else None
    issuance = replace(issuance, asset_id=issuance.asset_id % 2**56, longname=longname)  # no CBOR array begins with 0
    text = b"\xc0NULL" if issuance.description is None else issuance.description.encode()
    head = issuance.asset_id.to_bytes(8, "big") + issuance.quantity.to_bytes(8, "big")
    head += bytes((issuance.divisible, issuance.lock, issuance.reset))
    compacted = compact_longname(longname or "")
    named = bytes((len(compacted),)) + compacted if child else b""
    assert unpack_issuance(bytes((kind,)) + head + named + text) == issuance
    if child:
        assert unpack_issuance(bytes((kind,)) + head + b"\0" + text) is None


NO_FIELDS: list[Any] = [[], {}, [1] * 9, [1, 2, 0, 0, 0, 3, "x", "", b""]]


@pytest.mark.parametrize(
    "message",
    [b"", b"\0\0", bytes((2,)) + DEMO_CBOR[1:], DEMO_STRUCT[:19], bytes((22,)), bytes((23,)) + DEMO_CBOR[1:]]
    + [bytes((23,)) + cbor2.dumps(fields) for fields in NO_FIELDS],
)
def test_messages_of_another_form_are_no_issuances(message: bytes) -> None:
    assert unpack_issuance(message) is None


# Transactions -------------------------------------------------------------------------------------------------------


def test_a_send_on_mainnet_is_read() -> None:
    recorded = VECTORS["send_on_mainnet"]
    tx = parsed(bytes.fromhex(recorded["raw"]))
    assert tx.GetTxid()[::-1].hex() == recorded["txid"]
    assert tx.vin[0].prevout.hash[::-1].hex() == recorded["key"]
    source = script_of_address(MAINNET, recorded["source"])
    reading = read_transaction(tx, source)
    assert reading is not None
    assert reading.source == source
    assert [address_of_script(MAINNET, script) for script in reading.destinations] == [recorded["destination"]]
    assert reading.btc_amount == recorded["btc_amount"]
    assert reading.message is not None
    assert (b"CNTRPRTY" + reading.message).hex() == recorded["plaintext"]
    assert unpack_send(reading.message) == Send(asset_id(recorded["asset"]), recorded["quantity"])


def signed(script_sig: bytes) -> CTransaction:
    """The recorded P2SH to P2SH send, with that scriptSig."""
    tx = parsed(bytes.fromhex(VECTORS["p2sh_send"]["raw"]))
    first = CTxIn(tx.vin[0].prevout, CScript(script_sig), tx.vin[0].nSequence)
    return changed(tx, vin=[first, *tx.vin[1:]])


def pushed(*items: bytes) -> bytes:
    return b"".join(bytes(CScript([item])) for item in items)


SIGNED = signed(pushed(PLAIN_SIGNATURE + b"\x01"))
SOURCE = p2sh(b"\x11" * 20)


def test_a_send_from_p2sh_to_p2sh_is_read() -> None:
    recorded = VECTORS["p2sh_send"]
    for network, end in ((MAINNET, ""), (REGTEST, "_test")):
        assert address_of_script(network, SOURCE) == recorded["source" + end]
        assert script_of_address(network, recorded["destination" + end]) == p2sh(b"\x22" * 20)
        assert address_of_script(network, p2pkh(b"\x22" * 20)) == recorded["p2pkh_22" + end]
    reading = read_transaction(SIGNED, SOURCE)
    assert reading is not None
    assert (reading.source, reading.destinations) == (SOURCE, (p2sh(b"\x22" * 20),))
    assert reading.btc_amount == recorded["btc_amount"]
    assert recorded["spent"] - sum(out.nValue for out in SIGNED.vout) == recorded["fee"]
    assert reading.message == bytes.fromhex(VECTORS["classic_sends"][0]["message"])


def outputs(*outs: CTxOut) -> CTransaction:
    return changed(SIGNED, vout=list(outs))


TARGET, DATA, CHANGE = SIGNED.vout
OTHER = CTxOut(600, CScript(p2pkh(b"\x11" * 20)))
STRANGE = CTxOut(600, CScript(b"\x51"))
PAY_TO_KEY = CTxOut(600, CScript(b"\x21" + PAYER.pubkey + b"\xac"))
MULTISIG = CTxOut(600, CScript(b"\x51\x21" + PAYER.pubkey + b"\x21" + PAYER.pubkey + b"\x52\xae"))
PLAIN_DATA = CTxOut(0, CScript(b"\x6a\x08CNTRPRTY"))


def test_the_message_first_means_no_destination() -> None:
    reading = read_transaction(outputs(DATA, TARGET, CHANGE), SOURCE)
    assert reading is not None
    assert (reading.destinations, reading.btc_amount) == ((), 0)


def test_two_outputs_before_the_message_are_two_destinations() -> None:
    reading = read_transaction(outputs(TARGET, OTHER, DATA, CHANGE), SOURCE)
    assert reading is not None
    assert (len(reading.destinations), reading.btc_amount) == (2, 1146)


@pytest.mark.parametrize("strange", [STRANGE, PAY_TO_KEY, PLAIN_DATA, CTxOut(0, CScript(b""))])
def test_a_strange_output_voids_a_message_until_the_change(strange: CTxOut) -> None:
    for outs in ((strange, TARGET, DATA, CHANGE), (TARGET, strange, DATA, CHANGE), (TARGET, DATA, strange, CHANGE)):
        assert read_transaction(outputs(*outs), SOURCE) is None
    reading = read_transaction(outputs(TARGET, DATA, CHANGE, strange), SOURCE)
    assert reading == read_transaction(SIGNED, SOURCE)


def test_a_small_bare_multisig_is_an_address() -> None:
    reading = read_transaction(outputs(MULTISIG, DATA), SOURCE)
    assert reading is not None
    assert reading.destinations == (bytes(MULTISIG.scriptPubKey),)


PUBKEY, LONG_KEY = PAYER.pubkey, b"\x04" + bytes(64)
ADDRESSED = [
    *(p2pkh(bytes(range(20))), p2sh(bytes(range(20)))),
    *(b"\0\x14" + bytes(20), b"\0\x20" + bytes(32), b"\x51\x20" + bytes(32)),
    b"\x51" + pushed(PUBKEY, PUBKEY) + b"\x52\xae",
    b"\x52" + pushed(PUBKEY, LONG_KEY) + b"\x52\xae",
    b"\x53" + pushed(PUBKEY, PUBKEY, PUBKEY) + b"\x53\xae",
]


@pytest.mark.parametrize("script", ADDRESSED, ids=bytes.hex)
def test_scripts_that_are_addresses(script: bytes) -> None:
    assert is_address(script)
    assert is_p2pkh(script) == (script == ADDRESSED[0])
    assert is_p2sh(script) == (script == ADDRESSED[1])
    for other in (script[:-1], script + b"\0", script[1:], b"\0" + script):
        assert not is_address(other)


@pytest.mark.parametrize(
    "script",
    [
        *(p2pkh(bytes(19)), p2pkh(bytes(20))[:-2] + b"\x88\xad", p2sh(bytes(19)), p2sh(bytes(20))[:-1] + b"\x88"),
        *(bytes(25), bytes(23), b"", b"\0", b"\0\x14", b"\0\x15" + bytes(21), b"\x52\x20" + bytes(32)),
        b"\x50" + pushed(PUBKEY, PUBKEY) + b"\x52\xae",  # none needed
        b"\x53" + pushed(PUBKEY, PUBKEY) + b"\x52\xae",  # more needed than there are
        b"\x51" + pushed(PUBKEY, PUBKEY) + b"\x53\xae",
        b"\x51" + pushed(PUBKEY) + b"\x51\xae",
        b"\x51" + pushed(*[PUBKEY] * 4) + b"\x54\xae",
        b"\x51" + pushed(PUBKEY, bytes(34)) + b"\x52\xae",
        b"\x51" + pushed(PUBKEY, PUBKEY) + b"\x52\xaf",
    ],
    ids=bytes.hex,
)
def test_scripts_that_are_no_addresses(script: bytes) -> None:
    assert not is_address(script)
    assert not is_p2pkh(script)
    assert not is_p2sh(script)


def multisig(needed: int, keys: list[int], total: int, end: bytes = b"\xae") -> bytes:
    return bytes((0x50 + needed,)) + b"".join(pushed(bytes(size)) for size in keys) + bytes((0x50 + total,)) + end


def test_small_bare_multisig_is_an_address() -> None:
    for needed, keys in ((1, [33, 33]), (2, [33, 65]), (1, [33, 33, 33]), (3, [65, 65, 65])):
        assert is_address(multisig(needed, keys, len(keys)))
    for bad in (
        multisig(1, [33], 1),
        multisig(1, [33] * 4, 4),
        multisig(3, [33, 33], 2),
        multisig(0, [33, 33], 2),
        multisig(1, [33, 33], 3),
        multisig(1, [33, 34], 2),
        multisig(1, [33, 66], 2),
        multisig(1, [33, 33], 2, b"\xac"),
        multisig(1, [33, 33], 2)[:-3] + b"\xae",
    ):
        assert not is_address(bad)


def test_a_message_stands_behind_op_return_only() -> None:
    data = bytes(DATA.scriptPubKey)
    txid = SIGNED.vin[0].prevout.hash
    assert message_of(data, txid) == bytes.fromhex(VECTORS["classic_sends"][0]["message"])
    assert message_of(b"\x61" + data[1:], txid) is None


def test_a_signature_in_the_witness_counts() -> None:
    """Of a source that is segwit; of the first input only."""
    stack = CScriptWitness([PLAIN_SIGNATURE + b"\x01", PAYER.pubkey])
    first, second = SIGNED.vin[0], CTxIn(COutPoint(b"\x05" * 32, 0))
    vin = [CTxIn(first.prevout, CScript(b"")), second]
    read = []
    for witnesses in ([stack, CScriptWitness()], [CScriptWitness(), stack]):
        wit = CTxWitness([CTxInWitness(item) for item in witnesses])
        read.append(read_transaction(CTransaction(vin, SIGNED.vout, 0, 2, wit), b"\0\x14" + bytes(20)))
    assert read[0] is not None
    assert read[1] is None


@pytest.mark.parametrize("before", [b"\x51", b"\x00", b"\x01\x05"])
@pytest.mark.parametrize("behind", [True, False])
def test_a_message_is_the_one_push_behind_op_return(before: bytes, behind: bool) -> None:
    data = bytes(DATA.scriptPubKey)
    script = data + before if behind else data[:1] + before + data[1:]
    assert read_transaction(outputs(TARGET, CTxOut(0, CScript(script)), CHANGE), SOURCE) is None


def test_a_message_under_another_key_is_none() -> None:
    elsewhere = changed(SIGNED, vin=[CTxIn(COutPoint(b"\x05" * 32, 0), SIGNED.vin[0].scriptSig)])
    assert read_transaction(elsewhere, SOURCE) is None


def test_later_inputs_do_not_matter() -> None:
    more = changed(SIGNED, vin=[*SIGNED.vin, CTxIn(COutPoint(b"\x05" * 32, 0), CScript(b"\x51"))])
    assert read_transaction(more, SOURCE) == read_transaction(SIGNED, SOURCE)


def test_a_source_without_an_address_is_none() -> None:
    assert read_transaction(SIGNED, b"\x51") is None


def test_a_burn_is_the_first_output() -> None:
    burn = p2pkh(b"\x33" * 20)
    reading = read_transaction(outputs(CTxOut(700, CScript(burn)), OTHER), SOURCE, burn)
    assert reading is not None
    assert (reading.destinations, reading.btc_amount, reading.message) == ((burn,), 700, None)
    late = read_transaction(outputs(OTHER, CTxOut(700, CScript(burn))), SOURCE, burn)
    assert late is not None
    assert len(late.destinations) == 2


# The sighash rule ---------------------------------------------------------------------------------------------------


def test_only_signatures_of_everything_carry_a_message() -> None:
    read = []
    for hash_type in range(256):
        tx = signed(pushed(PLAIN_SIGNATURE + bytes((hash_type,)), PAYER.pubkey))
        if read_transaction(tx, SOURCE) is not None:
            read.append(hash_type)
    assert read == [0x01, 0x81]


def test_without_a_signature_there_is_no_message() -> None:
    for script_sig in (b"", pushed(PAYER.pubkey), b"\x51", b"\x4c"):
        assert read_transaction(signed(script_sig), SOURCE) is None


def lookalike(size: int, last: int) -> bytes:
    """A push of that size which reads as a signature of hash type ``last``."""
    r = (size - 7) // 2
    s = size - 7 - r
    return bytes((0x30, size - 3, 2, r)) + b"\x07" * r + bytes((2, s)) + b"\x07" * s + bytes((last,))


@pytest.mark.parametrize("size", [7, 8, 20, 32, 33, 71, 72, 73, 150, 255])
def test_a_secret_like_a_signature_voids_the_message(size: int) -> None:
    """Of whatever length: a revoke transaction that pushes it would move no asset."""
    good = PLAIN_SIGNATURE + b"\x01"
    assert looks_like_signature(lookalike(size, 0x02))
    assert read_transaction(signed(pushed(good, lookalike(size, 0x02))), SOURCE) is None
    assert read_transaction(signed(pushed(good, lookalike(size, 0x81))), SOURCE) is not None


def strictly_sized(push: bytes) -> bool:
    """The oracle: whether a push is the sizes of a DER signature and one byte, said in another way."""
    return any(
        push[:4] == bytes((0x30, len(push) - 3, 0x02, r)) and push[4 + r : 6 + r] == bytes((0x02, len(push) - 7 - r))
        for r in range(len(push) - 6)
    )


@pytest.mark.parametrize("size", [*range(7, 40), 71, 72, 73, 130, 254, 255])
def test_the_sizes_alone_make_a_push_look_like_a_signature(size: int) -> None:
    for r in range(size - 6):
        s = size - 7 - r
        good = bytearray(bytes((0x30, size - 3, 2, r)) + bytes(r) + bytes((2, s)) + bytes(s) + b"!")
        assert len(good) == size
        assert looks_like_signature(bytes(good))
        for at in (0, 1, 2, 3, 4 + r, 5 + r):
            bad = bytearray(good)
            bad[at] = (bad[at] + 1) % 256
            assert looks_like_signature(bytes(bad)) == strictly_sized(bytes(bad))
        assert not looks_like_signature(bytes(good[:-1]))
        assert not looks_like_signature(bytes(good) + b"\x00")


@given(st.binary(max_size=40) | st.binary(max_size=36).map(lambda rest: bytes((0x30, len(rest), 2)) + rest))
def test_looking_like_a_signature_agrees_with_the_oracle(push: bytes) -> None:
    assert looks_like_signature(push) == (len(push) >= 7 and strictly_sized(push))


@pytest.mark.parametrize("data", ["30040203010101", "30040202010102", "300402ff010101", "3004020101020102"])
def test_a_push_that_ends_inside_a_number_is_no_signature(data: str) -> None:
    assert not looks_like_signature(bytes.fromhex(data))


# Whatever stands on a chain -----------------------------------------------------------------------------------------


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_no_script_makes_the_reader_fail(script_sig: bytes, before: bytes, data: bytes) -> None:
    tx = CTransaction(
        [CTxIn(COutPoint(b"\x05" * 32, 0), CScript(script_sig))],
        [CTxOut(5, CScript(before)), CTxOut(0, CScript(b"\x6a" + data)), CTxOut(5, CScript(before))],
    )
    reading = read_transaction(tx, SOURCE)
    assert reading is None or all(is_destination(script) for script in reading.destinations)


@given(st.binary(max_size=60))
def test_no_message_in_an_op_return_makes_the_reader_fail(message: bytes) -> None:
    tx = outputs(TARGET, CTxOut(0, CScript(data_script(message, SIGNED.vin[0].prevout.hash))), CHANGE)
    reading = read_transaction(tx, SOURCE)
    assert reading is not None
    assert reading.message == message


@given(st.binary(max_size=200) | st.binary(max_size=40).map(lambda end: SIGNED.serialize()[:-20] + end))
def test_bytes_are_a_transaction_only_as_they_are_serialised(raw: bytes) -> None:
    tx = parse_transaction(raw)
    assert tx is None or tx.serialize() == raw


def test_the_cipher_takes_the_txid_in_display_order() -> None:
    script = data_script(b"message", bytes(range(32)))
    assert arc4(bytes(reversed(range(32))), script[2:]) == b"CNTRPRTYmessage"
    assert legacy(PAYER_WALLET) != SOURCE
    assert pack_send(ASSET, 1)[4:12] == ASSET.to_bytes(8, "big")
