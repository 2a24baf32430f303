"""Many connections, really opened but in a hurry: all agreed on first, then published, then seen."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hub_process import HubProcess
from party import Party
from picopayments_cli.channel2 import duplex as pair
from picopayments_cli.channel2.duplex import Duplex
from picopayments_cli.channel2.facts import Facts, see_deposit, unspent
from picopayments_cli.channel2.keys import SALT_SIZE, Key, Secrets
from picopayments_cli.channel2.messages import ConnectReply, ConnectRequest, DepositMessage, DepositRequest
from picopayments_cli.channel2.scripts import DepositScript, wallet_unlock
from picopayments_cli.channel2.state import Channel
from picopayments_cli.channel2.terms import Terms
from picopayments_cli.channel2.transactions import Anchor, Draft, Input, Output, Purse, compose_deposit

from picopayments_cli.chain import Query
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.channel import envelope
from picopayments_cli.channel.counterparty import p2pkh
from picopayments_cli.channel.networks import address_of_script, network_named, script_of_address
from picopayments_cli.channel.values import Coin, Outpoint, Quantity, hash160
from picopayments_cli.errors import BadReply
from picopayments_cli.rpc import RpcClient

ASSET = "XCP"
DEPOSIT = 20_000_000
EXPIRE = 2000
DELAY = 2
COIN = 500_000  # satoshis; one for each deposit, the hub's too
NETWORK = network_named("regtest")


def open_connections(hub: HubProcess, count: int) -> list[Party]:
    """Connections of one new wallet, with a hub that mines only when told."""
    rpc = RpcClient(hub.url)
    chain = HubChain(rpc, NETWORK)
    key = Key(os.urandom(32))
    script = p2pkh(hash160(key.pubkey))
    address = str(address_of_script(NETWORK, script))
    hubs = rpc.call("mph_status", {}, retry=True)["funds"]["address"]
    funds = {"btc": 3 * COIN * count, "asset": ASSET, "quantity": count * DEPOSIT}
    rpc.call("faucet", {"address": address, **funds}, retry=False)
    rpc.call("generate", {"blocks": 1}, retry=False)
    largest = max(chain.view(Query(coins=[address])).coins[address], key=lambda coin: coin.value)
    unlock = wallet_unlock(key.pubkey, script)
    outputs = [Output(COIN, script), Output(COIN, script_of_address(NETWORK, hubs))] * count
    chain.broadcast(Draft((Input(largest.outpoint, largest.value, unlock),), tuple(outputs)).signed(key).serialize())
    rpc.call("generate", {"blocks": 1}, retry=False)
    view = chain.view(Query(coins=[address]))
    coins = [coin for coin in view.coins[address] if coin.value == COIN]
    number = chain.asset(ASSET).number
    agreed = [_agree(rpc, key, number, coin, view.fee_rate) for coin in coins]
    for _, raw in agreed:
        chain.broadcast(raw)
    hub.wait_until_open(count)
    return _with_hubs_deposits(chain, [party for party, _ in agreed])


def _agree(rpc: RpcClient, key: Key, asset: int, coin: Coin, rate: int) -> tuple[Party, bytes]:
    """A connection agreed on, and its deposit's raw transaction, from one coin of the wallet."""
    salt = os.urandom(SALT_SIZE)
    secrets = Secrets(key, salt)
    asked = ConnectRequest(ASSET, secrets.spend_hash)
    body = rpc.call("mph_request", envelope.seal(key, asked.as_json()), retry=False)
    hubs = envelope.named_key(body)
    if hubs is None:
        raise BadReply("The hub names no key.")
    answer = ConnectReply.parse(body)
    terms = Terms.parse(answer.terms)
    c2h = Channel(
        asset, DepositScript(key.pubkey, hubs, answer.spend_hash, EXPIRE), Quantity(DEPOSIT), DELAY, terms.fee_rate
    )
    h2c_script = DepositScript(hubs, key.pubkey, secrets.spend_hash, EXPIRE)
    message = DepositMessage(c2h.script.redeem, secrets.revoke_hash(0), Quantity(DEPOSIT), DELAY)
    own = envelope.seal(key, DepositRequest(message, ASSET, answer.handle).as_json())
    reply = DepositMessage.parse(rpc.call("mph_deposit", own, retry=False), BadReply)
    purse = Purse(wallet_unlock(key.pubkey, p2pkh(hash160(key.pubkey))), (coin,), rate)
    draft = compose_deposit(purse, c2h.script, asset, DEPOSIT, c2h.budget)
    tx = draft.signed(key)
    channels = Duplex(
        Channel(
            asset, c2h.script, c2h.quantity, DELAY, terms.fee_rate,
            Anchor(Outpoint(tx.GetTxid(), 0), draft.outputs[0].value),
        ),
        Channel(asset, h2c_script, reply.quantity, reply.delay, terms.fee_rate),
    )  # fmt: skip
    channels = pair.hand_out(pair.add_request(channels, reply.next_hash), secrets.revoke_hash(0))
    party = Party(key, salt, answer.handle, terms.sync_fee, channels, numbers={secrets.revoke_hash(0): 0})
    return party, tx.serialize()


def _with_hubs_deposits(chain: HubChain, parties: Sequence[Party]) -> list[Party]:
    """The parties, each with the hub's deposit as the chain shows it."""
    addresses = [str(address_of_script(NETWORK, party.duplex.receiving.script.output)) for party in parties]
    view = chain.view(Query(history=addresses, balances=addresses))
    for party, address in zip(parties, addresses, strict=True):
        channel, history = party.duplex.receiving, view.history[address]
        facts = Facts(view.height, history, unspent(channel.script.output, history))
        held = view.balances[address].get(ASSET, 0)
        seen = see_deposit(channel, facts, held, NETWORK.safe_depth)
        party.duplex = Duplex(party.duplex.sending, seen)
    return list(parties)
