"""Make two contracts of the messages by which a connection begins, the same on either side."""

from __future__ import annotations

from dataclasses import dataclass

from picopayments_cli.channel.keys import XOnly, check_distinct
from picopayments_cli.channel.scripts import DepositScript, is_p2wpkh, is_wallet
from picopayments_cli.channel.transactions import Contract
from picopayments_cli.channel.values import Pubkey, Quantity, hash160
from picopayments_cli.errors import BadWalletScript


@dataclass(frozen=True)
class Party:
    """One side's channel keys, of the channel on which it pays and of the other, and its wallet's scriptPubKey."""

    payer_key: XOnly
    payee_key: XOnly
    wallet: bytes


@dataclass(frozen=True)
class Stake:
    """One channel as agreed: the deposit, the delay of its payouts in blocks, the commits' rate in sat/vB."""

    quantity: Quantity
    delay: int
    rate: int


def check_parties(client: Party, hub: Party) -> None:
    """Refuse keys of which two are equal. Raises RepeatedKey."""
    check_distinct((client.payer_key, client.payee_key, hub.payer_key, hub.payee_key))


def check_wallet(script: bytes, pubkey: Pubkey) -> None:
    """Refuse a wallet's script that is not of the key which signs its owner's messages. Raises BadWalletScript."""
    hashed = script[2:] if is_p2wpkh(script) else script[3:23]
    if not is_wallet(script) or hashed != hash160(pubkey):
        raise BadWalletScript(
            f"The script {script.hex()} is neither P2PKH nor P2WPKH of the key that signs for it.", script=script.hex()
        )


def contract_of(payer: Party, payee: Party, asset_id: int, height: int, stake: Stake) -> Contract:
    """The contract of the channel from one to the other, which expires at that height.

    Raises InvalidTime, RepeatedKey, BadWalletScript.
    """
    deposit = DepositScript(payer.payer_key, payee.payee_key, height)
    return Contract(deposit, payer.wallet, payee.wallet, asset_id, stake.quantity, stake.delay, stake.rate)
