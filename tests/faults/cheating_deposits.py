"""Cheats by deposits, keys and times, and such as only a hub meets, with many connections on one chain and wallet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

from faults.cheat_network import DEEPEST, DEPTH, EXPIRE, XCP, Duel, refusal
from faults.cheating_parties import CheatedClient, CheatedHub
from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.counterparty import pack_send
from picopayments_cli.channel.drafts import Output
from picopayments_cli.channel.keys import NUMS
from picopayments_cli.channel.messages import ConnectRequest
from picopayments_cli.channel.opening import contract_of
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.transactions import compose_send

CROWD = 24  # connections that expire in one fee spike

# Deposits -----------------------------------------------------------------------------------------------------------


def _deposit(it: Duel, quantity: int, satoshis: int | None = None) -> bytes:
    """A transaction of the form of the cheat's deposit; it is mined next."""
    contract = it.duplex.sending.contract
    target = Output(satoshis or contract.budget.anchor, contract.deposit.output)
    raw = finish_wallet(
        compose_send(Purse(it.script, it.coins(it.script), 2), target, pack_send(XCP, quantity)), it.key
    )
    it.result.hold(it.would_mine(raw), "no miner takes the deposit: the trial is none")
    return raw


def _unopened(it: Duel, what: str) -> None:
    """See that a connection never opens, and that it costs the honest party nothing."""
    it.fault()
    for _ in range(2 * DEPTH):
        it.act()
        it.mine()
        it.result.hold(not it.opens, f"{what} opens a connection")
    it.settle(what, it.rob)


def deposit_in_two_steps(it: Duel) -> str:
    """The deposit comes in two parts, or is topped up."""
    it.agree()
    first = it.rng.randint(1, it.stake - 1)
    _deposit(it, first)
    _deposit(it, it.stake - first, it.rng.choice((546, None)))
    _unopened(it, "a deposit in two steps")
    return "never open"


def deposit_of_what_is_not_there(it: Duel) -> str:
    """The message says more than the wallet holds: the ledger moves what is there."""
    it.agree()
    held = it.held(it.script)
    while held >= it.stake:
        target = Output(1000, b"\x00\x14" + bytes(20))
        purse = Purse(it.script, it.coins(it.script), 2)
        it.would_mine(finish_wallet(compose_send(purse, target, pack_send(XCP, held - it.stake + 1)), it.key))
        held = it.held(it.script)
    _deposit(it, it.stake)
    _unopened(it, "a deposit of what is not there")
    return "never open"


def deposit_copied(it: Duel) -> str:
    """Before the deposit comes one with too few satoshis, and one with another quantity; then all goes on as usual."""
    it.agree()
    it.faucet(it.script, 100_000, quantity=2 * it.stake)
    it.mine()
    _deposit(it, it.stake, 546)
    _deposit(it, it.stake - 1)
    it.opened(_deposit(it, it.stake))
    stolen = it.give_back()
    it.take(it.part(0.05, 0.2))
    it.fault()
    it.tries(it.commit(stolen))
    it.settle("a deposit with copies", lambda: it.rob(stolen))
    return "passed over"


def deposit_taken_back(it: Duel) -> str:
    """The deposit is in a block, which a reorganisation takes away; its coins go elsewhere."""
    it.agree()
    _deposit(it, it.stake)
    it.act()
    it.mine(DEEPEST - 1)
    it.act()
    it.reorganise()
    it.result.hold(it.would_mine(it.elsewhere(2)), "the coins do not go elsewhere: the trial is none")
    _unopened(it, "a deposit that is taken back")
    return "waited for"


def deposit_too_late(it: Duel) -> str:
    """The deposit comes when too little time is left for a commit to be settled."""
    it.agree()
    it.until(it.honest_deadline - it.rng.randint(1, DEPTH))
    _deposit(it, it.stake)
    _unopened(it, "a late deposit")
    return "never used"


def deposits_reorganised(it: Duel) -> str:
    """Reorganisations come while the connection opens, and a deep one, which takes the deposits away, once it is."""
    it.agree()
    it.mine(DEPTH)  # what the faucet paid stays
    raw, left = _deposit(it, it.stake), 3
    for _ in range(2 * DEPTH):
        it.act()
        it.mine()
        if left and it.rng.random() < 0.5:
            left -= 1
            it.reorganise(it.rng.randint(1, DEEPEST))
            it.tries(raw)
    it.opened(raw)
    it.reorganise(it.depth(raw))
    it.act()
    it.mine()
    it.act()
    it.opened(raw)
    stolen = it.give_back()
    it.take(it.part(0.05, 0.2))
    it.fault()
    it.tries(it.commit(stolen))
    it.settle("deposits that are reorganised", lambda: it.rob(stolen))
    return "published again"


# Keys, heights, times -----------------------------------------------------------------------------------------------


def _keys(own: str) -> list[str]:
    """Keys that no channel may have: of other lengths, off the curve, without an owner, one that stands there twice."""
    return ["02" + own, own[:62], own + "00", "00" * 32, "ff" * 32, str(NUMS), ""]


def keys_and_heights(it: CheatedHub) -> str:
    """The client names keys of other lengths or equal ones, and expiries at the bounds and beyond."""
    client = it.client
    asked = ConnectRequest("XCP", client.party, client.secrets.salt).as_json()
    parties = [{**asked["client"], "payer_key": key} for key in _keys(str(client.party.payer_key))]
    parties.append({**asked["client"], "payee_key": asked["client"]["payer_key"]})
    parties.append({**asked["client"], "wallet_script": it.honest.hex()})
    names = [refusal(partial(client.call, "mph_request", {**asked, "client": party})) for party in parties]
    it.agree()
    proposed, hub = client.proposed, it.desk.account(client.handle).fixed.parties[1]
    assert proposed is not None
    for height in (1, it.tip, it.tip + 5, it.tip + 65535 + 7, 499_999_999, 500_000_000, 2**32):
        reply = client.request()
        body = replace(proposed, handle=reply.handle, height=height)
        if height < 500_000_000:
            contract = contract_of(client.party, hub, XCP, height, proposed.stake)
            body = replace(body, output=contract.deposit.output)
        names.append(refusal(partial(client.call, "mph_deposit", body.as_json())))
    it.result.hold(None not in names, f"a key or a height is taken: {names}")
    it.result.hold(it.held() == it.had, "the hub deposited")
    return ", ".join(sorted({str(name) for name in names}))


def other_keys_and_heights(it: CheatedClient) -> str:
    """The hub answers with the client's own keys, other heights, delays, quantities, rates or outputs."""
    it.begin()
    hub, names = it.hub, []

    def party(reply: Any) -> Any:
        return replace(reply, hub=replace(reply.hub, payer_key=hub.asker.payer_key))

    def payee(reply: Any) -> Any:
        return replace(reply, hub=replace(reply.hub, payee_key=reply.hub.payer_key))

    def stake(**changes: Any) -> Callable[[Any], Any]:
        return lambda reply: replace(reply, stake=replace(reply.stake, **changes))

    lies: list[tuple[str, Callable[[Any], Any]]] = [
        ("mph_request", party),
        ("mph_request", payee),
        ("mph_request", lambda reply: replace(reply, hub=replace(reply.hub, wallet=it.honest))),
        ("mph_deposit", lambda reply: replace(reply, height=reply.height + 1)),
        ("mph_deposit", lambda reply: replace(reply, height=2)),
        ("mph_deposit", stake(delay=2017)),
        ("mph_deposit", stake(quantity=it.stake - 1)),
        ("mph_deposit", stake(rate=99)),
        ("mph_deposit", lambda reply: replace(reply, output=b"\x51\x20" + bytes(32))),
    ]
    for method, lie in lies:
        hub.change_opening = {method: lie}
        names.append(refusal(it.life.connect))
    it.result.hold(None not in names, f"an answer is taken: {names}")
    it.result.hold(it.mempool() == [] and it.held() == it.had, "the client deposited")
    return ", ".join(sorted({str(name) for name in names}))


# The hub alone ------------------------------------------------------------------------------------------------------


def blind_hub(it: CheatedHub) -> str:
    """A revoked commit is mined, or paid out, while the follower is dead or the node is behind; the client syncs on."""
    stolen = it.dealt()
    hub, names = it.desk.hub, []
    it.result.hold(it.would_mine(it.commit(stolen)), "no miner takes the commit: the trial is none")
    with patch.object(hub, "fresh_seconds", -1.0):
        names.append(refusal(lambda: it.give(5)))
    hub.follower.seen_at = float("-inf")
    with patch.object(hub.bitcoin, "tip_is_current", lambda: False):
        hub.follower.catch_up()
        names.append(refusal(lambda: it.give(5)))
    it.result.hold(set(names) <= {"NodeBehind", "ConnectionNotOpen"}, f"a hub that does not see goes on: {names}")
    it.settle("a hub that does not see", lambda: it.rob(stolen))
    return ", ".join(map(str, names))


def many_connections_in_a_fee_spike(it: CheatedHub) -> str:
    """Many connections expire at one height while fees are high, and a third of them publish what they gave back."""
    crowd = _crowd(it)
    stolen = {one: one.give_back(one.part(0.1, 0.3)) for one in crowd[::3]}
    for one in crowd:
        if one not in stolen:
            one.give(one.part(0.1, 0.3))
            one.take(one.part(0.1, 0.3))
    guaranteed, rate = sum(one.fault() for one in crowd), it.rng.choice((10, 40, 80))
    while not all(one.over for one in crowd) and it.tip < it.expires + EXPIRE:
        high = it.honest_deadline - 2 <= it.tip < it.expires + 10
        it.spike(rate if high else 1)
        for one, made in stolen.items() if high else ():
            one.tries(one.commit(made), one.child(one.drafted(made), rate))
            one.rob(made)
        it.act()
        it.mine()
    it.result.hold(all(one.over for one in crowd), "not all of many connections are over")
    it.result.keep(guaranteed, it.held() - it.had + CROWD * it.stake, "many connections in a fee spike")
    return f"{CROWD} settled, {len(stolen)} of them punished"


def _crowd(it: CheatedHub) -> list[CheatedHub]:
    """Open connections of many clients, which expire at one height."""
    crowd = [it, *(CheatedHub(it.town) for _ in range(CROWD - 1))]
    for number, one in enumerate(crowd):
        one.endow()
        if number % 8 == 0:  # as many as a chain of the faucet's may have
            it.mine()
    it.desk.mine()
    for one in crowd:
        one.ask()
        one.client.deposit()
    for one in crowd:
        one.opened()
    return crowd


def two_cheats_at_once(it: CheatedHub) -> str:
    """Two clients publish revoked commits at once, each with a child that leaves no place for another."""
    other = CheatedHub(it.town)
    stolen = [one.dealt() for one in (it, other)]
    guaranteed = it.fault() + other.fault()
    for one, made in zip((it, other), stolen, strict=True):
        one.tries(one.commit(made), one.child(one.drafted(made), 5))
    it.guaranteed = guaranteed - it.stake  # of both: the other's deposit is no part of what it had

    def also() -> None:
        it.rob(stolen[0])
        other.rob(stolen[1])

    it.settle("two cheats", also)
    return "both punished"


BOTH = (
    deposit_in_two_steps,
    deposit_of_what_is_not_there,
    deposit_copied,
    deposit_taken_back,
    deposit_too_late,
    deposits_reorganised,
)
BY_CLIENT = (keys_and_heights, blind_hub, two_cheats_at_once, many_connections_in_a_fee_spike)
BY_HUB = (other_keys_and_heights,)
