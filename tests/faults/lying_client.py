"""Part: a client that lies to the hub, in requests signed with its own key or not."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import requests
from network_support import DEPOSIT, FEE, Network, running_network

from faults.harness_client import EXPIRE, ROUNDS, HarnessClient, heard, hub_balance
from faults.lying_hub import UNSIGNED
from faults.mutations import Known, Mutation, mutations, signature_shaped
from faults.proxy import LOST_BEFORE, Proxy, between
from faults.result import Budget, Result
from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import MAX_QUANTITY, Handle, Hash, Quantity
from picopayments_cli.channel2.keys import Key, Secrets
from picopayments_cli.channel2.messages import CloseRequest, ConnectRequest, DepositMessage, DepositRequest
from picopayments_cli.channel2.scripts import DepositScript
from picopayments_cli.channel2.state import commit
from picopayments_cli.errors import PicopaymentsError, Unreachable
from picopayments_cli.rpc import RpcClient

QUICK = 12  # changes of each request
TRIES = 3
AMOUNT = 250  # of the payment in the sync that is changed


class LiedToNetwork:
    """A network whose hub is lied to, and its honest client bob."""

    def __init__(self, network: Network, proxy: Proxy, rng: random.Random, result: Result) -> None:
        self.network = network
        self.proxy = proxy
        self.rng = rng
        self.result = result
        self.rpc = RpcClient(network.hub_url)
        self.started = self.hubs_wallet()
        self.bob = HarnessClient(network, "bob", proxy.url).fund()
        self.bobs = self.bob.open()
        self.alice = HarnessClient(network, "alice", proxy.url).fund()

    def hubs_wallet(self) -> int:
        """Return what the hub's wallet holds of the asset."""
        status = self.network.hub.call("mph_status", assets=["XCP"])
        return int(status["funds"]["liquidity"]["XCP"])

    def told(self, method: str, body: Any) -> str | None:
        """Say something to the hub; the name that it is refused by, None where it is taken."""
        try:
            self.rpc.call(method, body, retry=False)
        except PicopaymentsError as error:
            details = error.data.get("details")
            internal = isinstance(details, dict) and details.get("type") == "InternalError"
            answered = error.name != "HubUnreachable" and not internal
            self.result.hold(answered, f"{method} {str(body)[:200]}: {error.name} {error.message}")
            return error.name
        return None

    def quietly(self, party: HarnessClient, command: str, *args: Any) -> str | None:
        """Do a command of a client; the name of the error that it fails with."""
        try:
            party.do(command, *args)
        except PicopaymentsError as error:
            return error.name
        return None

    def chosen(self, found: Sequence[Mutation], budget: Budget) -> list[Mutation]:
        """The changes to try."""
        return self.rng.sample(found, min(QUICK, len(found))) if budget.quick else list(found)

    def enter(self, pair: str, name: str | None, harmless: str) -> None:
        """Note what became of a change."""
        self.result.trials += 1
        self.result.refused += name is not None
        self.result.recovered += name is None
        self.result.pairs[pair] = name or f"harmless: {harmless}"


def forged(base: Mapping[str, Any], mutation: Mutation, key: Key | None) -> Any:
    """A changed request, signed by its client again where there is a key."""
    changed = mutation.apply(base)
    if key is None or not isinstance(changed, Mapping) or mutation.member in UNSIGNED:
        return changed if isinstance(changed, (Mapping, list)) else [changed]
    bare = {name: value for name, value in changed.items() if name not in UNSIGNED}
    return envelope.seal(key, bare)


def run(rng: random.Random, budget: Budget) -> Result:
    """Requests of all four methods, changed in every member by every kind of change; crafted lies; raw nonsense."""
    result = Result("lying client")
    with running_network(budget.folder) as network, between(network.hub_url) as proxy, heard():
        cheat = LiedToNetwork(network, proxy, rng, result)
        _syncs(cheat, budget)
        _crafted(cheat)
        _requests(cheat, budget)
        _deposits(cheat, budget)
        _closes(cheat, budget)
        _nonsense(cheat)
        _end(cheat)
        failed = [line for line in network.hub.logged() if line.get("level") == "ERROR"]
        result.hold(not failed, f"the hub logged errors: {failed[:3]}")
    return result


# mph_sync -----------------------------------------------------------------------------------------------------------


def _prepared(cheat: LiedToNetwork) -> tuple[str, dict[str, Any]]:
    """A new connection, and a right request on it, which the hub has not seen: secrets, a commit, a payment."""
    alice = cheat.alice
    handle = alice.open()
    if cheat.bob.worn(cheat.bobs):
        cheat.bobs = cheat.bob.open()
    alice.do("queuepayment", handle, cheat.bobs, 5)
    alice.do("sync", handle)
    cheat.bob.do("queuepayment", cheat.bobs, handle, 100)
    cheat.bob.do("sync", cheat.bobs)
    alice.do("sync", handle)
    alice.do("queuepayment", handle, cheat.bobs, AMOUNT)
    cheat.proxy.faults.extend([LOST_BEFORE] * TRIES)
    try:
        alice.do("sync", handle)
    except Unreachable:
        pending = alice.connection(handle).pending
        if pending is not None:
            body = {name: value for name, value in pending.bodies[-1].items() if name not in UNSIGNED}
            return handle, envelope.seal(alice.key(), {**body, "partial": False})
    raise RuntimeError("the request was not kept from the hub")


def _syncs(cheat: LiedToNetwork, budget: Budget) -> None:
    handle, base = _prepared(cheat)
    cheat.result.hold(base["revokes"] and base["commit"] and base["sends"], "the request lacks something")
    known = _known(cheat, handle)
    key = cheat.alice.key()
    current = {mutation.pair: mutation for mutation in mutations(base, known, cheat.rng)}
    for pair in [mutation.pair for mutation in cheat.chosen(list(current.values()), budget)]:
        if pair not in current:
            continue
        mutation = current[pair]
        before = hub_balance(cheat.network, handle) or 0
        name = cheat.told("mph_sync", forged(base, mutation, key))
        after = hub_balance(cheat.network, handle)
        if name is not None:
            cheat.enter(f"mph_sync {mutation.pair}", name, "")
            cheat.result.hold(after == before, f"the hub counts {after}, not {before}, after {mutation.pair}")
            continue
        cheat.result.keep(before + FEE, after or 0, f"the hub, after {mutation.pair}")
        cheat.enter(f"mph_sync {mutation.pair}", None, "the hub has what it was given, and its fee")
        handle, base = _prepared(cheat)
        current = {mutation.pair: mutation for mutation in mutations(base, _known(cheat, handle), cheat.rng)}
    name = cheat.told("mph_sync", base)
    cheat.result.hold(name is None, f"after all that the right request is refused: {name}")
    _unsigned(cheat, budget)


def _known(cheat: LiedToNetwork, handle: str) -> Known:
    """Values for a lying client's requests: the connection's hashes and secrets, older and others' requests."""
    connection = cheat.alice.connection(handle)
    duplex, own = connection.duplex, connection.secrets(cheat.alice.key())
    hashes = {
        "the hub's spend hash": duplex.sending.script.spend_hash.hex(),
        "the client's spend hash": duplex.receiving.script.spend_hash.hex(),
        "the hash of an active commit": duplex.sending.active[0].revoke_hash.hex(),
    }
    secrets = {"the spend secret": own.spend.hex(), "a secret of no commit yet": own.revoke(5000).hex()}
    asked = [item.params for item in cheat.proxy.seen if item.method == "mph_sync"]
    mine = [params for params in asked if params["handle"] == handle]
    others = [params for params in asked if params["handle"] == cheat.bobs]
    commits = [params for params in others if params["commit"]]
    messages = {"of an older request": mine[0], "of another connection's request": others[-1]}
    if commits:
        messages["of another connection's request with a commit"] = commits[-1]
    return Known(hashes, secrets, messages)


def _unsigned(cheat: LiedToNetwork, budget: Budget) -> None:
    """Send the changes without the client's key."""
    handle, base = _prepared(cheat)
    rules: dict[str, int] = {}
    before = hub_balance(cheat.network, handle)
    for mutation in cheat.chosen(mutations(base, Known(), cheat.rng), budget):
        if mutation.member == "signature" and mutation.kind == "high S":
            continue  # as good a signature, of the same request
        for key in (None, Key(os.urandom(32))):
            name = cheat.told("mph_sync", forged(base, mutation, key))
            cheat.result.trials += 1
            cheat.result.refused += name is not None
            rules[str(name)] = rules.get(str(name), 0) + 1
            cheat.result.hold(name is not None, f"taken without the client's signature: {mutation.pair}")
    cheat.result.hold(hub_balance(cheat.network, handle) == before, "unsigned requests moved something")
    cheat.result.notes.append(f"changes that the client's key did not sign: {rules}")
    cheat.alice.do("sync", handle)  # the right request, as it was


def _crafted(cheat: LiedToNetwork) -> None:
    """Lies that take more than one change: payments of more than is moved, commits beyond the deposit, replays."""
    handle, base = _prepared(cheat)
    key, rng = cheat.alice.key(), cheat.rng
    send = base["sends"][0]
    before = hub_balance(cheat.network, handle)

    def seal(**changes: Any) -> dict[str, Any]:
        return envelope.seal(key, {**{n: v for n, v in base.items() if n not in UNSIGNED}, **changes})

    def sends(*amounts: Any, payee: Any = send["payee_handle"]) -> list[dict[str, Any]]:
        return [{"payee_handle": payee, "amount": amount, "token": rng.randbytes(8).hex()} for amount in amounts]

    lies = {
        "two payments of what one was moved for": seal(sends=sends(AMOUNT, AMOUNT)),
        "a payment of one more than was moved": seal(sends=sends(AMOUNT + 1)),
        "many payments of one": seal(sends=sends(*[1] * (AMOUNT + 1))),
        "a payment to the hub of more than was moved": seal(sends=sends(AMOUNT + 1, payee=None)),
        "payments that add up beyond 2^64": seal(sends=sends(MAX_QUANTITY, MAX_QUANTITY, 2)),
        "a negative payment beside a larger one": seal(sends=sends(2 * AMOUNT, -AMOUNT)),
        "payments without commit or secrets": seal(commit=None, revokes=[]),
        "payments with the secrets only": seal(commit=None),
        "payments with the commit only": seal(revokes=[]),
        "a secret twice": seal(revokes=[*base["revokes"], base["revokes"][0]]),
        "the spend secret among the secrets": seal(revokes=[*base["revokes"], _own(cheat, handle).spend.hex()]),
        "a secret like a signature": seal(revokes=[signature_shaped(rng).hex()]),
        "a payment to oneself of more": seal(sends=sends(AMOUNT + 1, payee=handle)),
        "a hash used before": seal(next_revoke_secret_hash=_own(cheat, handle).revoke_hash(0).hex()),
        "a hash of the hub's": seal(next_revoke_secret_hash=_hubs_hash(cheat, handle)),
    }
    lies |= {what: seal(commit=offer) for what, offer in _commits(cheat, handle, base).items()}
    for what, lie in lies.items():
        name = cheat.told("mph_sync", lie)
        cheat.enter(f"mph_sync (crafted) | {what}", name, "")
        cheat.result.hold(name is not None, f"taken: {what}")
        cheat.result.hold(hub_balance(cheat.network, handle) == before, f"{what} moved something")
    older = [item.params for item in cheat.proxy.seen if item.method == "mph_sync" and item.params["handle"] == handle]
    cheat.result.hold(len(older) > 1, "there is no older request")
    cheat.enter("mph_sync (crafted) | an overtaken request again", cheat.told("mph_sync", older[0]), "")
    cheat.result.hold(hub_balance(cheat.network, handle) == before, "an overtaken request moved something")
    for what in ("the last request again", "and once more"):
        name = cheat.told("mph_sync", older[-1])
        cheat.enter(f"mph_sync (crafted) | {what}", name, "its stored reply again, nothing moves")
        cheat.result.hold(hub_balance(cheat.network, handle) == before, f"{what} moved something")
    cheat.alice.do("sync", handle)
    cheat.result.hold(cheat.alice.connection(handle).pending is None, "the right request is refused after the lies")


def _own(cheat: LiedToNetwork, handle: str) -> Secrets:
    return cheat.alice.connection(handle).secrets(cheat.alice.key())


def _hubs_hash(cheat: LiedToNetwork, handle: str) -> str:
    return cheat.alice.connection(handle).duplex.sending.active[-1].revoke_hash.hex()


def _commits(cheat: LiedToNetwork, handle: str, base: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Commits signed by the client that the hub must not take."""
    channel = cheat.alice.connection(handle).duplex.sending
    used = channel.active[-1].revoke_hash
    asked = replace(channel, active=channel.active[:-1], requested=(used,))
    other = Key(cheat.rng.randbytes(32))
    found = {
        "beyond the deposit": commit(replace(asked, quantity=Quantity(2 * DEPOSIT)), DEPOSIT + 1, cheat.alice.key()),
        "of 2^63 - 1": commit(replace(asked, quantity=Quantity(MAX_QUANTITY)), MAX_QUANTITY, cheat.alice.key()),
        "of one": commit(replace(asked, active=()), 1, cheat.alice.key()),
        "of another asset": commit(replace(asked, asset_id=26**3), channel.moved, cheat.alice.key()),
        "with a longer delay": commit(replace(asked, delay=2016), channel.moved, cheat.alice.key()),
        "at another fee rate": commit(replace(asked, fee_rate=1), channel.moved, cheat.alice.key()),
        "on a hash of the client's own": commit(
            replace(asked, requested=(Hash(cheat.rng.randbytes(20)),)), channel.moved, cheat.alice.key()
        ),
        "on the hash of a commit before": commit(
            replace(asked, requested=(channel.revoked[0].revoke_hash,)), channel.moved, cheat.alice.key()
        ),
        "signed by another": commit(asked, channel.moved, other),
    }
    offers = {
        f"a commit {what}": {"rawtx": offer.raw.hex(), "script": offer.script.hex()}
        for what, (_, offer) in found.items()
    }
    cut = {**base["commit"], "script": base["commit"]["script"][:-2]}
    return offers | {"a commit with a script cut off": cut}


# mph_request and mph_deposit ----------------------------------------------------------------------------------------


class UnfundedClient:
    """Somebody who asks for connections and never funds one."""

    def __init__(self, cheat: LiedToNetwork) -> None:
        self.key = Key(cheat.rng.randbytes(32))
        self.secrets = Secrets(self.key, cheat.rng.randbytes(16))
        self._cheat = cheat

    def request(self) -> dict[str, Any]:
        """A right mph_request."""
        return envelope.seal(self.key, ConnectRequest("XCP", self.secrets.spend_hash).as_json())

    def deposit(self) -> tuple[dict[str, Any], str]:
        """A right mph_deposit on a connection just asked for, and its handle."""
        reply = self._cheat.rpc.call("mph_request", self.request(), retry=False)
        handle = Handle(bytes.fromhex(reply["handle"]))
        hub = bytes.fromhex(reply["pubkey"])
        script = DepositScript(self.key.pubkey, hub, Hash(bytes.fromhex(reply["spend_secret_hash"])), EXPIRE)  # type: ignore[arg-type]
        message = DepositMessage(script.redeem, self.secrets.revoke_hash(0), Quantity(1000), 2)
        return envelope.seal(self.key, DepositRequest(message, "XCP", handle).as_json()), handle.hex()


def _requests(cheat: LiedToNetwork, budget: Budget) -> None:
    hand, other = UnfundedClient(cheat), UnfundedClient(cheat)
    known = Known({"a hash of the hub's": _hubs_hash(cheat, cheat.alice.handles()[0])}, {}, {})
    known.messages = {"of another client's request": other.request()}
    base = hand.request()
    for mutation in cheat.chosen(mutations(base, known, cheat.rng), budget):
        name = cheat.told("mph_request", forged(base, mutation, hand.key))
        cheat.enter(f"mph_request {mutation.pair}", name, "a connection is asked for")


def _deposits(cheat: LiedToNetwork, budget: Budget) -> None:
    hand, other = UnfundedClient(cheat), UnfundedClient(cheat)
    base, handle = hand.deposit()
    foreign, _ = other.deposit()
    known = Known({"the client's spend hash": hand.secrets.spend_hash.hex()}, {}, {})
    known.messages = {"of another client's request": foreign}
    for mutation in cheat.chosen(mutations(base, known, cheat.rng), budget):
        body = forged(base, mutation, hand.key)
        name = cheat.told("mph_deposit", body)
        cheat.enter(f"mph_deposit {mutation.pair}", name, "agreed as proposed, and nothing funded before it is there")
        if name is None:
            cheat.result.hold(hub_balance(cheat.network, handle, "open") is None, "open without a deposit")
            base, handle = hand.deposit()
    cheat.result.hold(cheat.told("mph_deposit", base) is None, "the right deposit is refused after all that")


# mph_close ----------------------------------------------------------------------------------------------------------


def _closes(cheat: LiedToNetwork, budget: Budget) -> None:
    alice = cheat.alice

    def fresh() -> tuple[str, dict[str, Any]]:
        opened = alice.open()
        alice.do("sync", opened)  # so that the hub has something to lose
        secret = alice.connection(opened).secrets(alice.key()).spend
        return opened, envelope.seal(alice.key(), CloseRequest(Handle(bytes.fromhex(opened)), secret).as_json())

    handle, base = fresh()
    known = Known({}, {"a revoke secret": _own(cheat, handle).revoke(0).hex()}, {})
    for mutation in cheat.chosen(mutations(base, known, cheat.rng), budget):
        before = hub_balance(cheat.network, handle, "open")
        name = cheat.told("mph_close", forged(base, mutation, alice.key()))
        cheat.enter(f"mph_close {mutation.pair}", name, "closed: the hub publishes what it has")
        if name is not None:
            cheat.result.hold(hub_balance(cheat.network, handle, "open") == before, f"closed: {mutation.pair}")
        else:
            handle, base = fresh()


# Nonsense -----------------------------------------------------------------------------------------------------------


def _nonsense(cheat: LiedToNetwork) -> None:
    """Send bodies that are hardly requests: each is answered, and the hub lives."""
    call = b'{"method":"mph_sync","id":1,"params":'
    bodies = {
        "nothing": b"",
        "not UTF-8": b"\xff\xfe{}",
        "half a request": call,
        "nested 100 deep": call + b"[" * 100 + b"]" * 100 + b"}",
        "nested 400,000 deep": b"[" * 400_000,
        "objects 60 deep": call + b'{"a":' * 60 + b"1" + b"}" * 61,
        "a number of a million digits": call + b'{"handle":' + b"9" * 900_000 + b"}}",
        "a number of 4,000 digits": call + b'{"handle":"' + b"00" * 32 + b'","sends":[],"revokes":[],"commit":null,'
        b'"next_revoke_secret_hash":' + b"9" * 4000 + b"}}",
        "NaN": call + b'{"handle":NaN}}',
        "1e999": call + b'{"handle":1e999}}',
        "half a surrogate": call + b'{"handle":"\\ud800"}}',
        "900,000 members": b'{"method":"mph_sync","id":1,"params":{' + b'"a":1,' * 140_000 + b'"a":1}}',
        "a text of 900,000": call + b'{"handle":"' + b"a" * 900_000 + b'"}}',
        "more than is read": b" " * 2_000_000,
        "a batch of none": b"[]",
        "a batch of 1,001": b"[" + b",".join([call + b"{}}"] * 1001) + b"]",
        "a batch of batches": b"[[[]]]",
        "params as a list": call + b"[1,2]}",
        "params as text": call + b'"x"}',
        "an id that is an object": b'{"method":"mph_sync","id":{},"params":{}}',
        "a method that is none": b'{"method":"__class__","id":1,"params":{}}',
        "a method that is a number": b'{"method":5,"id":1,"params":{}}',
    }
    for what, body in bodies.items():
        answer = requests.post(cheat.network.hub_url, data=body, timeout=30)
        text = answer.content.decode()
        refused = answer.status_code in (200, 413) and '"error"' in text and "InternalError" not in text
        cheat.result.hold(refused, f"{what}: {answer.status_code} {text[:200]}")
        error = json.loads(text)
        error = (error[0] if isinstance(error, list) else error)["error"]
        details = error.get("data")
        name = details["type"] if isinstance(details, dict) else error["message"]
        cheat.enter(f"raw | {what}", str(name), "")


# The end ------------------------------------------------------------------------------------------------------------


def _end(cheat: LiedToNetwork) -> None:
    """Everything closes; the hub's wallet holds what it was guaranteed, and bob has all of his."""
    network = cheat.network
    handles = [*cheat.alice.handles(), *cheat.bob.handles()]
    for party in (cheat.alice, cheat.bob):  # what is under way arrives, as far as it can
        for handle in party.handles():
            cheat.quietly(party, "sync", handle)
    gained = 0
    shown = network.hub.call("mph_status", assets=None)["connections"]
    for handle in handles:
        balance = shown.get(handle, {}).get("balance")
        gained += balance - DEPOSIT if balance is not None else 0
    for party in (cheat.alice, cheat.bob):
        for handle in party.handles():
            name = cheat.quietly(party, "close", handle)
            cheat.result.hold(name is None, f"{party.name} can't close: {name}")
    guaranteed = sum(cheat.bob.guaranteed(handle) for handle in cheat.bob.handles())
    cheat.result.hold(cheat.bob.settle(), "bob is not settled")
    deposits = sum(cheat.bob.connection(handle).duplex.sending.quantity for handle in cheat.bob.handles())
    bobs = cheat.bob.held()
    cheat.result.keep(guaranteed, bobs - 10_000_000_000 + deposits, "bob, who is honest, on chain")
    network.hub.call("generate", blocks=EXPIRE)  # what alice does not give back expires
    for _ in range(ROUNDS):
        if cheat.hubs_wallet() >= cheat.started + gained:
            break
        network.mine()
        cheat.quietly(cheat.alice, "sync")
    cheat.result.keep(cheat.started + gained, cheat.hubs_wallet(), "the hub's wallet on chain")
