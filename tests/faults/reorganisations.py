"""Part: blocks taken away at every stage of a connection's life, and conflicting transactions in their place."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cheats import revoked_commit, running_town
from network_support import Client, wait_until
from picopayments_cli.channel2.state import finished
from regtest_support import running_node

from faults.reorganised_network import BACK, DEEPEST, GONE, SAFE, ReorganisedNetwork
from faults.result import Budget, Result
from picopayments_cli.config import SAFE_DEPTH

SENT, MORE = 100, 5000
EXPIRE = 40  # blocks, of what is to expire
LATER = 200  # of what is to expire in the end
LONG = 2000  # of who looks on meanwhile
DEPTHS = tuple(range(1, DEEPEST + 1))
Trial = Callable[[ReorganisedNetwork, Sequence[int]], None]


def run(rng: random.Random, budget: Budget) -> Result:
    """Whole lives with a reorganisation at each stage, and stories that end in a conflict, at every depth."""
    result = Result("reorganisations")
    number = 0
    with _safe_depth():
        for story, depths in _plan(rng, budget):
            folder = budget.folder / f"town{number}"
            number += 1
            _tell(story, depths, folder, rng, result)
    return result


@contextmanager
def _safe_depth() -> Iterator[None]:
    """Count as final on regtest what is final on a real network."""
    before = os.environ.get(SAFE_DEPTH)
    os.environ[SAFE_DEPTH] = str(SAFE)
    try:
        yield
    finally:
        del os.environ[SAFE_DEPTH]
        if before is not None:
            os.environ[SAFE_DEPTH] = before


def _plan(rng: random.Random, budget: Budget) -> Iterator[tuple[Trial, Sequence[int]]]:
    """The stories, each with the depths of its reorganisations; again and again while there is time."""
    if budget.quick:
        yield _sample, (DEEPEST,)
        return
    while True:
        for turn in range(len(DEPTHS)):
            yield _life, DEPTHS[turn:] + DEPTHS[:turn]
        for story in STORIES:
            yield story, rng.sample(DEPTHS, len(DEPTHS))
        for depth in DEPTHS:
            yield _cheating_hub, (depth,)
        if not budget.goes_on(1, 0):
            return


def _tell(story: Trial, depths: Sequence[int], folder: Path, rng: random.Random, result: Result) -> None:
    """Run a story in a town of its own, and settle it."""
    folder.mkdir()
    trials = result.trials
    with running_node(folder / "chain", 0) as node, running_town(folder, node) as town:
        network = ReorganisedNetwork(town, rng, result, story.__name__.strip("_").replace("_", " "))
        try:
            story(network, depths)
            network.end()
        except (AssertionError, TimeoutError) as error:
            result.failures.append(f"{network.story} {depths}: {str(error)[-500:]}")
        else:
            result.recovered += result.trials - trials


def _sample(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """One of each kind, in one town."""
    (depth,) = depths
    alice, early, payee = town.clients("alice", "early", "payee")
    town.open(alice.basedir.name, payee.basedir.name, expire=LONG)
    town.pay("alice", "payee", MORE)
    town.shake("open, with payments", depth)
    _hubs_young_deposit(town, depths, [early], replaced=False)
    town.close("payee")
    _steal_by_secret(town, "payee", "h2c", depth)


# A whole life -------------------------------------------------------------------------------------------------------


def _life(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """Three connections, one of which sees the chain through the hub, from the deposit to the end."""
    turn = itertools.cycle(depths)
    town.clients("alice", "bob", "carol", through_hub="carol")
    names = ("alice", "bob", "carol")
    for name in names:
        town.connect(name)
    town.shake("deposits in the mempool", next(turn))
    deep = next(turn)
    town.bury([town.channel(name, "c2h").script.output for name in names], 1, deep)
    town.shake("deposits mined", deep)
    hubs = [town.channel(name, "h2c").script.output for name in names]
    town.advance(lambda: all(map(town.history, hubs)), "the hub's deposits")
    town.shake("deposits buried, the hub's in the mempool", next(turn))
    deep = next(turn)
    town.bury(hubs, 1, deep)
    town.shake("the hub's deposits mined", deep)
    town.advance(lambda: all(town.status(name) == "open" for name in names), "open connections")
    town.pay("alice", "bob", MORE)
    town.pay("bob", "carol", SENT)
    town.shake("open, with payments", next(turn))
    _send(town, next(turn))
    town.pay("alice", "bob", SENT)
    for name in names:
        town.close(name)
    town.shake("commits in the mempool", next(turn))
    paid = [town.channel("alice", "c2h").script.output, town.channel("bob", "h2c").script.output]
    deep = next(turn)
    town.bury(paid, 2, deep)
    town.shake("commits mined", deep)
    town.advance(partial(town.payout, "bob", "h2c"), "a payout")
    town.shake("a payout in the mempool", next(turn))
    deep = next(turn)
    town.bury([town.channel("alice", "c2h").script.output], 3, deep)
    town.shake("change mined", deep)
    town.advance(town.is_over, "the end")
    town.shake("the end", next(turn))


def _send(town: ReorganisedNetwork, depth: int) -> None:
    """A payment on the chain: made or not, nothing else is touched by it."""
    alice, bob = town.town.clients["alice"], town.town.clients["bob"]
    held = alice.balances()["XCP"], bob.balances()["XCP"]
    txid = alice.run("blocksend", "XCP", bob.run("status")["wallet"]["address"], str(MORE))
    town.mine(depth)
    town.shake("blocksend mined", depth)
    town.mine(DEEPEST + 1)  # whatever has become of it is final
    moved = MORE if alice.run("getrawtx", txid) is not None else 0
    now = alice.balances()["XCP"], bob.balances()["XCP"]
    town.result.hold(now == (held[0] - moved, held[1] + moved), f"{now} after {held} and a blocksend of {moved}")
    town.moved("alice", -moved)
    town.moved("bob", moved)


# Deposits -----------------------------------------------------------------------------------------------------------


def _spent_elsewhere(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """A client pays from a young deposit, if it may, and then spends what it deposited elsewhere."""
    _young_deposit(town, depths, replaced=False)


def _replaced(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """A client's deposit confirms again under another txid."""
    _young_deposit(town, depths, replaced=True)


def _young_deposit(town: ReorganisedNetwork, depths: Sequence[int], *, replaced: bool) -> None:
    _, *payers = town.clients("bob", *(f"payer{depth}" for depth in depths))
    town.open("bob", expire=LONG)
    for depth, payer in zip(depths, payers, strict=True):
        name = payer.basedir.name
        town.connect(name, EXPIRE)
        script = town.channel(name, "c2h").script.output
        town.bury([script], 1, depth)
        (deposit,) = town.history(script)
        town.offer(name, "bob", MORE)
        conflict = town.respent(deposit.raw, payer.key, same_outputs=replaced)
        town.shake("the deposit mined", depth, GONE, conflict)
        town.mine()
        town.sync(name)
        town.result.hold(not replaced or town.status(name) == "closing", f"{name} does not close")


def _hub_spends_elsewhere(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """The hub pays a client over a young deposit, if that takes it, and then spends what it deposited elsewhere."""
    _, *payees = town.clients("alice", *(f"payee{depth}" for depth in depths))
    town.open("alice", expire=LONG)
    _hubs_young_deposit(town, depths, payees, replaced=False)


def _hubs_replaced(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """The hub's deposit confirms again under another txid."""
    _, *payees = town.clients("alice", *(f"payee{depth}" for depth in depths))
    town.open("alice", expire=LONG)
    _hubs_young_deposit(town, depths, payees, replaced=True)


def _hubs_young_deposit(
    town: ReorganisedNetwork, depths: Sequence[int], payees: Sequence[Client], *, replaced: bool
) -> None:
    for depth, payee in zip(depths, payees, strict=True):
        name = payee.basedir.name
        town.connect(name, EXPIRE)
        script = town.channel(name, "h2c").script.output
        town.bury([script], 1, depth)
        (deposit,) = town.history(script)
        town.offer("alice", name, MORE)
        conflict = town.respent(deposit.raw, town.hub_key, same_outputs=replaced)
        town.shake("the hub's deposit mined", depth, GONE, conflict)
        town.mine()
        town.sync(name)
        closing = town.town.stages()[town.handles[name]] == "closing"
        town.result.hold(not replaced or closing, f"the hub does not close {name}")
        town.close(name)


# Commits ------------------------------------------------------------------------------------------------------------


def _paid(town: ReorganisedNetwork, depths: Sequence[int], name: str) -> list[Client]:
    """Clients that Alice pays: each has a commit of the hub's."""
    _, *payees = town.clients("alice", *(f"{name}{depth}" for depth in depths))
    town.open("alice", expire=LONG)
    town.open(*(payee.basedir.name for payee in payees), expire=LATER)
    for payee in payees:
        town.pay("alice", payee.basedir.name, SENT)
    return payees


def _another_commit(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """In the place of its active commit a client's revoked one is mined: the hub punishes that."""
    for depth, cheat in zip(depths, _paid(town, depths, "cheat"), strict=True):
        name = cheat.basedir.name
        town.pay("alice", name, MORE)
        kept = cheat.connection(town.handles[name])
        town.pay(name, "alice", MORE)
        town.cheats.add(name)
        town.close(name)
        script = town.channel(name, "h2c").script.output
        town.bury([script], 2, depth)
        town.shake("a commit mined", depth, GONE, revoked_commit(kept, cheat.key))
        town.bury([script], 2, 1)
    town.mine(LATER)  # what the revoked commits left is the hub's when it expires


def _punished(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """A client publishes a revoked commit; the hub's punishment is taken away, and the client tries its payout."""
    for depth, cheat in zip(depths, _paid(town, depths, "cheat"), strict=True):
        name = cheat.basedir.name
        kept = cheat.connection(town.handles[name])
        town.pay(name, "alice", SENT - 2)
        town.cheats.add(name)
        town.town.broadcast(revoked_commit(kept, cheat.key))
        town.mine()
        town.mine(depth)  # which takes the revoke
        commit = town.published(name, "h2c")
        payout = town.early_payout(kept, cheat.key)
        town.result.hold(town.mined(commit, 2), f"{name} was not punished")
        town.shake("a revoked commit punished", depth, GONE, payout)
        town.mine(2)
        town.result.hold(town.mined(commit, 2), f"{name} was not punished again")


def _cheating_hub(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """The hub publishes a revoked commit; the client's punishment is taken away."""
    (depth,) = depths
    alice, _ = town.clients("alice", "bob")
    town.open("alice", "bob", expire=2 * EXPIRE)
    town.pay("alice", "bob", SENT)
    town.pay("alice", "bob", MORE)
    copy = town.town.copy_books()
    town.pay("bob", "alice", MORE + 2)
    alice.run("sync")
    town.cheats.add("hub")
    town.town.cheat(copy)
    wait_until(lambda: town.published("alice", "c2h"), "the hub's revoked commit")
    town.mine()
    alice.run("sync")
    town.mine(depth)
    commit = town.published("alice", "c2h")
    town.result.hold(town.mined(commit, 2), "the hub was not punished")
    town.shake("the hub's revoked commit punished", depth, town.rng.choice((BACK, GONE)))
    alice.run("sync")
    town.mine(2)
    town.result.hold(town.mined(commit, 2), "the hub was not punished again")


# Secrets that a payout shows ----------------------------------------------------------------------------------------


def _shown_secret(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """A client's payout shows its secret, and the hub would take its deposit back by that."""
    for depth, payee in zip(depths, _paid(town, depths, "payee"), strict=True):
        name = payee.basedir.name
        town.close(name)
        _steal_by_secret(town, name, "h2c", depth)


def _hubs_shown_secret(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """The hub's payout shows its secret, and the client would take its deposit back by that."""
    for depth, payer in zip(depths, _paid(town, depths, "payer"), strict=True):
        name = payer.basedir.name
        town.pay(name, "alice", MORE)
        town.close(name)
        _steal_by_secret(town, name, "c2h", depth)


def _steal_by_secret(town: ReorganisedNetwork, name: str, way: str, depth: int) -> None:
    town.advance(partial(town.payout, name, way), "a payout")
    payer = town.hub_key if way == "h2c" else town.town.clients[name].key
    town.shake("a payout in the mempool", depth, GONE, town.change(name, way, payer))


# Expiry -------------------------------------------------------------------------------------------------------------


def _hub_too_late(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """A client's deposit expired, and it took it back; then that is gone, and the hub's late commit comes first."""
    _, *payers = town.clients("alice", *(f"payer{depth}" for depth in depths))
    town.open("alice", expire=LONG)
    for depth, payer in zip(depths, payers, strict=True):
        name = payer.basedir.name
        town.open(name, expire=EXPIRE)
        town.pay(name, "alice", MORE)
        town.town.stop_hub()
        script = town.channel(name, "c2h").script.output
        town.mine(EXPIRE - SAFE)
        town.sync(name)  # from here on it closes
        town.bury([script], 2, depth)
        town.shake("a deposit expired", depth, GONE)
        town.town.start_hub()
        town.mine(2)
        town.result.hold(town.published(name, "c2h"), "the hub published no commit")


def _client_too_late(town: ReorganisedNetwork, depths: Sequence[int]) -> None:
    """The hub's deposit expired, and it took it back; then that is gone, and the client's late commit comes first."""
    _, *payees = town.clients("alice", *(f"payee{depth}" for depth in depths))
    town.open("alice", expire=LONG)
    for depth, payee in zip(depths, payees, strict=True):
        name = payee.basedir.name
        town.open(name, expire=EXPIRE)
        town.pay("alice", name, MORE)
        channel = town.channel(name, "h2c")
        while not town.mined(channel.script.output, 2):
            town.mine()
        town.mine(depth - 1)
        town.shake("the hub's deposit expired", depth, GONE, finished(channel, channel.active[-1], payee.key))
        town.result.hold(town.published(name, "h2c"), "the client's commit was not mined")


STORIES: tuple[Trial, ...] = (
    _spent_elsewhere,
    _replaced,
    _hub_spends_elsewhere,
    _hubs_replaced,
    _another_commit,
    _punished,
    _shown_secret,
    _hubs_shown_secret,
    _hub_too_late,
    _client_too_late,
)
