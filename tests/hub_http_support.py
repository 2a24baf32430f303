"""The hub's own methods asked over HTTP: clients whose requests the test makes, and the names that refusals have."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import requests
from network_support import DEPOSIT, WAIT, Client, Network, key_in
from picopayments_cli.channel2 import duplex as pair
from picopayments_cli.channel2.keys import Key, Secrets
from picopayments_cli.channel2.messages import (
    CloseRequest,
    ConnectRequest,
    DepositMessage,
    Payment,
    SyncReply,
    SyncRequest,
)
from picopayments_cli.channel2.scripts import DepositScript
from regtest_support import key_of

from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import Handle, Hash, Quantity, Secret
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.rpc import RpcClient

EXPIRE, DELAY = 100, 2


def raw_result(network: Network, method: str, body: Mapping[str, Any]) -> bytes:
    """The bytes of an HTTP answer."""
    request = {"jsonrpc": "2.0", "id": 0, "method": method, "params": body}
    return requests.post(network.hub_url, json=request, timeout=WAIT).content


def refusal(network: Network, method: str, body: Mapping[str, Any]) -> PicopaymentsError:
    """The error that a call is refused with."""
    with pytest.raises(PicopaymentsError) as caught:
        RpcClient(network.hub_url).call(method, body, retry=False)
    return caught.value


def name_of(network: Network, method: str, body: Mapping[str, Any]) -> str:
    """The name of the error that a call is refused with."""
    return refusal(network, method, body).name


class ProposingClient:
    """A client without rules of its own: what it signs is what the test says."""

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.key = key_of(name)
        self.secrets = Secrets(self.key, os.urandom(16))

    def call(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A signed call's result, whose signature must be the hub's and whose request must be this one."""
        sealed = envelope.seal(self.key, body)
        result: dict[str, Any] = RpcClient(self.network.hub_url).call(method, sealed, retry=False)
        assert envelope.signed_by(result, hub_key(self.network).pubkey)
        assert result["request_sha256"] == envelope.digest(sealed).hex()
        return result

    def request(self) -> tuple[Handle, Hash]:
        """Ask for a connection: handle and the hub's spend hash."""
        reply = self.call("mph_request", ConnectRequest("XCP", self.secrets.spend_hash).as_json())
        return Handle(bytes.fromhex(reply["handle"])), Hash(bytes.fromhex(reply["spend_secret_hash"]))

    def deposit(self, hubs: Hash, **changes: Any) -> DepositMessage:
        """A proposal as the protocol has it, but for changes; ``expire`` changes the script."""
        expire = changes.pop("expire", EXPIRE)
        script = DepositScript(self.key.pubkey, hub_key(self.network).pubkey, hubs, expire)
        message = DepositMessage(script.redeem, self.secrets.revoke_hash(0), Quantity(DEPOSIT), DELAY)
        return replace(message, **changes)


def hub_key(network: Network) -> Key:
    """The hub's key."""
    return key_in(network.basedir / "hub.regtest.wif")


class OpenConnection:
    """A connection whose client's requests are made by the test, from the state that the client would have."""

    def __init__(self, network: Network, client: Client, handle: str) -> None:
        kept = client.connection(handle)
        self.network = network
        self.key = client.key
        self.handle = kept.handle
        self.duplex = kept.duplex
        self.secrets = kept.secrets(client.key)
        self.numbers = dict(kept.numbers)
        self.next_number = kept.next_number

    def request(self, total: int, *payments: Payment) -> SyncRequest:
        """A right request that moves a sum."""
        return SyncRequest(self.handle, self._transfer(total)[1], payments, self.secrets.revoke_hash(self.next_number))

    def _transfer(self, total: int) -> tuple[pair.Duplex, pair.Half]:
        return pair.transfer(self.duplex, total, self.key, lambda item: self.secrets.revoke(self.numbers[item]))

    def sealed(self, request: SyncRequest, **changes: Any) -> dict[str, Any]:
        """Its signed body; without ``partial``, as the originals send it."""
        body = {name: value for name, value in request.as_json().items() if name != "partial"}
        return envelope.seal(self.key, body | changes)

    def refused(self, request: SyncRequest, **changes: Any) -> str:
        """The name that a request is refused by."""
        return name_of(self.network, "mph_sync", self.sealed(request, **changes))

    def sync(self, total: int, *payments: Payment, **changes: Any) -> SyncReply:
        """Send a right request and settle its reply."""
        request = self.request(total, *payments)
        body = self.sealed(request, **changes)
        result = RpcClient(self.network.hub_url).call("mph_sync", body, retry=False)
        assert envelope.signed_by(result, hub_key(self.network).pubkey)
        assert result["request_sha256"] == envelope.digest(body).hex()
        reply = SyncReply.parse(result)
        moved = pair.hand_out(self._transfer(total)[0], request.next_hash)
        self.numbers[request.next_hash] = self.next_number
        self.next_number += 1
        settled, _ = pair.settle(moved, reply.half, sum(item.amount for item in reply.receipts))
        self.duplex = pair.add_request(settled, reply.next_hash)
        return reply

    def close(self, secret: Secret | None = None) -> dict[str, Any]:
        """Return what the hub answers to a close."""
        body = envelope.seal(self.key, CloseRequest(self.handle, secret).as_json())
        result: dict[str, Any] = RpcClient(self.network.hub_url).call("mph_close", body, retry=False)
        return result

    @property
    def paid(self) -> int:
        """Return what the hub has got from the client since the connection opened, as the hub tells it."""
        status = self.network.hub.call("mph_status", assets=None)["connections"]
        return int(status[self.handle.hex()]["balance"]) - DEPOSIT
