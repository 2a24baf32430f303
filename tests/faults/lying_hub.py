"""Part: a hub that lies in its signed replies, to a client with a chain view of its own."""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from network_support import ASSETS, DEPOSIT, Network, running_network
from picopayments_cli.channel2.keys import Key
from picopayments_cli.client2.connection import Connection

from faults.harness_client import EXPIRE, HarnessClient, Heard, handle_of, heard, hub_key
from faults.mutations import Known, Mutation, mutations
from faults.proxy import LOST_AFTER, PASS, AnsweredCall, Proxy, between, signed_error
from faults.result import Budget, Result
from picopayments_cli import errors
from picopayments_cli.channel import envelope
from picopayments_cli.errors import PicopaymentsError, Unreachable

QUICK = 12  # changes of each reply
UNSIGNED = ("pubkey", "signature")  # members whose change is not signed over
CLOSING = ("ConnectionNotOpen", "DirtyCommitAddress", "HubRestored")  # errors after which a client closes
TRIES = 3  # of a call whose answer is lost


class Liar:
    """A network whose hub's key the proxy knows, and what was guaranteed to whom."""

    def __init__(self, network: Network, proxy: Proxy, rng: random.Random, result: Result, warnings: Heard) -> None:
        self.network = network
        self.proxy = proxy
        self.rng = rng
        self.result = result
        self.warnings = warnings
        self.key = hub_key(network)
        self.bob = HarnessClient(network, "bob").fund()
        self.bobs = self.bob.open()
        self.stranger = os.urandom(32).hex()

    @contextmanager
    def lying(self, method: str, mutation: Mutation, *, sign: bool = True) -> Iterator[None]:
        """Have every reply of a method changed, signed again or not."""

        def change(asked: str, _params: Any, said: Any) -> Any:
            return forged(said, mutation, self.key if sign else None) if asked == method else said

        self.proxy.change = change
        try:
            yield
        finally:
            self.proxy.change = None

    def tried(self, party: HarnessClient, what: str, command: str, *args: Any) -> str | None:
        """Do a command; the name of the error that it fails with. An error without a name is a failure."""
        try:
            party.do(command, *args)
        except PicopaymentsError as error:
            return error.name
        except Exception:
            self.result.failures.append(f"{what}: {traceback.format_exc()}")
            return "InternalError"
        return None

    def chosen(self, found: Sequence[Mutation], budget: Budget) -> list[Mutation]:
        """The changes to try."""
        return self.rng.sample(found, min(QUICK, len(found))) if budget.quick else list(found)

    def enter(self, method: str, mutation: Mutation, rule: str) -> None:
        """Note what became of a change."""
        self.result.trials += 1
        if rule.startswith("harmless"):
            self.result.recovered += 1
        else:
            self.result.refused += 1
        self.result.pairs[f"{method} {mutation.pair}"] = rule


def forged(said: Any, mutation: Mutation, key: Key | None) -> Any:
    """A changed reply, signed again where there is a key, and where the change leaves anything to sign."""
    changed = mutation.apply(said)
    if key is None or not isinstance(changed, Mapping) or mutation.member in UNSIGNED or mutation.member == "(whole)":
        return changed if mutation.kind != "additional member" or key is None else resealed(changed, key)
    return resealed(changed, key)


def resealed(body: Mapping[str, Any], key: Key) -> dict[str, Any]:
    """A body signed again."""
    return envelope.seal(key, {name: value for name, value in body.items() if name not in ("pubkey", "signature")})


def run(rng: random.Random, budget: Budget) -> Result:
    """Replies of mph_request, mph_deposit, mph_sync and mph_close, changed in every member by every kind of change."""
    result = Result("lying hub")
    with running_network(budget.folder) as network, between(network.hub_url) as proxy, heard() as warnings:
        liar = Liar(network, proxy, rng, result, warnings)
        _syncs(liar, budget)
        _connects(liar, budget)
        for received in (False, True):
            _closes(liar, budget, received)
    return result


# mph_sync -----------------------------------------------------------------------------------------------------------


def _syncs(liar: Liar, budget: Budget) -> None:
    alice = HarnessClient(liar.network, "alice", liar.proxy.url).fund()
    handle, kept, reply = _pending(liar, alice, alice.open())
    known = _known(liar, alice, handle)
    current = {mutation.pair: mutation for mutation in mutations(reply, known, liar.rng)}
    for pair in [mutation.pair for mutation in liar.chosen(list(current.values()), budget)]:
        if pair not in current:
            continue
        mutation = current[pair]
        alice.restore(kept)
        before = alice.guaranteed(handle)
        with liar.lying("mph_sync", mutation):
            name = liar.tried(alice, mutation.pair, "sync", handle)
        liar.result.keep(before, alice.guaranteed(handle), f"after {mutation.pair}")
        if name is not None:
            liar.enter("mph_sync", mutation, name)
            continue
        handle, kept, reply = _afterwards(liar, alice, handle, mutation)
        known.hashes, known.secrets = _own_hashes(alice, handle), _own_secrets(alice, handle)
        known.messages = {**known.messages, **_older(liar, handle)}
        current = {mutation.pair: mutation for mutation in mutations(reply, known, liar.rng)}
    _unsigned(liar, alice, handle, kept, budget)
    _refusals(liar, alice, handle, kept)
    _settled(liar, alice)


def _pending(liar: Liar, alice: HarnessClient, handle: str) -> tuple[str, Path, Mapping[str, Any]]:
    """A sync that the hub has answered with secrets, a commit, receipts and a refusal, and the client has not heard."""
    if alice.worn(handle):
        handle = alice.open()
    if liar.bob.worn(liar.bobs):
        liar.bobs = liar.bob.open()
    for amount in (500, 700, 30):
        alice.do("queuepayment", handle, liar.bobs, amount)
        alice.do("sync", handle)
    liar.bob.do("sync")
    for amount in (600, 300):
        liar.bob.do("queuepayment", liar.bobs, handle, amount)
    liar.bob.do("sync")
    alice.do("queuepayment", handle, liar.stranger, 40)
    liar.proxy.faults.extend([LOST_AFTER] * TRIES)
    try:
        alice.do("sync", handle)
    except Unreachable:
        reply = _last(liar, "mph_sync").reply["result"]
        whole = all(reply[name] for name in ("revokes", "commit", "receive", "refused"))
        liar.result.hold(whole, "the reply that is to be changed lacks something")
        return handle, alice.copy("kept"), reply
    raise RuntimeError("the answer was not lost")


def _last(liar: Liar, method: str) -> AnsweredCall:
    return next(item for item in reversed(liar.proxy.seen) if item.method == method and "result" in item.reply)


def _known(liar: Liar, alice: HarnessClient, handle: str) -> Known:
    """Values for a lying hub's replies: hashes, secrets, the connection's older reply, another connection's."""
    bob = HarnessClient(liar.network, "bobs double", liar.proxy.url)
    bob.basedir.mkdir()
    bob.restore(liar.bob.basedir)
    bob.do("sync")
    other = _last(liar, "mph_sync").reply["result"]
    liar.bob.restore(bob.basedir)
    messages = {**_older(liar, handle), "of another connection's reply": other}
    return Known(_own_hashes(alice, handle), _own_secrets(alice, handle), messages)


def _older(liar: Liar, handle: str) -> dict[str, Mapping[str, Any]]:
    """A connection's first reply, and the one before the last."""
    syncs = [item for item in liar.proxy.seen if item.method == "mph_sync" and "result" in item.reply]
    replies = [item.reply["result"] for item in syncs if item.params["handle"] == handle]
    return {"of an older reply": replies[0], "of the reply before": replies[-TRIES - 1]}


def _own_hashes(party: HarnessClient, handle: str) -> dict[str, str]:
    duplex = party.connection(handle).duplex
    found = {
        "the hub's spend hash": duplex.sending.script.spend_hash,
        "the client's spend hash": duplex.receiving.script.spend_hash,
    }
    named = [("a hash handed out", duplex.receiving.requested), ("a hash given before", duplex.sending.requested)]
    named += [("hash of an active commit", tuple(item.revoke_hash for item in duplex.sending.active))]
    named += [("hash of a received commit", tuple(item.revoke_hash for item in duplex.receiving.active))]
    named += [("hash of a revoked commit", tuple(item.revoke_hash for item in duplex.sending.revoked))]
    found |= {name: hashes[-1] for name, hashes in named if hashes}
    return {name: item.hex() for name, item in found.items()}


def _own_secrets(party: HarnessClient, handle: str) -> dict[str, str]:
    connection = party.connection(handle)
    own = connection.secrets(party.key())
    found = {"the client's spend secret": own.spend.hex(), "a revoke secret of the client's": own.revoke(0).hex()}
    if connection.duplex.sending.revoked:
        found["a secret revealed before"] = connection.duplex.sending.revoked[-1].secret.hex()
    return found


def _afterwards(
    liar: Liar, alice: HarnessClient, handle: str, mutation: Mutation
) -> tuple[str, Path, Mapping[str, Any]]:
    """Check a change that was taken: the next honest sync works, or the connection closes with all of its own."""
    before = alice.guaranteed(handle)
    name = liar.tried(alice, f"after {mutation.pair}", "sync", handle)
    if name is None:
        liar.result.keep(before - 1, alice.guaranteed(handle), f"synced after {mutation.pair}")
        liar.enter("mph_sync", mutation, "harmless: the next sync works")
        return _pending(liar, alice, handle)
    liar.tried(alice, f"closing after {mutation.pair}", "close", handle)
    liar.enter("mph_sync", mutation, f"harmless: the next sync is refused ({name}), the connection closes")
    return _pending(liar, alice, alice.open())


def _unsigned(liar: Liar, alice: HarnessClient, handle: str, kept: Path, budget: Budget) -> None:
    """Make the changes without the hub's key: each is refused for its signature."""
    alice.restore(kept)
    reply = _last(liar, "mph_sync").reply["result"]
    rules: dict[str, int] = {}
    for mutation in liar.chosen(mutations(reply, Known(), liar.rng), budget):
        before = alice.guaranteed(handle)
        with liar.lying("mph_sync", mutation, sign=False):
            name = liar.tried(alice, mutation.pair, "sync", handle)
        rules[str(name)] = rules.get(str(name), 0) + 1
        liar.result.trials += 1
        liar.result.refused += name is not None
        same_text = mutation.member == "signature" and mutation.kind == "high S"
        liar.result.hold(name is not None or same_text, f"unsigned change taken: {mutation.pair}")
        if name is None:
            alice.restore(kept)
        liar.result.keep(before, alice.guaranteed(handle), f"after unsigned {mutation.pair}")
    liar.result.notes.append(f"changes that the hub's key did not sign: {rules}")


def _refusals(liar: Liar, alice: HarnessClient, handle: str, kept: Path) -> None:
    """Every error that a hub can name, and some that it can't, in place of an answer; then none keeps from closing.

    Unsigned, as anybody at the hub's URL can say it, none closes the connection.
    """
    names: list[Any] = [name for name, found in vars(errors).items() if isinstance(found, type)]
    names = [*names, "Exception", "__class__", "", None, 5, {}]
    names.sort(key=lambda name: name in CLOSING)  # a close is told to the hub: what closes comes last
    for key, name in product((None, liar.key), names):
        alice.restore(kept)
        before = alice.guaranteed(handle)
        liar.proxy.refuse = _refusing(name, key)
        refused = liar.tried(alice, f"error {name}", "sync", handle)
        mutation = Mutation(str(name), "instead of an answer" if key else "of nobody's", dict)
        liar.enter("mph_sync error", mutation, refused or "harmless: the connection closes")
        liar.result.keep(before, alice.guaranteed(handle), f"after error {name}")
        closes = alice.connection(handle).stage == "closing"
        liar.result.hold(closes == (key is not None and name in CLOSING), f"error {name} closes: {closes}")
    liar.proxy.refuse = _refusing("StoreDamaged", liar.key)
    liar.tried(alice, "closing after errors", "close", handle)
    liar.result.hold(alice.connection(handle).stage == "closing", "an error of the hub's keeps from closing")
    liar.proxy.refuse = None
    liar.result.hold("\x1b" not in "".join(liar.warnings.texts), "control characters of the hub's are shown")


def _refusing(name: object, key: Key | None) -> Callable[[str, Any], Mapping[str, Any] | None]:
    """Answers of mph_sync that are an error of a name, with a text that would do things to a terminal."""
    text = "\x1b[2Jwiped " + "x" * 5000
    error = {"code": -32000, "message": text, "data": {"type": name, "message": text, "data": {"a": [1]}}}

    def refuse(method: str, params: Any) -> Mapping[str, Any] | None:
        if method != "mph_sync":
            return None
        return error if key is None else signed_error(error, key, params)

    return refuse


def _settled(liar: Liar, party: HarnessClient) -> None:
    """All of a client's connections close and settle, and the wallet holds what was guaranteed."""
    for handle in party.handles():
        if party.connection(handle).stage != "closing":
            liar.tried(party, "closing at the end", "close", handle)
    connections = [party.connection(handle) for handle in party.handles()]
    deposited = [item for item in connections if item.agreed_height]
    guaranteed = sum(item.duplex.guaranteed for item in deposited)
    liar.result.in_flight += sum(_under_way(item) for item in deposited)
    liar.result.hold(party.settle(), f"{party.name} is not settled")
    spent = sum(item.duplex.sending.quantity for item in deposited)
    liar.result.keep(guaranteed, party.held() - ASSETS + spent, f"{party.name} on chain, {len(deposited)} connections")


def _under_way(connection: Connection) -> int:
    sent = connection.pending.payments if connection.pending else ()
    return sum(payment.amount for payment in sent) + connection.owed


# mph_request and mph_deposit ----------------------------------------------------------------------------------------


def _connects(liar: Liar, budget: Budget) -> None:
    carol = HarnessClient(liar.network, "carol", liar.proxy.url).fund()
    first = carol.open()
    known = Known(_own_hashes(carol, first), _own_secrets(carol, first))
    for method in ("mph_request", "mph_deposit"):
        seen = [item.reply["result"] for item in liar.proxy.seen if item.method == method and "result" in item.reply]
        known.messages = {"of another connection's reply": seen[0]}
        for mutation in liar.chosen(mutations(seen[-1], known, liar.rng), budget):
            handles = set(carol.handles())
            with liar.lying(method, mutation):
                name = liar.tried(carol, mutation.pair, "connect", "XCP", DEPOSIT // 100, EXPIRE)
            made = set(carol.handles()) - handles
            if name is not None:
                liar.enter(method, mutation, name)
                liar.result.hold(not made, f"a connection is left after {mutation.pair}")
                continue
            _take_up(liar, carol, made.pop(), method, mutation)
    _settled(liar, carol)


def _take_up(liar: Liar, carol: HarnessClient, handle: str, method: str, mutation: Mutation) -> None:
    """A connection made by a changed reply: it works, or closes with all of its own."""
    liar.network.mine(2)
    shown = carol.status_of(handle)
    name: str | None = f"it stays {shown}"
    if shown == "open":
        liar.bob.do("queuepayment", liar.bobs, handle, 10)
        liar.bob.do("sync")
        name = liar.tried(carol, mutation.pair, "sync", handle)
    liar.tried(carol, mutation.pair, "close", handle)
    if carol.connection(handle).stage == "agreed":
        liar.result.failures.append(f"{mutation.pair} made a connection that does not close")
    text = "harmless: the connection works" if name is None else f"harmless: {name}, the connection closes"
    liar.enter(method, mutation, text)


# mph_close ----------------------------------------------------------------------------------------------------------


def _closes(liar: Liar, budget: Budget, received: bool) -> None:
    """Replies to a close, which the hub answers the same whenever it is asked."""
    party = HarnessClient(liar.network, f"closer{received:d}", liar.proxy.url).fund()
    if received:  # the hub, by a sync's fee
        handle = party.open()
        liar.proxy.faults.append(PASS)  # the last sync
    else:
        handle = party.do("connect", "XCP", DEPOSIT, EXPIRE)["handle"]
    liar.proxy.faults.extend([LOST_AFTER] * TRIES)
    liar.tried(party, "close", "close", handle)
    liar.proxy.faults.clear()
    kept = party.copy("kept")
    liar.result.hold(not party.connection(handle).told, "the answer to the close was not lost")
    reply = _last(liar, "mph_close").reply["result"]
    known = Known(_own_hashes(party, handle), _own_secrets(party, handle))
    known.messages = {"of another method's reply": _last(liar, "mph_deposit").reply["result"]}
    others = [item.reply["result"] for item in liar.proxy.seen if item.method == "mph_close" and "result" in item.reply]
    known.messages |= {"of another connection's reply": others[0]}
    right = reply["spend_secret"]
    for mutation in liar.chosen(mutations(reply, known, liar.rng), budget):
        party.restore(kept)
        liar.warnings.texts.clear()
        with liar.lying("mph_close", mutation):
            liar.tried(party, mutation.pair, "sync", handle)
        after = party.connection(handle)
        taken = after.hub_secret.hex() if after.hub_secret else None
        liar.result.hold(taken in (None, right), f"a wrong secret was taken: {mutation.pair}")
        liar.result.hold(after.handle == handle_of(handle), "the connection is another one")
        refusals = [text for text in liar.warnings.texts if "hub" in text]
        rule = refusals[0].partition(": ")[2].partition(".")[0] if not after.told and refusals else ""
        case = "mph_close without a secret" if right is None else "mph_close with a secret"
        liar.enter(case, mutation, rule or "harmless: nothing wrong was taken")
    party.restore(kept)
    _settled(liar, party)
