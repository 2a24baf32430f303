"""Many connections, really opened but in a hurry: all agreed on first, then published, then seen."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from hub_process import HubProcess
from party import Party

from picopayments_cli.chain import Query
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.channel import envelope, opening
from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.counterparty import p2pkh
from picopayments_cli.channel.drafts import Draft, Input, Output, parse_transaction
from picopayments_cli.channel.duplex import Duplex, add_request, hand_out
from picopayments_cli.channel.keys import SALT_SIZE, Key, Secrets
from picopayments_cli.channel.messages import ConnectReply, ConnectRequest, DepositReply, DepositRequest, KeyRequest
from picopayments_cli.channel.networks import address_of_script, network_named, script_of_address
from picopayments_cli.channel.opening import Stake, contract_of
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.state import Receiving, Sending
from picopayments_cli.channel.transactions import Contract, check_deposit, compose_deposit
from picopayments_cli.channel.values import Coin, Pubkey, Quantity
from picopayments_cli.channel.wire import NONCE_SIZE
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
    coins = _fund(rpc, chain, key, count)
    number = chain.asset(ASSET).number
    height = chain.view(Query()).height
    hub_key = envelope.named_key(rpc.call("mph_key", KeyRequest(os.urandom(NONCE_SIZE)).as_json(), retry=True))
    if hub_key is None:
        raise RuntimeError("The hub names no key.")
    agreed = [_agree(rpc, hub_key, key, number, coin, height) for coin in coins]
    for _, raw in agreed:
        chain.broadcast(raw)
    hub.wait_until_open(count)
    return [_with_hubs_deposit(chain, party) for party, _ in agreed]


def _fund(rpc: RpcClient, chain: HubChain, key: Key, count: int) -> tuple[Coin, ...]:
    """Give wallet and hub a coin for each deposit; the wallet's."""
    script = p2pkh(key.pubkey_hash)
    address = str(address_of_script(NETWORK, script))
    hubs = rpc.call("mph_status", {}, retry=True)["funds"]["address"]
    funds = {"btc": 3 * COIN * count, "asset": ASSET, "quantity": count * DEPOSIT}
    rpc.call("faucet", {"address": address, **funds}, retry=False)
    rpc.call("generate", {"blocks": 1}, retry=False)
    largest = max(chain.view(Query(coins=[address])).coins[address], key=lambda coin: coin.value)
    outputs = [Output(COIN, script), Output(COIN, script_of_address(NETWORK, hubs))] * count
    chain.broadcast(finish_wallet(Draft((Input(largest),), tuple(outputs)), key))
    rpc.call("generate", {"blocks": 1}, retry=False)
    return tuple(coin for coin in chain.view(Query(coins=[address])).coins[address] if coin.value == COIN)


def _agree(rpc: RpcClient, hub: Pubkey, key: Key, asset: int, coin: Coin, tip: int) -> tuple[Party, bytes]:
    """A connection agreed on, and its deposit's raw transaction, from one coin of the wallet."""
    secrets = Secrets(key, os.urandom(SALT_SIZE))
    own = opening.Party(secrets.payer.xonly, secrets.payee.xonly, p2pkh(key.pubkey_hash))

    def ask(method: str, request: ConnectRequest | DepositRequest) -> Any:
        return rpc.call(method, envelope.seal(key, request.as_json(), envelope.asking(method, hub)), retry=False)

    answer = ConnectReply.parse(ask("mph_request", ConnectRequest(ASSET, own, secrets.salt)))
    height, stake = tip + EXPIRE, Stake(Quantity(DEPOSIT), DELAY, answer.terms.fee_rate)
    c2h = contract_of(own, answer.hub, asset, height, stake)
    request = DepositRequest(answer.handle, stake, 1, height, c2h.deposit.output, secrets.revoke_hash(0))
    reply = DepositReply.parse(ask("mph_deposit", request))
    h2c = contract_of(answer.hub, own, asset, height, reply.stake)
    raw = finish_wallet(compose_deposit(c2h, Purse(own.wallet, (coin,), 2)), key)
    duplex, _ = hand_out(Duplex(Sending(c2h, _anchor(c2h, raw)), Receiving(h2c)), secrets)
    duplex = add_request(duplex, reply.next_hash, seen=False)
    return Party(hub, key.secret, secrets.salt, answer.handle, answer.terms.sync_fee, duplex), raw


def _anchor(contract: Contract, raw: bytes) -> Coin:
    tx = parse_transaction(raw)
    if tx is None:
        raise RuntimeError("A deposit is no transaction.")
    return check_deposit(contract, tx)


def _with_hubs_deposit(chain: HubChain, party: Party) -> Party:
    """The party with the hub's deposit as the chain shows it."""
    contract = party.duplex.receiving.contract
    address = str(address_of_script(NETWORK, contract.deposit.output))
    (entry,) = chain.view(Query(history=[address])).history[address]
    receiving = replace(party.duplex.receiving, anchor=_anchor(contract, entry.raw))
    return replace(party, duplex=replace(party.duplex, receiving=receiving))
