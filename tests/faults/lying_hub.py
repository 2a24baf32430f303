"""Part: a hub that lies in its signed replies, to a client with a chain view of its own."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from envelope_support import answered
from hub_support import DEPOSIT

from faults.forgery import bad_commits, bad_remainders, excessive_commits, other_contracts
from faults.lying_client import prepared
from faults.mutations import Known, Mutation, chosen, mutations, setter
from faults.proxy import LOST_AFTER, signed_error
from faults.result import Budget, Result
from faults.town import ASSETS, EXPIRE, Heard, Party, Town, heard, new_key, pays_out, running_town
from picopayments_cli import errors
from picopayments_cli.channel.drafts import parse_transaction
from picopayments_cli.channel.halves import check_close, sign_close
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.stages import CLOSING
from picopayments_cli.channel.values import Handle
from picopayments_cli.channel.wire import Reader, closing_json, commit_json
from picopayments_cli.client.connection import Connection
from picopayments_cli.errors import BadReply, PicopaymentsError

QUICK = 3  # changes of each reply
TRIES = 3  # of a call whose answer is lost
ENDING = ("AnchorsDiffer", "ConnectionNotOpen", "HubRestored")  # errors after which a client closes
Change = Callable[[str, Mapping[str, Any], Any], Any]


@dataclass
class Deceived:
    """A town whose hub's key the proxy knows, and alice, to whom it lies."""

    town: Town
    rng: random.Random
    result: Result
    warnings: Heard
    number: int | None  # of changes to try of each reply; None: all

    def __post_init__(self) -> None:
        self.key = self.town.desk.hub.key
        self.alice, self.bob = Party(self.town, "alice"), Party(self.town, "bob")
        self.handle, self.bobs = self.alice.open(), self.bob.open()

    @contextmanager
    def lying(self, method: str, mutation: Mutation, *, sign: bool = True, when: str | None = None) -> Iterator[None]:
        """Have every reply of a method changed, signed again or not; ``when``: where the request has that member."""

        def change(asked: str, params: Any, said: Any) -> Any:
            lied = asked == method and (when is None or params[when] is not None)
            return mutation.forged(said, partial(answered, method, self.key) if sign else None) if lied else said

        self.town.proxy.change = change
        try:
            yield
        finally:
            self.town.proxy.change = None

    def tried(self, what: str, command: Callable[[], object]) -> str | None:
        """Do a command; the name of the error that it fails with. An error without a name is a failure."""
        try:
            command()
        except PicopaymentsError as error:
            return error.name
        except Exception:
            self.result.failures.append(f"{what}: {traceback.format_exc()}")
            return "InternalError"
        return None

    def enter(self, pair: str, rule: str | None, harmless: str) -> None:
        """Note what became of a change."""
        self.result.trials += 1
        self.result.refused += rule is not None
        self.result.recovered += rule is None
        self.result.pairs[pair] = rule or f"harmless: {harmless}"

    def told(self, method: str) -> Any:
        """The newest result of a method."""
        seen = reversed(self.town.proxy.seen)
        return next(item.reply["result"] for item in seen if item.method == method and "result" in item.reply)

    def check(self, party: Party, handle: Handle, guaranteed: int, what: str) -> None:
        """Hold what a client has now to what it had, and to the consensus engine; and what it signed to its limits."""
        connection = party.connection(handle)
        self.result.keep(guaranteed, connection.duplex.guaranteed, what)
        self.result.hold(pays_out(connection.duplex.receiving, party.secrets(handle)), f"a worthless commit: {what}")
        check_signed(connection, self.result, what)


def check_signed(connection: Connection, result: Result, what: str) -> None:
    """Hold the closes that a client signed to its limits, and as payer to what it must hold for them."""
    duplex, ending = connection.duplex, connection.ending
    for closing in ending.closings:
        result.hold(closing.quantity <= duplex.sending.moved, f"signed more than it paid: {what}")
        if duplex.sending.anchor is not None:
            try:
                check_close(duplex.sending.contract, duplex.sending.anchor, closing)
            except PicopaymentsError as error:
                result.failures.append(f"signed without the payee's signatures: {what}: {error.message}")
    for counter in ending.counters:
        result.hold(counter.quantity >= duplex.receiving.moved, f"signed less than it holds: {what}")


def run(rng: random.Random, budget: Budget) -> Result:
    """Replies of mph_request, mph_deposit, mph_sync and mph_close, changed in every member by every kind of change."""
    result = Result("lying hub")
    with heard() as warnings, running_town(budget.folder / "town", result) as town:
        liar = Deceived(town, rng, result, warnings, QUICK if budget.quick else None)
        _syncs(liar)
        _refusals(liar)
        _closes(liar)
        _connects(liar)
        _settled(liar, liar.alice)
        _settled(liar, liar.bob)
    return result


# mph_sync -----------------------------------------------------------------------------------------------------------


def _syncs(liar: Deceived) -> None:
    """A sync that the hub has answered and the client has not heard: each lie to it on the same files."""
    alice, handle, rng = liar.alice, liar.handle, liar.rng
    prepared(alice, liar.bob, handle, liar.bobs, rng)
    liar.town.proxy.faults.extend([LOST_AFTER] * TRIES)
    liar.result.hold(liar.tried("lost", lambda: alice.sync(handle)) == "HubUnreachable", "the answer was not lost")
    alice.keep()
    liar.town.keep()
    reply, before = liar.told("mph_sync"), alice.guaranteed(handle)
    whole = all(reply[name] for name in ("remainder", "revokes", "commit", "receive", "refused"))
    liar.result.hold(whole, "the reply that is to be changed lacks something")
    honest = _honest(liar)
    known = _known(liar)
    for mutation in chosen([*mutations(reply, known, rng), *_crafted(liar, reply)], liar.number, rng):
        _lie(liar, mutation, before, honest, sign=True)
    for mutation in chosen(mutations(reply, Known(), rng), liar.number, rng):
        if mutation.pair != "signature | high S" and mutation.forged(reply, None) != reply:
            _lie(liar, mutation, before, honest, sign=False)


def _honest(liar: Deceived) -> Connection:
    """The connection as the right reply leaves it."""
    liar.alice.sync(liar.handle)
    honest = liar.alice.connection(liar.handle)
    liar.alice.back()
    return honest


def _lie(liar: Deceived, mutation: Mutation, before: int, honest: Connection, *, sign: bool) -> None:
    """One lie: refused, nothing of it counts but that a remainder may be owed; taken, it is worth what it says."""
    alice, handle = liar.alice, liar.handle
    kept = alice.connection(handle)
    what = f"mph_sync{'' if sign else ', unsigned,'} {mutation.pair}"
    with liar.lying("mph_sync", mutation, sign=sign):
        name = liar.tried(what, lambda: alice.sync(handle))
    after = alice.connection(handle)
    liar.enter(what, name, "nothing is lost by it")
    liar.check(alice, handle, before, what)
    liar.result.hold(sign or name is not None, f"taken though it is not signed: {what}")
    if name is not None:
        same = (after.duplex.net, after.pending, after.rows, after.owed)
        liar.result.hold(same == (kept.duplex.net, kept.pending, kept.rows, kept.owed), f"refused, but taken: {what}")
    else:
        events = alice.history(handle)
        received = sum(event["amount"] for event in events if event["action"] == "received")
        sent = sum(event["amount"] for event in events if event["action"] == "sent")
        fees = sum(event["sync_fee"] for event in events if event["action"] == "fee")
        liar.result.keep(DEPOSIT + received - sent - fees - after.owed, after.duplex.guaranteed, f"by the book, {what}")
        liar.result.hold(after.duplex.net <= honest.duplex.net, f"credited more than was moved: {what}")
    alice.back()


def _known(liar: Deceived) -> Known:
    """A lying hub's values: hashes, secrets and keys of the connection, older and others' replies."""
    duplex, own = liar.alice.connection(liar.handle).duplex, liar.alice.secrets(liar.handle)
    hub = liar.town.account(liar.handle).fixed.secrets(liar.key)
    values = {
        "the client's own hash": duplex.receiving.requested[-1].revoke_hash,
        "the client's first hash": own.revoke_hash(0),
        "the hash of an active commit": duplex.sending.active[0].revoke_hash,
        "the client's own secret": own.revoke(0),
        "a secret given before": hub.revoke(0),
        "a secret of no commit yet": hub.revoke(5000),
        "another connection's handle": liar.bobs,
    }
    seen = [item for item in liar.town.proxy.seen if item.method == "mph_sync" and "result" in item.reply]
    mine = [item.reply["result"] for item in seen if item.params["handle"] == liar.handle.hex()]
    other = [item.reply["result"] for item in seen if item.params["handle"] == liar.bobs.hex()]
    before = [item for item in mine if item["request_sha256"] != mine[-1]["request_sha256"]]
    messages = {"of the first reply": mine[0], "of the reply before": before[-1]}
    return Known(values, {**messages, "of another connection's reply": other[-1]})


def _crafted(liar: Deceived, reply: Mapping[str, Any]) -> Iterator[Mutation]:
    """Halves that the hub signs with its own keys, of other things than they say."""
    account = liar.town.account(liar.handle)
    secrets, sending, receiving = account.fixed.secrets(liar.key), account.channels.sending, account.channels.receiving
    newest = receiving.newest
    if sending.anchor is None or receiving.anchor is None or newest is None:
        raise RuntimeError("there is nothing to forge")
    right = Reader(reply, BadReply).commit()
    found = bad_commits(sending.contract, sending.anchor, right, secrets.payer)
    found |= excessive_commits(sending.contract, sending.anchor, right.revoke_hash, 1, secrets.payer)
    for what, made in found.items():
        yield Mutation("commit", what, setter(("commit",), commit_json(made)))
    for what, owed in bad_remainders(receiving.contract, receiving.anchor, newest, secrets.payee).items():
        item = {"quantity": owed.quantity, "revoke_hash": owed.revoke_hash.hex(), "signature": owed.signature.hex()}
        yield Mutation("remainder", what, setter(("remainder",), item))
    bodies: dict[str, Callable[[Any], Any]] = {
        "commit left out, receipts kept": lambda body: {**body, "commit": None},
        "secrets left out, receipts kept": lambda body: {**body, "revokes": []},
        "receipts of more": lambda body: {**body, "receive": [{**item, "amount": 901} for item in body["receive"]]},
        "all refused, nothing given back": lambda body: {
            **body, "refused": [{"token": item.hex(), "name": "UnknownHandle"} for item in _tokens(liar)]},
        "nothing but the next hash": lambda body: {**body, "commit": None, "revokes": [], "receive": []},
    }  # fmt: skip
    for what, change in bodies.items():
        yield Mutation("(crafted)", what, change)


def _tokens(liar: Deceived) -> list[bytes]:
    pending = liar.alice.connection(liar.handle).pending
    return [payment.token for payment in pending.payments] if pending else []


# Refusals -----------------------------------------------------------------------------------------------------------


def _refusals(liar: Deceived) -> None:
    """Every error that the hub can name, signed by it or by another key."""
    alice, handle = liar.alice, liar.handle
    named = [name for name, item in vars(errors).items() if isinstance(item, type) and name[0].isupper()]
    before, stranger, alice.left = alice.guaranteed(handle), new_key(liar.rng), []
    names: list[Any] = [*named, "Nonsense", 5, None]
    names = names if liar.number is None else [*ENDING, *liar.rng.sample(names, liar.number // 2)]
    for name, key in product(names, (None, stranger, liar.key)):
        by = {None: "unsigned", stranger: "another's"}.get(key, "the hub's")
        liar.town.proxy.refuse = _refusing(name, key)
        refused = liar.tried(f"error {name}", lambda: alice.sync(handle))
        liar.town.proxy.refuse = None
        liar.enter(f"mph_sync error {name} | {by}", refused, "the connection closes")
        liar.check(alice, handle, before, f"error {name}, {by}")
        closes = alice.connection(handle).stage == CLOSING
        liar.result.hold(closes == (key == liar.key and name in ENDING), f"error {name}, {by}: closes {closes}")
        alice.back()
        if closes:
            liar.town.back()
    liar.result.hold("\x1b" not in "".join(liar.warnings.texts), "control characters of the hub's are shown")


def _refusing(name: object, key: Key | None) -> Callable[[str, Any], Mapping[str, Any] | None]:
    """Answers of mph_sync that are an error of a name, with a text that would do things to a terminal."""
    text = "\x1b[2Jwiped " + "x" * 5000
    error = {"code": -32000, "message": text, "data": {"type": name, "message": text, "data": {"a": [1]}}}

    def refuse(method: str, params: Any) -> Mapping[str, Any] | None:
        if method != "mph_sync":
            return None
        return error if key is None else signed_error(error, key, method, params)

    return refuse


# mph_close ----------------------------------------------------------------------------------------------------------


def _closes(liar: Deceived) -> None:
    """Replies to the signed mph_close, each to the same client; nothing that it would publish leaves it."""
    alice, handle = liar.alice, liar.handle
    alice.close(handle)
    first, reply = (item.reply["result"] for item in liar.town.proxy.seen[-2:])
    liar.result.hold(alice.connection(handle).ending.told and reply["h2c_signature"], "no agreed close")
    known = Known({}, {"of the first reply": first})
    lies = [*mutations(reply, known, liar.rng), *_better_closes(liar, reply)]
    alice.back()
    liar.town.back()
    before = alice.guaranteed(handle)
    for mutation in chosen(lies, liar.number, liar.rng):
        liar.warnings.texts.clear()
        with liar.lying("mph_close", mutation, when="h2c_close"):
            name = liar.tried(mutation.pair, lambda: alice.close(handle))
        why = next((text.partition(":")[2][:80] for text in liar.warnings.texts if "hub" in text), "it is not agreed")
        agreed = alice.connection(handle).ending.told
        liar.enter(f"mph_close {mutation.pair}", name if name or agreed else why, "closed")
        liar.check(alice, handle, before, mutation.pair)
        alice.back()
        liar.town.back()
    alice.left = None


def _better_closes(liar: Deceived, reply: Mapping[str, Any]) -> Iterator[Mutation]:
    """Closes that the hub signs with its own key, at figures, or with rests, that it would like better."""
    account = liar.town.account(liar.handle)
    side, key = account.channels.receiving, account.fixed.secrets(liar.key).payee
    if side.anchor is None:
        raise RuntimeError("there is nothing to close")
    right = reply["c2h_quantity"]
    for what, quantity in (("one more", right + 1), ("all", side.contract.quantity), ("nothing", 0)):
        made = closing_json(sign_close(side.contract, side.anchor, quantity, key))
        yield Mutation("c2h_close", f"of {what}, under the right figure", setter(("c2h_close",), made))
        yield Mutation("c2h_close", f"of {what}", _with({"c2h_close": made, "c2h_quantity": quantity}))
    for what, (contract, anchor) in other_contracts(side.contract, side.anchor).items():
        made = closing_json(sign_close(contract, anchor, right, key))
        yield Mutation("c2h_close", what, setter(("c2h_close",), made))
        rest = None if made is None else made["rest_signature"]
        yield Mutation("c2h_close", f"its rest: {what}", setter(("c2h_close", "rest_signature"), rest))


def _with(members: Mapping[str, Any]) -> Callable[[Any], Any]:
    return lambda body: {**body, **members}


# mph_request and mph_deposit ----------------------------------------------------------------------------------------


def _connects(liar: Deceived) -> None:
    """Replies by which a connection begins: what is deposited then is its own, comes back, and is matched."""
    carol = Party(liar.town, "carol")
    carol.left = []
    carol.keep()
    carol.connect()
    for method in ("mph_request", "mph_deposit"):
        reply, seen = liar.told(method), [item for item in liar.town.proxy.seen if item.method == method]
        first = next(item.reply["result"] for item in seen if "result" in item.reply)
        carol.back()
        liar.town.keep()
        known = Known({"the hub's own key": liar.key.xonly.data}, {"of another client's reply": first})
        for mutation in chosen(mutations(reply, known, liar.rng), liar.number, liar.rng):
            carol.left.clear()
            with liar.lying(method, mutation):
                name = liar.tried(mutation.pair, carol.connect)
            liar.enter(f"{method} {mutation.pair}", name, "the deposit is its own")
            made = carol.handles()
            liar.result.hold(len(made) == len(carol.left) == (name is None), f"{mutation.pair}: {name} leaves {made}")
            for handle in made:
                _check_opened(liar, carol, handle, mutation.pair)
            carol.back()
        liar.town.back()


def _check_opened(liar: Deceived, carol: Party, handle: Handle, what: str) -> None:
    """A connection made by a changed reply: only its payer's keys are in what brings its deposit back."""
    connection, own = carol.connection(handle), carol.secrets(handle)
    c2h, h2c = connection.duplex.sending.contract, connection.duplex.receiving.contract
    hold, height = liar.result.hold, liar.town.desk.hub.follower.height or 0
    hold(c2h.deposit.payer == own.payer.xonly and h2c.deposit.payee == own.payee.xonly, f"other keys: {what}")
    hold(c2h.payer_wallet == h2c.payee_wallet == carol.script, f"another wallet: {what}")
    hold(c2h.deposit.height == h2c.deposit.height == height + EXPIRE, f"another expiry: {what}")
    hold((c2h.quantity, c2h.rate) == (DEPOSIT, 1) and h2c.quantity >= DEPOSIT, f"other amounts: {what}")
    (raw,) = carol.left or [b""]
    tx = parse_transaction(raw)
    hold(tx is not None and bytes(tx.vout[0].scriptPubKey) == c2h.deposit.output, f"another deposit: {what}")


def _settled(liar: Deceived, party: Party) -> None:
    """All of a client's connections close and settle, and its wallet holds what was guaranteed."""
    guaranteed, number = sum(map(party.guaranteed, party.handles())), len(party.handles())
    liar.result.hold(party.settle(), f"{party.name} is not settled")
    liar.result.keep(guaranteed, party.held - ASSETS + number * DEPOSIT, f"{party.name} on chain")
