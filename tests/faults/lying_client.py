"""Part: a client that lies to the hub, in requests signed with its own key or not."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from envelope_support import asked, bare
from hub_support import DELAY, DEPOSIT

from faults.forgery import bad_commits, bad_remainders, excessive_commits
from faults.mutations import Known, Sign, chosen, mutations
from faults.proxy import LOST_BEFORE
from faults.result import Budget, Result
from faults.town import ASSETS, EXPIRE, FEE, Party, Town, heard, new_key, running_town
from picopayments_cli.channel import close
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.halves import sign_close
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.messages import CloseRequest, ConnectReply, ConnectRequest, DepositRequest, SyncRequest
from picopayments_cli.channel.opening import Party as Keys
from picopayments_cli.channel.opening import Stake, contract_of
from picopayments_cli.channel.standing import Standing, standing
from picopayments_cli.channel.state import Receiving
from picopayments_cli.channel.values import MAX_QUANTITY, Handle, Outpoint, Quantity, Token
from picopayments_cli.channel.wire import Anchors, Figures, Payment, commit_json, half_json
from picopayments_cli.errors import PicopaymentsError, Unreachable
from picopayments_cli.rpc import RpcClient

QUICK = 4  # changes of each request
TRIES = 3  # of a call that gets no answer
AMOUNT = 450  # of the payment in the sync that is changed


@dataclass
class Cheated:
    """A town whose hub is lied to by alice, its honest client bob, and what they hold."""

    town: Town
    rng: random.Random
    result: Result
    number: int | None  # of changes to try of each request; None: all

    def __post_init__(self) -> None:
        self.rpc = RpcClient(self.town.proxy.url)
        self.alice, self.bob = Party(self.town, "alice"), Party(self.town, "bob")
        self.started = self.town.held(self.town.desk.hub.script)
        self.bobs = self.bob.open()
        self.alices, self.others = self.alice.open(), self.alice.open()

    def told(self, method: str, body: Any) -> str | None:
        """Say something to the hub; the name that it is refused by, None where it is taken."""
        try:
            self.rpc.call(method, body, retry=False)
        except PicopaymentsError as error:
            self.result.hold(not isinstance(error, Unreachable), f"{method} {str(body)[:200]}: {error.message}")
            return error.name
        return None

    def enter(self, pair: str, name: str | None, harmless: str) -> None:
        """Note what became of a change."""
        self.result.trials += 1
        self.result.refused += name is not None
        self.result.recovered += name is None
        self.result.pairs[pair] = name or f"harmless: {harmless}"

    def lie(self, method: str, what: str, body: Any, harmless: str, *, must_fail: bool = False) -> str | None:
        """Tell a lie: refused, it changes nothing; taken, it costs the hub nothing. Then it never happened."""
        before, owned = self.town.account(self.alices), self.town.hub_owns()
        name = self.told(method, body)
        self.enter(f"{method} | {what}", name, harmless)
        if name is not None:
            self.result.hold(self.town.account(self.alices) == before, f"refused, but it changed something: {what}")
        else:
            self.result.hold(not must_fail, f"taken: {method} {what}")
            self.town.check_hub(self.alices, what)
            back = before.last_hash == self.town.account(self.alices).last_hash
            self.result.keep(owned + (0 if back or method != "mph_sync" else FEE), self.town.hub_owns(), what)
            self.town.back()
        return name

    def signing(self, method: str, key: Key) -> Sign:
        """Sign requests of a method to the hub with a key."""
        return partial(asked, method, key, self.town.desk.hub.key.pubkey)

    def lies(self, method: str, base: Mapping[str, Any], known: Known, key: Key, harmless: str) -> None:
        """Every change of a request, one at a time."""
        for mutation in chosen(mutations(base, known, self.rng), self.number, self.rng):
            self.lie(method, mutation.pair, as_params(mutation.forged(base, self.signing(method, key))), harmless)


def as_params(body: Any) -> Any:
    """A body as the line takes it: an object or a list."""
    return body if isinstance(body, (Mapping, list)) else [body]


def run(rng: random.Random, budget: Budget) -> Result:
    """Requests of all four methods, changed in every member by every kind of change; crafted lies; raw nonsense."""
    result = Result("lying client")
    with heard(), running_town(budget.folder / "town", result) as town:
        cheat = Cheated(town, rng, result, QUICK if budget.quick else None)
        base = prepared(cheat.alice, cheat.bob, cheat.alices, cheat.bobs, rng)
        _syncs(cheat, base)
        _closes(cheat)
        _openings(cheat)
        _end(cheat, base)
    return result


# mph_sync -----------------------------------------------------------------------------------------------------------


def prepared(alice: Party, bob: Party, handle: Handle, bobs: Handle, rng: random.Random) -> dict[str, Any]:
    """A right request of alice's that the hub has not seen, with a remainder, secrets, a commit and two payments.

    The reply to it has a remainder, secrets, a commit, two payments and a refusal.
    """
    for amount in (500, 700, 30):
        alice.pay(handle, bobs, amount)
    bob.sync()
    for amount in (100, 300):
        bob.pay(bobs, handle, amount)
        alice.sync(handle)
    for amount in (600, 300):
        bob.pay(bobs, handle, amount)
    alice.queue(handle, bobs, AMOUNT)
    alice.queue_unseen(handle, Handle(rng.randbytes(32)), 40)
    alice.town.proxy.faults.extend([LOST_BEFORE] * TRIES)
    with suppress(Unreachable):
        alice.sync(handle)
    pending = alice.connection(handle).pending
    if pending is None:
        raise RuntimeError("the request was not kept from the hub")
    body = dict(pending.bodies[-1])
    whole = all(body[name] for name in ("remainder", "revokes", "commit", "sends"))
    alice.town.result.hold(whole, "the request that is to be changed lacks something")
    alice.town.keep()
    return body


def _known(cheat: Cheated, method: str) -> Known:
    """A lying client's values: hashes, secrets and signatures of its connections, older and others' requests."""
    duplex, own = cheat.alice.connection(cheat.alices).duplex, cheat.alice.secrets(cheat.alices)
    other = cheat.alice.secrets(cheat.others)
    values = {
        "the hash of the newest commit": duplex.sending.active[-1].revoke_hash,
        "the hash of an older commit": duplex.sending.active[0].revoke_hash,
        "an own hash": own.revoke_hash(0),
        "an own hash to come": own.revoke_hash(5000),
        "another connection's hash": other.revoke_hash(0),
        "a secret given before": own.revoke(0),
        "a secret of no commit yet": own.revoke(5000),
        "another connection's secret": other.revoke(0),
        "another connection's handle": cheat.others,
        "somebody else's handle": cheat.bobs,
        "the hub's own key": duplex.sending.contract.deposit.payee.data,
    }
    asked = [item.params for item in cheat.town.proxy.seen if item.method == method and isinstance(item.params, dict)]
    mine = [params for params in asked if params.get("handle") == cheat.alices.hex()]
    messages = {"of somebody else's request": next(item for item in reversed(asked) if item not in mine)}
    return Known(values, messages | ({"of an older request": mine[0]} if mine else {}))


def _syncs(cheat: Cheated, base: dict[str, Any]) -> None:
    key = cheat.alice.key
    sign = cheat.signing("mph_sync", key)
    seen = [item.params for item in cheat.town.proxy.seen if item.method == "mph_sync"]
    older = [params for params in seen if params["handle"] == cheat.alices.hex()]
    cheat.lies("mph_sync", base, _known(cheat, "mph_sync"), key, "the hub has what it was given, and its fee")
    for what, lie in _crafted(cheat, base).items():
        cheat.lie("mph_sync", f"crafted: {what}", sign({**bare(base), **lie}), "", must_fail=True)
    for mutation in chosen(mutations(base, Known(), cheat.rng), cheat.number, cheat.rng):
        for other in (None, cheat.signing("mph_sync", new_key(cheat.rng))):
            good = mutation.pair == "signature | high S" or mutation.forged(base, other) == base
            what, body = f"not signed by the client: {mutation.pair}", as_params(mutation.forged(base, other))
            cheat.lie("mph_sync", what, body, "as good a signature", must_fail=not good)
    cheat.result.hold(cheat.told("mph_sync", base) is None, "after all that the right request is refused")
    cheat.town.keep()
    for what in ("the last request again", "and once more"):
        cheat.lie("mph_sync", what, base, "its stored reply again, nothing moves")
    for number in (0, len(older) // 2, -1):
        cheat.lie("mph_sync", f"an overtaken request ({number})", older[number], "", must_fail=True)
    cheat.alice.sync(cheat.alices)  # the right request, as it was
    cheat.result.hold(cheat.alice.connection(cheat.alices).pending is None, "the right request is refused after lies")


def _crafted(cheat: Cheated, base: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Lies that take more than one change; ``partial`` is false, so that one payment refused refuses all."""
    rng, own = cheat.rng, cheat.alice.secrets(cheat.alices)
    duplex = cheat.alice.connection(cheat.alices).duplex
    payee = base["sends"][0]["payee_handle"]
    moved = AMOUNT + 40 + FEE

    def sends(*amounts: Any, to: Any = payee) -> dict[str, Any]:
        items = [
            {"payee_handle": to, "amount": amount, "token": rng.randbytes(8).hex(), "expires": None}
            for amount in amounts
        ]
        return {"sends": items, "partial": False}

    lies = {
        "two payments of what one was moved for": sends(AMOUNT, AMOUNT),
        "a payment of one more than was moved": sends(moved),
        "many payments of one": sends(*[1] * moved),
        "a payment to the hub of more than was moved": sends(moved, to=None),
        "payments that add up beyond 2^64": sends(MAX_QUANTITY, MAX_QUANTITY, 2),
        "a negative payment beside a larger one": sends(2 * AMOUNT, -AMOUNT),
        "payments without commit or secrets": {**sends(1), "commit": None, "revokes": []},
        "payments of more than the secrets moved": {**sends(AMOUNT), "commit": None},
        "payments of more than the commit moved": {**sends(AMOUNT), "revokes": []},
        "a payment to oneself of more": sends(moved, to=base["handle"]),
        "a secret twice": {"revokes": [*base["revokes"], base["revokes"][0]]},
        "secrets in another order": {"revokes": base["revokes"][::-1]},
        "a hash given before": {"next_revoke_hash": own.revoke_hash(0).hex()},
        "a hash of the hub's": {"next_revoke_hash": duplex.sending.active[-1].revoke_hash.hex()},
        "neither anchor": {"c2h_anchor": None, "h2c_anchor": None},
        "anchors swapped": {"c2h_anchor": base["h2c_anchor"], "h2c_anchor": base["c2h_anchor"]},
        "no remainder, and no more": {"remainder": None, "revokes": [], "commit": None, "sends": []},
    }
    lies |= {f"a commit: {what}": {"commit": commit_json(made)} for what, made in _commits(duplex, own).items()}
    paid = duplex.receiving
    if paid.anchor is not None and paid.newest is not None:
        bad = bad_remainders(paid.contract, paid.anchor, paid.newest, own.payee)
        items = {what: half_json(replace(standing(duplex, own), remainder=made)) for what, made in bad.items()}
        lies |= {f"a remainder: {what}": {"remainder": item["remainder"]} for what, item in items.items()}
    return lies


def _commits(duplex: Duplex, own: Secrets) -> dict[str, Any]:
    """Commits signed by the client that the hub must not take, on the hash of the right one."""
    side = duplex.sending
    right = standing(duplex, own).commit
    if side.anchor is None or right is None:
        raise RuntimeError("there is no commit")
    before = side.active[-2].quantity if len(side.active) > 1 else 0
    found = bad_commits(side.contract, side.anchor, right, own.payer)
    found |= excessive_commits(side.contract, side.anchor, right.revoke_hash, before, own.payer)
    found["on the hash of a commit before"] = replace(right, revoke_hash=side.active[0].revoke_hash)
    return found


# mph_close ----------------------------------------------------------------------------------------------------------


def _closes(cheat: Cheated) -> None:
    """Closes of the connection as it stands, and the figures and signatures that a client would like better."""
    cheat.town.keep()
    connection, own = cheat.alice.connection(cheat.alices), cheat.alice.secrets(cheat.alices)
    duplex, sign = connection.duplex, cheat.signing("mph_close", cheat.alice.key)
    figures = close.own_figures(duplex)
    _, request = close.ask(duplex, cheat.alices, figures, standing(duplex, own), own, sign=True)
    base = sign(request.as_json())
    cheat.bob.close(cheat.bobs)
    cheat.town.keep()
    known = _known(cheat, "mph_close")
    for mutation in chosen(mutations(base, known, cheat.rng), cheat.number, cheat.rng):
        _close(cheat, mutation.pair, as_params(mutation.forged(base, sign)))
    for what, lie in _better_closes(request, duplex, own):
        _close(cheat, f"crafted: {what}", sign(lie.as_json()))


def _close(cheat: Cheated, what: str, body: Any) -> None:
    """Tell a lie in mph_close; what the hub signs is at most what it paid, and at least what it holds."""
    before, replies = cheat.town.account(cheat.alices).channels, len(cheat.town.proxy.seen)
    cheat.lie("mph_close", what, body, "closed: the hub signs nothing but what it has")
    said = cheat.town.proxy.seen[replies].reply.get("result")
    if isinstance(said, dict) and body["handle"] == cheat.alices.hex():
        hold, held, paid = cheat.result.hold, before.receiving.moved, before.sending.moved
        hold(not said["c2h_close"] or said["c2h_quantity"] >= held, f"the hub signs less than it holds: {what}")
        hold(not said["h2c_signature"] or said["h2c_quantity"] <= paid, f"the hub signs more than it paid: {what}")


def _better_closes(request: CloseRequest, duplex: Duplex, own: Secrets) -> Iterator[tuple[str, CloseRequest]]:
    """Requests with right signatures, of figures that the hub must not sign."""
    side, figures = duplex.receiving, request.figures
    if side.anchor is None:
        raise RuntimeError("no deposit of the hub's")
    for what, quantity in (("one more", figures.h2c + 1), ("all", side.contract.quantity), ("nothing", 0)):
        closing = sign_close(side.contract, side.anchor, quantity, own.payee)
        yield f"{what} of h2c", replace(request, figures=Figures(figures.c2h, quantity), h2c_close=closing)
        named = replace(closing, quantity=figures.h2c)
        yield f"{what} of h2c, under the right figure", replace(request, h2c_close=named)
    for what, quantity in (("one less", figures.c2h - 1), ("nothing", 0)):
        yield f"{what} of c2h", replace(request, figures=Figures(quantity, figures.h2c))
    yield "no standing", replace(request, standing=standing(Duplex(duplex.sending, Receiving(side.contract)), own))
    secrets = tuple(own.revoke(number) for number in range(side.next_number))
    yield "every secret", replace(request, standing=replace(request.standing, revokes=secrets[-250:]))
    doubted = tuple(item.revoke_hash for item in duplex.sending.active)
    yield "doubts of its own commits", replace(request, standing=replace(request.standing, doubts=doubted))
    yield "anchors swapped", replace(request, anchors=Anchors(request.anchors.h2c, request.anchors.c2h))
    outpoint = Outpoint(bytes(32), 0)
    yield "anchors that nobody knows", replace(request, anchors=Anchors(outpoint, outpoint))


# mph_request and mph_deposit ----------------------------------------------------------------------------------------


class Stranger:
    """Somebody who asks for connections and never funds one."""

    def __init__(self, cheat: Cheated) -> None:
        self.cheat, self.key = cheat, new_key(cheat.rng)
        self.secrets = Secrets(self.key, cheat.rng.randbytes(16))
        script = b"\x76\xa9\x14" + self.key.pubkey_hash + b"\x88\xac"
        self.keys = Keys(self.secrets.payer.xonly, self.secrets.payee.xonly, script)

    def request(self) -> dict[str, Any]:
        """A right mph_request."""
        return self.cheat.signing("mph_request", self.key)(
            ConnectRequest("XCP", self.keys, self.secrets.salt).as_json()
        )

    def deposit(self) -> dict[str, Any]:
        """A right mph_deposit on a connection just asked for."""
        reply = ConnectReply.parse(self.cheat.rpc.call("mph_request", self.request(), retry=False))
        height = self.cheat.town.desk.hub.follower.height or 0
        stake = Stake(Quantity(1000), DELAY, reply.terms.fee_rate)
        c2h = contract_of(self.keys, reply.hub, 1, height + 100, stake)
        own = self.secrets.revoke_hash(0)
        proposal = DepositRequest(reply.handle, stake, 1, height + 100, c2h.deposit.output, own)
        return self.cheat.signing("mph_deposit", self.key)(proposal.as_json())


def _openings(cheat: Cheated) -> None:
    hand, other = Stranger(cheat), Stranger(cheat)
    hub = cheat.town.desk.hub
    values = {"the hub's own key": hub.key.xonly.data, "the stranger's own": hand.keys.payer_key.data}
    known = Known(values, {"of another client's request": other.request()})
    cheat.town.keep()
    cheat.lies("mph_request", hand.request(), known, hand.key, "a connection is asked for")
    base, foreign = hand.deposit(), other.deposit()
    cheat.town.keep()
    known = Known({"the other's handle": bytes.fromhex(foreign["handle"])}, {"of another client's request": foreign})
    cheat.lies("mph_deposit", base, known, hand.key, "agreed as proposed; nothing is funded before it is there")
    for rate in (5, 50):
        cheat.town.node.rpc("feerate", rate=rate)
        cheat.town.mine()
        cheat.lie("mph_deposit", f"as asked, at {rate} sat/vB", base, "agreed at the rate of then")
    cheat.town.node.rpc("feerate", rate=1)
    cheat.town.mine()
    cheat.result.hold(cheat.told("mph_deposit", base) is None, "the right deposit is refused after all that")


# The end ------------------------------------------------------------------------------------------------------------


def _end(cheat: Cheated, base: dict[str, Any]) -> None:
    """Alice vanishes after a last lie; the hub's wallet holds what it was guaranteed, and bob has all of his."""
    town, guaranteed = cheat.town, cheat.bob.guaranteed(cheat.bobs)
    town.back()
    own, right = cheat.alice.secrets(cheat.alices), SyncRequest.parse(base)
    lie = replace(right, next_hash=own.revoke_hash(6000), payments=(Payment(None, Quantity(1), Token(b"lie")),))
    cheat.told("mph_sync", cheat.signing("mph_sync", cheat.alice.key)(lie.as_json()))
    for handle in (cheat.alices, cheat.others):
        said = CloseRequest(handle, Anchors(None, None), Figures(0, 0), Standing())
        cheat.told("mph_close", cheat.signing("mph_close", cheat.alice.key)(said.as_json()))
    owns = town.hub_owns()
    cheat.result.hold(cheat.bob.settle(), "bob is not settled")
    cheat.result.keep(guaranteed, cheat.bob.held - ASSETS + DEPOSIT, "bob, who is honest, on chain")
    town.mine(DELAY + 8)
    town.node.rpc("generate", blocks=EXPIRE)  # what alice does not give back expires
    town.mine(4)
    cheat.result.keep(cheat.started + owns, town.held(town.desk.hub.script), "the hub's wallet on chain")
