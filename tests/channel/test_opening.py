"""How a connection begins: terms, parties, and two contracts that are the same on either side."""

from __future__ import annotations

from dataclasses import replace

import pytest
from channel_support import PAYEE, PAYER, key, legacy, segwit
from exchange_support import HEIGHT, two_parties

from picopayments_cli.channel.keys import NUMS
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.opening import Party, Stake, check_parties, check_wallet, contract_of
from picopayments_cli.channel.terms import TIP_SLACK, Terms
from picopayments_cli.channel.values import Quantity
from picopayments_cli.errors import BadTerms, BadWalletScript, DepositRefused, InvalidTime, RepeatedKey

MAINNET = NETWORKS["mainnet"]
TERMS = Terms(5000, 100, 1.5, 4032, 144, 1, 5, 20)
WALLET = key("wallet")
CLIENT = Party(PAYER.xonly, PAYEE.xonly, legacy(WALLET))
HUB = Party(key("third").xonly, key("fourth").xonly, legacy(key("hub")))


def test_both_sides_make_the_same_contracts() -> None:
    client, hub = two_parties()
    assert client.now.sending.contract == hub.now.receiving.contract
    assert client.now.receiving.contract == hub.now.sending.contract
    assert client.now.sending.contract.deposit != client.now.receiving.contract.deposit
    assert {side.contract.deposit.height for side in (client.now.sending, client.now.receiving)} == {HEIGHT}


@pytest.mark.parametrize("name", ["payer_key", "payee_key"])
@pytest.mark.parametrize("twin", [CLIENT.payer_key, CLIENT.payee_key, NUMS])
def test_no_two_keys_of_a_connection_are_equal(name: str, twin: object) -> None:
    check_parties(CLIENT, HUB)
    with pytest.raises(RepeatedKey):
        check_parties(CLIENT, replace(HUB, **{name: twin}))  # type: ignore[arg-type]


def test_a_wallet_is_of_the_key_that_signs() -> None:
    for script in (legacy(WALLET), segwit(WALLET)):
        check_wallet(script, WALLET.pubkey)
        with pytest.raises(BadWalletScript):
            check_wallet(script, key("another").pubkey)
    for script in (b"", b"\x51\x20" + bytes(32), legacy(WALLET)[:-1], b"\xa9\x14" + WALLET.pubkey_hash + b"\x87"):
        with pytest.raises(BadWalletScript):
            check_wallet(script, WALLET.pubkey)


@pytest.mark.parametrize("height", [0, 500_000_000])
def test_an_expiry_is_a_height(height: int) -> None:
    with pytest.raises(InvalidTime):
        contract_of(CLIENT, HUB, 1, height, Stake(Quantity(1), 14, 1))


@pytest.mark.parametrize(("quantity", "right"), [(99, False), (100, True), (5000, True), (5001, False)])
def test_a_deposit_is_within_the_terms(quantity: int, right: bool) -> None:
    if right:
        TERMS.check_deposit(quantity)
    else:
        with pytest.raises(DepositRefused):
            TERMS.check_deposit(quantity)
    replace(TERMS, deposit_max=0).check_deposit(max(quantity, 100))


@pytest.mark.parametrize(("rate", "right"), [(0, False), (1, True), (20, True), (21, False)])
def test_a_rate_is_within_the_terms(rate: int, right: bool) -> None:
    if right:
        TERMS.check_rate(rate)
    else:
        with pytest.raises(DepositRefused):
            TERMS.check_rate(rate)


@pytest.mark.parametrize(("expire", "right"), [(143, False), (144, True), (4032, True), (4033, False)])
def test_an_expiry_is_within_the_terms(expire: int, right: bool) -> None:
    tip = 900_000
    if right:
        TERMS.check_expire(expire, MAINNET)
    else:
        with pytest.raises(InvalidTime):
            TERMS.check_expire(expire, MAINNET)
    TERMS.check_height(tip + expire, tip, MAINNET)  # the other's tip may be some blocks away
    for away in (144 - TIP_SLACK - 1, 4032 + TIP_SLACK + 1):
        with pytest.raises(InvalidTime):
            TERMS.check_height(tip + away, tip, MAINNET)


@pytest.mark.parametrize(
    ("name", "value"), [("fee_rate", 0), ("fee_rate", 101), ("fee_rate_max", 0), ("fee_rate_max", 101), ("sync_fee", 0)]
)
def test_terms_that_no_honest_hub_offers_are_refused(name: str, value: int) -> None:
    with pytest.raises(BadTerms):
        replace(TERMS, **{name: value})


def test_a_matching_deposit_is_exact() -> None:
    assert replace(TERMS, deposit_ratio=0.1).matching_deposit(2**62) == 2**62 // 10
