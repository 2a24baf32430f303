"""Cheats that are carried out on the chain, the same by a client and by a hub; each trial returns what stopped it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from faults.cheat_network import DEEPEST, DELAY, Duel, refusal
from picopayments_cli.channel.drafts import Draft
from picopayments_cli.channel.halves import Commit

JUNK = "JUNKISH"
FLOOD = 30

# Revoked commits ----------------------------------------------------------------------------------------------------


def revoked_at_once(it: Duel) -> str:
    """A revoked commit goes to the network."""
    stolen = it.dealt()
    it.tries(it.commit(stolen))
    it.settle("a revoked commit at once", lambda: it.rob(stolen))
    return "punished in the mempool"


def revoked_with_a_child(it: Duel) -> str:
    """A revoked commit goes to the network together with a child of the cheat's, so that no other fits behind it."""
    stolen = it.dealt()
    it.tries(it.commit(stolen), it.child(it.drafted(stolen), it.rng.choice((2, 5, 20, 40))))
    it.settle("a revoked commit with a child", lambda: it.rob(stolen))
    return "punished: the child evicted, or the block waited for"


def revoked_at_the_last_block(it: Duel) -> str:
    """A revoked commit goes to a miner, and its victim looks again at the last block at which it can be punished."""
    stolen = it.dealt()
    it.result.hold(it.would_mine(it.commit(stolen)), "no miner takes the commit: the trial is none")
    for _ in range(it.duplex.receiving.contract.delay - 2):
        it.result.hold(not it.would_mine(it.payout(stolen)), "paid out before the delay is over")
        it.mine()
    it.act()
    it.mine()
    it.result.hold(not it.would_mine(it.payout(stolen)), "paid out what was punished")
    it.settle("a revoked commit at the last block", lambda: it.rob(stolen))
    return "punished one block before the payout"


def revoked_with_its_payout_waiting(it: Duel) -> str:
    """A revoked commit is published while fees are so high that no block takes it, and is never raised."""
    stolen = it.dealt()
    it.tries(it.commit(stolen))
    it.settle("a revoked commit that is stuck", lambda: it.rob(stolen), spikes=[25] * 60)
    return "raised by the punishment"


def revoked_as_fees_rise(it: Duel) -> str:
    """The cheat outbids the punishment with a child of its own, at every block for more."""
    stolen = it.dealt()
    it.tries(it.commit(stolen))
    rates: Iterator[int] = iter(range(3, 90, 9))

    def outbid() -> None:
        it.tries(it.child(it.drafted(stolen), next(rates, 90)))

    it.settle("a revoked commit as fees rise", lambda: it.rob(stolen), outbid)
    return "punished in the mempool, or once it is mined"


def punishment_cycled_away(it: Duel) -> str:
    """The cheat's child evicts the punishment, and is itself replaced: the commit stands there alone again."""
    stolen = it.dealt()
    it.tries(it.commit(stolen))
    it.settle("replacement cycling", lambda: it.rob(stolen), _cycling(it, lambda: it.drafted(stolen)), spikes=[20] * 8)
    return "the punishment comes again"


def _cycling(it: Duel, parent: Callable[[], Draft], rounds: int = 3) -> Callable[[], None]:
    """Evict what spends a P2A output, and what evicted it, a few times."""
    rates = iter(range(22, 22 + 15 * rounds, 15))

    def cycle() -> None:
        rate = next(rates, 0)
        if rate and it.tries(it.child(parent(), rate)):
            it.result.hold(it.tries(it.elsewhere(2 * rate + 40)), "the child is not replaced: the trial is none")

    return cycle


def punishment_reorganised(it: Duel) -> str:
    """The punishment is mined and taken away by a reorganisation; the miner takes the commit alone again."""
    stolen = it.dealt()
    it.tries(it.commit(stolen))
    it.act()
    it.mine(it.rng.randint(1, DEEPEST))
    it.reorganise()
    it.would_mine(it.commit(stolen))
    it.settle("a punishment that is reorganised", lambda: it.rob(stolen), _reorganising(it, 2))
    return "punished again"


def _reorganising(it: Duel, times: int) -> Callable[[], None]:
    """Take blocks away now and then, so many times."""
    left = [times]

    def reorganise() -> None:
        if left[0] and it.rng.random() < 0.4:
            left[0] -= 1
            it.reorganise(it.rng.randint(1, DEEPEST))

    return reorganise


def revoked_while_it_is_given_back(it: Duel) -> str:
    """A commit is published, or mined, and given back before its victim has looked."""
    it.open()
    it.give(it.part(0.3, 0.7))
    stolen = it.received[-1]
    mined = it.rng.random() < 0.5
    _ = it.would_mine(it.commit(stolen)) if mined else it.tries(it.commit(stolen))
    name = refusal(lambda: it.take(it.duplex.receiving.moved))
    it.fault()
    it.settle("a commit given back once it is published", lambda: it.rob(stolen))
    return name or "punished"


def revoked_at_the_expiry(it: Duel) -> str:
    """A revoked commit comes in the block of the expiry, or in the mempool behind it."""
    stolen = it.dealt()
    _wait(it, it.expires)
    _ = it.would_mine(it.commit(stolen)) if it.rng.random() < 0.5 else it.tries(it.commit(stolen))
    it.settle("a revoked commit at the expiry", lambda: it.rob(stolen))
    return "punished, or the deposit is back before it"


def _wait(it: Duel, height: int) -> None:
    """Let blocks come with the honest party looking."""
    while it.tip < height:
        it.act()
        it.mine()


def lower_and_higher(it: Duel) -> str:
    """Of many commits, some revoked, the cheat publishes first the one that brings it most, then the others."""
    it.open()
    for _ in range(4):
        it.give(it.part(0.05, 0.12))
    it.take(it.part(0.05, 0.2))
    it.fault()
    by_value = sorted(it.received, key=lambda made: -made.quantity)
    for made in by_value[it.rng.randrange(3) :]:
        it.tries(it.commit(made))
    it.settle("the highest of many", it.rob)
    return "only what counts is paid out"


# Commits that count -------------------------------------------------------------------------------------------------


def commit_never_paid_out(it: Duel) -> str:
    """The cheat publishes the commit that counts, never pays it out, and so wants to hold the rest."""
    it.open()
    it.give(it.part(0.3, 0.6))
    it.take(it.part(0.05, 0.2))
    it.fault()
    it.tries(it.commit(max(_active(it), key=lambda made: made.quantity)))
    it.settle("a commit that is never paid out", _reorganising(it, 2))
    return "the remainder is the payer's after one block"


def _active(it: Duel) -> list[Commit]:
    return [item.commit for item in it.duplex.receiving.active]


def commit_that_is_stuck(it: Duel) -> str:
    """The commit that counts waits in the mempool for lower fees, past the expiry."""
    it.open()
    it.give(it.part(0.3, 0.6))
    it.fault()
    it.tries(it.commit(_active(it)[-1]))
    it.settle("a commit that is stuck", spikes=[25] * 60)
    return "let pass for a margin, then replaced by the expiry"


def commit_against_the_expiry(it: Duel) -> str:
    """The honest party settles at the deadline, as late as it may; the cheat has its expiry ready for that block."""
    it.dealt()
    it.until(it.honest_deadline)
    it.settle("a commit at its deadline", it.rob, it.rob, spikes=[it.rng.choice((1, 10, 40))] * 8)
    return "mined before the deposit expires"


def commit_cycled_away(it: Duel) -> str:
    """The child that raises the honest commit is evicted by the cheat's, which is itself replaced."""
    it.dealt()
    it.until(it.honest_deadline)
    it.settle("a commit's child cycled away", last=_cycling(it, it.honest_commit), spikes=[20] * 8)
    return "the child comes again"


def commit_pinned(it: Duel) -> str:
    """The cheat takes the one place behind the honest commit for a child that pays little."""
    it.dealt()
    it.until(it.honest_deadline)

    def pin() -> None:
        it.tries(it.child(it.honest_commit(), 2))

    it.settle("a pinned commit", pin, pin, spikes=[20] * 8)
    return "the child is evicted"


def half_that_was_evicted(it: Duel) -> str:
    """The honest commit leaves, and is evicted; the cheat asks for it to be given back, and then publishes it."""
    it.open()
    it.give(it.part(0.3, 0.6))
    it.take(it.part(0.65, 0.7))
    it.fault()
    it.stop()
    it.act()
    evicted = it.mempool()
    raws = [bytes.fromhex(it.node.bitcoin("getrawtransaction", txid)) for txid in evicted]
    it.node.rpc("feerate", rate=20, minimum=20)
    it.answer()
    names = [refusal(lambda: it.give(it.part(0.1, 0.2))), refusal(lambda: it.take(it.part(0.1, 0.2)))]
    it.result.hold(names[0] is not None, "a channel whose half has left gives back")
    it.fault()
    it.spike(1)
    it.result.hold(raws and it.would_mine(*raws), "no miner takes the commit: the trial is none")
    it.settle("a half that was evicted", it.rob)
    return f"{names[0]}; paid out"


def commit_reorganised(it: Duel) -> str:
    """Reorganisations take the honest commit, and its payout, away; the cheat wants its deposit back meanwhile."""
    it.dealt()
    it.until(it.honest_deadline - it.duplex.sending.contract.delay - DEEPEST)
    it.stop()
    it.settle("commit and payout reorganised", it.rob, _reorganising(it, 3))
    return "published again"


def revoked_after_what_counts(it: Duel) -> str:
    """The commit that counts is mined, and its rest taken; a reorganisation makes room for a revoked one instead."""
    stolen = it.dealt()
    it.give(it.part(0.02, 0.08))
    it.fault()
    it.tries(it.commit(_active(it)[-1]))
    it.act()
    it.mine()
    it.act()
    it.mine()
    it.reorganise()
    it.result.hold(it.would_mine(it.commit(stolen)), "no miner takes the commit: the trial is none")
    it.settle("a revoked commit after a reorganisation", lambda: it.rob(stolen))
    return "punished in its place"


def storm(it: Duel) -> str:
    """Anything of that at any time; the victim looks as often as it has to."""
    it.open()
    for _ in range(3):
        it.give(it.part(0.05, 0.15))
        if it.rng.random() < 0.5:
            it.take(it.part(0.02, 0.2))
    it.fault()
    rng, sleepy, taken_back = it.rng, it.rng.random() < 0.5, [False]
    contracts = it.duplex.sending.contract, it.duplex.receiving.contract
    scripts = [contract.deposit.output for contract in contracts]
    scripts += [contracts[1].commit_script(made.revoke_hash).output for made in it.received]

    def take_back() -> None:
        if not sleepy and not taken_back[0]:
            it.reorganise(rng.randint(1, DEEPEST))
            taken_back[0] = True

    acts: list[Callable[[], object]] = [
        lambda: it.tries(it.commit(rng.choice(it.received))),
        lambda: it.would_mine(it.commit(rng.choice(it.received))),
        lambda: it.tries(it.commit(made := rng.choice(it.received)), it.child(it.drafted(made), rng.randint(2, 60))),
        lambda: it.tries(it.child(it.drafted(rng.choice(it.received)), rng.randint(2, 80))),
        lambda: it.tries(it.child(it.honest_commit(), rng.randint(2, 40))),
        lambda: it.tries(it.elsewhere(rng.randint(2, 99))),
        lambda: it.faucet(rng.choice(scripts), rng.choice((546, 2000)), rng.choice(("XCP", JUNK)), rng.randint(0, 9)),
        take_back,
    ]

    def also() -> None:
        it.rob()
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            with contextlib.suppress(IndexError, ValueError):  # nothing is there to be spent
                rng.choice(acts)()

    def sleep() -> None:
        if sleepy and it.tip + DELAY < it.honest_deadline:
            it.mine(rng.randrange(DELAY // 2))

    it.settle("a storm", also, sleep)
    return "punished, or settled"


# Dust and assets ----------------------------------------------------------------------------------------------------


def dust_and_assets(it: Duel) -> str:
    """Dust and other assets come to all addresses of a channel, before and after the cheat."""
    stolen = it.dealt()
    scripts = {
        "D": it.duplex.receiving.contract.deposit.output,
        "C": it.duplex.receiving.contract.commit_script(stolen.revoke_hash).output,
        "own D": it.duplex.sending.contract.deposit.output,
    }
    had = it.held(asset=JUNK)
    for script in it.rng.sample(list(scripts.values()), 2):
        it.faucet(script, 600, JUNK, 7)
    it.tries(it.commit(stolen))
    it.act()
    it.mine()
    for script in scripts.values():
        it.faucet(script, it.rng.choice((546, 3000)), JUNK, 5)
    it.act()
    it.mine()  # else a fee spike drops from the mempool what the strangers pay
    it.settle("dust and other assets", lambda: it.rob(stolen))
    it.result.hold(it.held(asset=JUNK) - had >= 10, "other assets did not come home from D and the punished C")
    return "punished; other assets come home in turn"


def dust_without_end(it: Duel) -> str:
    """So much dust on all addresses that nobody lists it, before and after a revoked commit."""
    stolen = it.dealt()
    side = it.duplex.receiving.contract
    for number in range(FLOOD):
        for script in (side.deposit.output, side.commit_script(stolen.revoke_hash).output):
            it.faucet(script, 546)
        if number == FLOOD // 2:
            it.mine()
            it.tries(it.commit(stolen))
            it.act()
    it.settle("dust without end", lambda: it.rob(stolen))
    return "found by outpoint, punished first"


BOTH = (
    revoked_at_once,
    revoked_with_a_child,
    revoked_at_the_last_block,
    revoked_with_its_payout_waiting,
    revoked_as_fees_rise,
    punishment_cycled_away,
    punishment_reorganised,
    revoked_while_it_is_given_back,
    revoked_at_the_expiry,
    lower_and_higher,
    commit_never_paid_out,
    commit_that_is_stuck,
    commit_against_the_expiry,
    commit_cycled_away,
    commit_pinned,
    half_that_was_evicted,
    commit_reorganised,
    revoked_after_what_counts,
    storm,
    dust_and_assets,
    dust_without_end,
)
