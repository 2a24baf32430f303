"""Borders and corners of the ground floor that its other tests leave open: found by mutating it (docs/mutants.rst)."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import replace

import coincurve
import pytest
from bitcoin.core import CTransaction, CTxOut
from bitcoin.core.script import CScript
from channel_support import (
    ASSET,
    PAYEE,
    PAYER,
    changed,
    connect,
    hashed,
    key,
    open_channel,
    parsed,
    purse,
    secret,
    wallet_coin,
    wallet_script,
    with_commits,
)

from picopayments_cli.channel import envelope, values
from picopayments_cli.channel.counterparty import (
    Send,
    data_script,
    is_address,
    p2pkh,
    p2sh,
    pack_enhanced_send,
    unpack_send,
)
from picopayments_cli.channel.duplex import Half, accept, expecting, plan, transfer
from picopayments_cli.channel.keys import verify
from picopayments_cli.channel.messages import ConnectRequest, Payment, Refusal, SyncReply, SyncRequest
from picopayments_cli.channel.scripts import push, wallet_unlock
from picopayments_cli.channel.state import accept_commit, commit, request_commit, revoke
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.transactions import (
    DUST,
    Output,
    Purse,
    commit_quantity,
    compose_payment,
    compose_send,
    draft_size,
)
from picopayments_cli.channel.values import (
    MAX_QUANTITY,
    Coin,
    Entry,
    Handle,
    Hash,
    Height,
    Outpoint,
    Pubkey,
    Quantity,
    Secret,
    Token,
    hash160,
    looks_like_signature,
)
from picopayments_cli.errors import (
    BadCommit,
    BadReply,
    BadRequest,
    BadTerms,
    InsufficientBitcoin,
    InvalidHex,
    NotTransferable,
    RepeatedHash,
    UnknownRevokeHash,
)

WALLET = wallet_unlock(PAYER.pubkey, wallet_script(PAYER))


def outpoint(number: int, vout: int = 0) -> Outpoint:
    return Outpoint(bytes([number]) * 32, vout)


# One channel --------------------------------------------------------------------------------------------------------


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


# A connection -------------------------------------------------------------------------------------------------------


def test_nothing_is_given_back_where_that_is_not_wanted() -> None:
    client, _ = connect()
    received = with_commits(client.duplex.receiving, [300])
    duplex = replace(client.duplex, receiving=received)
    back = plan(duplex, 300)
    assert back is not None
    assert (len(back.given_back), back.quantity) == (1, None)
    kept = plan(duplex, 300, giving_back=False)
    assert kept is not None
    assert (kept.given_back, kept.quantity) == ((), 300)
    moved, half = transfer(duplex, 300, client.key, lambda _: Secret(bytes(32)), giving_back=False)
    assert half.revokes == ()
    assert moved.receiving.active == received.active


def test_a_half_without_a_commit_is_one() -> None:
    client, _ = connect()
    assert accept(client.duplex, Half()) == client.duplex


def test_what_can_be_moved_once_the_peers_hash_is_there() -> None:
    client, _ = connect(client_deposit=700)
    lacking = replace(client.duplex, sending=replace(client.duplex.sending, requested=()))
    assert lacking.sending.room == 0
    assert expecting(lacking).sending.room == 700
    assert expecting(lacking).receiving == lacking.receiving
    assert expecting(client.duplex) is client.duplex


# Values and keys ----------------------------------------------------------------------------------------------------


def test_depths() -> None:
    script, height = b"", Height(100)
    assert Coin(outpoint(1), 1, script, height).depth(100) == 1
    assert Entry(b"", b"", height).depth(105) == 6
    assert Coin(outpoint(1), 1, script, None).depth(105) == 0
    assert Entry(b"", b"", None).depth(105) == 0


def test_an_outpoint_has_one_number() -> None:
    assert Outpoint.parse(str(outpoint(1, 7))) == outpoint(1, 7)
    for bad in ("ab" * 32, "ab" * 32 + ":", "ab" * 32 + ":1:2", "ab" * 31 + ":1", "ab" * 32 + ":-1"):
        with pytest.raises(InvalidHex):
            Outpoint.parse(bad)


def test_hashes_are_the_same_without_openssls_ripemd(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bytes.fromhex("bb1be98c142444d7a56aa3981c3942a978e4dc33")  # of b"abc"
    assert hash160(b"abc") == expected
    monkeypatch.setattr(values, "_OPENSSL_RIPEMD", False)
    assert hash160(b"abc") == expected


@pytest.mark.parametrize("data", ["30040203010101", "30040202010102", "300402ff010101", "3004020101020102"])
def test_what_ends_inside_a_number_is_no_signature(data: str) -> None:
    assert not looks_like_signature(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("size", "head"), [(0, "00"), (75, "4b"), (76, "4c4c"), (255, "4cff"), (256, "4d0001"), (520, "4d0802")]
)
def test_pushes(size: int, head: str) -> None:
    assert push(bytes(size)) == bytes.fromhex(head) + bytes(size)


def test_no_signature_is_that_of_a_key_that_is_none() -> None:
    digest = hashlib.sha256(b"x").digest()
    assert verify(PAYER.pubkey, digest, PAYER.sign(digest))
    assert not verify(Pubkey(b"\x02" + b"\xff" * 32), digest, PAYER.sign(digest))


def test_a_signed_message_tells_its_key() -> None:
    text = "a message"
    data = base64.b64decode(envelope.sign_message(PAYER, text))
    assert len(data) == 65
    assert 31 <= data[0] <= 34
    magic = b"\x18Bitcoin Signed Message:\n\x09" + text.encode()
    hashed_text = hashlib.sha256(hashlib.sha256(magic).digest()).digest()
    found = coincurve.PublicKey.from_signature_and_message(data[1:] + bytes((data[0] - 31,)), hashed_text, hasher=None)
    assert found.format() == PAYER.pubkey


# Messages and terms -------------------------------------------------------------------------------------------------


def test_requests_say_what_our_own_programs_agree_on() -> None:
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
def test_terms_at_their_borders(member: str, last: float, beyond: float) -> None:
    body = Terms(0, 0, 1.0, 0, 12, 1, 5).as_json()
    assert getattr(Terms.parse({**body, member: last}), member) == last
    with pytest.raises(BadTerms):
        Terms.parse({**body, member: beyond})


# Transactions -------------------------------------------------------------------------------------------------------


def test_a_commit_by_an_enhanced_send_is_none() -> None:
    channel = open_channel()
    tx: CTransaction = parsed(commit(channel, 300, PAYER)[1].raw)
    message = pack_enhanced_send(ASSET, 300, p2sh(bytes(20)))
    data = CTxOut(0, CScript(data_script(message, tx.vin[0].prevout.hash)))
    with pytest.raises(BadCommit):
        commit_quantity(changed(tx, vout=[tx.vout[0], data, tx.vout[2]]).serialize(), ASSET)


def test_coins_of_one_value_are_taken_in_the_order_of_their_outpoints() -> None:
    wallet = purse(PAYER, 1, [wallet_coin(outpoint(number), 5000) for number in (3, 1, 2)])
    target = Output(8000, wallet_script(PAYEE))
    draft = compose_send(wallet, target, b"message")
    assert [coin.outpoint for coin in draft.inputs] == [outpoint(1), outpoint(2)]
    paid = compose_payment(wallet, target)
    assert [coin.outpoint for coin in paid.inputs] == [outpoint(1), outpoint(2)]
    larger = purse(PAYER, 1, [wallet_coin(outpoint(1), 5000), wallet_coin(outpoint(2), 90_000)])
    assert [coin.outpoint for coin in compose_payment(larger, target).inputs] == [outpoint(2)]


def test_a_plain_payment_pays_exactly_and_returns_the_rest() -> None:
    target = Output(DUST, wallet_script(PAYEE))

    def paid(value: int, rate: int = 3) -> tuple[Output, ...]:
        draft = compose_payment(purse(PAYER, rate, [wallet_coin(outpoint(1), value)]), target)
        assert draft.fee == rate * draft.size
        assert draft.version == 1
        return draft.outputs

    fee = 3 * draft_size([WALLET], [25, 25])
    assert paid(10_000) == (target, Output(10_000 - DUST - fee, WALLET.script))
    assert paid(2 * DUST + fee)[1].value == DUST
    with pytest.raises(InsufficientBitcoin) as caught:
        paid(2 * DUST + fee - 1)
    assert caught.value.data["available"] == 2 * DUST + fee - 1


def test_a_purse_without_what_a_draft_spends() -> None:
    one, two = wallet_coin(outpoint(1), 5000), wallet_coin(outpoint(2), 4000)
    wallet = Purse(WALLET, (one, two), 1, 700)
    draft = compose_payment(wallet, Output(DUST, wallet_script(PAYEE)))
    assert wallet.without(draft) == replace(wallet, coins=(two,))
    assert wallet.without_coins() == replace(wallet, coins=())
    assert key("payer").pubkey == PAYER.pubkey


# What Counterparty reads --------------------------------------------------------------------------------------------

HASHED = bytes(range(20))
NUMERIC_MAX = 2**64 - 1


def older_send(packed: bytes, memo: bytes = b"", quantity: int = 5, asset: int = 1) -> Send | None:
    """What is read in an enhanced send of the older layout."""
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
def test_addresses_of_the_older_layout(version: int, script: bytes) -> None:
    packed = bytes((version,)) + HASHED
    assert older_send(packed) == Send(1, 5, script)
    assert older_send(packed, bytes(34)) == Send(1, 5, script, bytes(34))
    assert older_send(packed, bytes(35)) is None
    assert older_send(packed[:-1]) is None
    assert older_send(bytes((version + 1,)) + HASHED) is None


def test_numbers_of_an_enhanced_send_at_their_borders() -> None:
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


def multisig(needed: int, keys: list[int], total: int, end: bytes = b"\xae") -> bytes:
    return bytes((0x50 + needed,)) + b"".join(push(bytes(size)) for size in keys) + bytes((0x50 + total,)) + end


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


def test_a_wallets_coin_is_unlocked_by_signature_and_key_alone() -> None:
    signature = PAYER.sign(bytes(32)) + b"\x01"
    unlock = wallet_unlock(PAYER.pubkey, wallet_script(PAYER))
    assert unlock.script_sig(signature) == push(signature) + push(PAYER.pubkey)
