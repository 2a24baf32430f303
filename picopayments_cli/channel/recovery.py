"""Decide what either party does now to have its own back, as tasks that wait for coins.

Everything follows of what the chain shows, so that each task bears repetition, a restart, and a reorganisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.drafts import DUST, Draft, Output, by_payer
from picopayments_cli.channel.facts import Facts, Kind, Known, Paid, Paying, Seen, Sent, Side, Spend, feefrac_of
from picopayments_cli.channel.fees import FETCH_BLOCKS, NOTHING, PATIENCE, FeeFrac, chunks, may_raise
from picopayments_cli.channel.rates import Urgency
from picopayments_cli.channel.reserve import Chore
from picopayments_cli.channel.scripts import P2A
from picopayments_cli.channel.state import Signed
from picopayments_cli.channel.steps import Around, Means, Name, Step, Task, Wait, alone, raised
from picopayments_cli.channel.transactions import (
    MAX_COINS,
    Contract,
    compose_close,
    compose_commit,
    compose_payout,
    compose_remainder,
    compose_rest,
    expire_shape,
    has_rest,
    revoke_shape,
)
from picopayments_cli.channel.values import Coin, Outpoint

LEISURE = Urgency(None, 1)  # nothing is lost by waiting


@dataclass(frozen=True)
class Case:
    """One channel, as one of its parties stands in it. ``label`` names it to the caller.

    ``closing``: the connection is stopped; ``since``: the tip at which it was. ``home``: whether one's own wallet's
    address takes sends without a memo. ``stale``: one's newest state may be missing: of the commits held the highest
    may have been given back.
    """

    label: str
    side: Side
    facts: Facts
    expiry: Expiry
    closing: bool = False
    since: int | None = None
    home: bool = True
    stale: bool = False

    @property
    def contract(self) -> Contract:
        """Return what was agreed on."""
        return self.side.contract

    @property
    def waited(self) -> int:
        """Blocks since the connection was stopped; where nobody knows when, long enough."""
        return PATIENCE if self.since is None else max(self.facts.tip - self.since, 0)

    def own(self, seen: Seen | None) -> Sent | None:
        """Return what one has sent oneself, where this is it."""
        return next((sent for sent in self.side.sent if seen is not None and sent.txid == seen.txid), None)

    def last(self, spends: Outpoint, there: Seen | None = None) -> int:
        """The highest fee of one's own transactions that spend an outpoint and are not there any more."""
        gone = (sent for sent in self.side.sent if sent.spends == spends and (there is None or sent.txid != there.txid))
        return max((sent.feefrac.fee for sent in gone), default=0)

    def freed(self, seen: Seen | None) -> tuple[Coin, ...]:
        """The coins that are free again once what is there is replaced."""
        sent = self.own(seen)
        return () if sent is None else sent.coins

    def feefrac(self, seen: Seen | None) -> FeeFrac | None:
        """Fee and size of what is in the mempool, where they are known."""
        sent = self.own(seen)
        return None if seen is None else seen.feefrac or (sent.feefrac if sent else None)


def tasks(case: Case) -> tuple[Task, ...]:
    """All that a party does now for a channel."""
    facts = case.facts
    if case.side.anchor is not None and facts.spend is None and not facts.funded:
        return tuple(_deposit_again(case))
    if isinstance(case.side, Paid):
        return tuple(_of_payee(case, case.side))
    return tuple(_of_payer(case, case.side))


def _deposit_again(case: Case) -> Iterator[Task]:
    """The deposit, where a reorganisation took it away; before it is mined nothing can spend it."""
    raw = case.side.deposit
    if case.facts.deposit is None and raw is not None:
        left = case.expiry.left(case.facts.tip)
        yield _ready(Step(case.label, Name.DEPOSIT, Chore.CLOSE, left, raw=raw))


# The payee ----------------------------------------------------------------------------------------------------------


def _of_payee(case: Case, side: Paid) -> Iterator[Task]:
    facts, spend = case.facts, case.facts.spend
    if spend is not None and spend.seen.height is not None:
        if spend.kind is Kind.COMMIT and spend.known is not None:
            yield from _payout(case, spend, spend.known)
        elif spend.kind is Kind.UNKNOWN:
            yield _ready(Step(case.label, Name.COMMIT, Chore.CLOSE, waits=Wait.UNKNOWN))
        return
    urgency = _settling(case, side)
    item = None if spend is None else spend.known
    if spend is not None and item is not None and (item.kind is Kind.COMMIT or item.quantity >= side.least):
        yield _raise_parent(case, spend, item, urgency)
        return
    if case.closing or spend is not None or facts.tip >= case.expiry.settle_height:
        yield from _settle(case, side, urgency)


def _settling(case: Case, side: Paid) -> Urgency:
    best = side.best.quantity if side.best else 0
    return Urgency(case.expiry.left(case.facts.tip), case.expiry.margin, best, case.contract.quantity)


def _settle(case: Case, side: Paid, urgency: Urgency) -> Iterator[Task]:
    """The agreed close where it is whole, else after some blocks, or at the margin, the own commit.

    One that may have been given back at the margin only: then there is nothing to lose any more. Who owes something of
    it waits as long for the payer to come for that as for one that fetches payments.
    """
    best, anchor, spend = side.best, side.anchor, case.facts.spend
    if anchor is None:
        return
    least = side.least if best else 1
    whole = [item for item in side.counters if item.signature is not None and item.quantity >= least]
    if whole and case.home:
        counter = max(whole, key=lambda item: item.quantity)
        draft = compose_close(case.contract, anchor, counter.quantity)
        yield _publish(case, Name.CLOSE, draft, counter.signature or b"", urgency)
        return
    agreed = any(item.quantity >= side.least for item in side.counters)
    patience = _patience(case, side) if agreed or side.owed else 0
    late = case.facts.tip >= case.expiry.settle_height
    hurried = spend is not None or not case.home or late
    if best is not None and (late or not case.stale) and (hurried or case.waited >= patience):
        draft = compose_commit(case.contract, anchor, best.quantity, best.revoke_hash)
        yield _publish(case, Name.COMMIT, draft, best.signature, urgency)


def _patience(case: Case, side: Paid) -> int:
    """For how many blocks a payee leaves it to the agreed close: longer where it owes, and well before the margin.

    At the margin many may have to settle, one after the other.
    """
    since = case.since
    comes = side.owed and since is not None and since + FETCH_BLOCKS <= case.expiry.settle_height
    return FETCH_BLOCKS if comes else PATIENCE


def _payout(case: Case, spend: Spend, item: Known) -> Iterator[Task]:
    """The payout of the own commit, as soon as a block may hold it."""
    if item.commit is None or item.revoke_hash is None or spend.seen.depth(case.facts.tip) < case.contract.delay:
        return
    draft = compose_payout(case.contract, item.draft, item.revoke_hash)
    yield from _collect(case, Name.PAYOUT, draft, item.commit.payout_signature, spend.first)


# The payer ----------------------------------------------------------------------------------------------------------


def _of_payer(case: Case, side: Paying) -> Iterator[Task]:
    spend = case.facts.spend
    mined = spend is not None and spend.seen.height is not None
    if spend is None:
        if side.anchor is not None and side.closings and case.closing:
            yield from _close(case, side, side.anchor)
            return
    elif spend.known is not None:
        yield from _after(case, spend, spend.known, mined=mined)
    elif spend.kind is Kind.UNKNOWN:
        yield _ready(Step(case.label, Name.EXPIRE, Chore.COLLECT, waits=Wait.UNKNOWN))
    if case.facts.tip >= case.contract.deposit.height and not _pays(case, spend):
        yield from _expire(case, side)


def _pays(case: Case, spend: Spend | None) -> bool:
    """Whether what the payee has a right to is on its way: it is let pass, as long again as the payee had to settle.

    Later it is an obstacle, which pays too little for a block and which nobody raises.
    """
    if spend is None or spend.seen.height is not None or spend.kind not in (Kind.COMMIT, Kind.CLOSE):
        return False
    return case.facts.tip < case.contract.deposit.height + case.expiry.margin


def _after(case: Case, spend: Spend, item: Known, *, mined: bool) -> Iterator[Task]:
    """Return what a published commit or close leaves to the payer."""
    if item.kind is Kind.REVOKED and item.signed is not None:
        yield from _punish(case, spend, item, item.signed)
    if item.kind is Kind.CLOSE and not mined and may_raise(payer=True, waited=case.waited):
        yield _raise_parent(case, spend, item, LEISURE)
    if mined and not (spend.third is None and case.facts.tip >= case.contract.deposit.height):
        yield from _left_over(case, spend, item)


def _close(case: Case, side: Paying, anchor: Coin) -> Iterator[Task]:
    """The agreed close that leaves the payer the most."""
    closing = min(side.closings, key=lambda item: item.quantity)
    draft = compose_close(case.contract, anchor, closing.quantity)
    if closing.quantity == 0 and not case.home:
        yield _ready(Step(case.label, Name.CLOSE, Chore.CLOSE, waits=Wait.MEMO))
        return
    raising = may_raise(payer=True, waited=case.waited)
    yield _publish(case, Name.CLOSE, draft, closing.signature, LEISURE, raising=raising)


def _left_over(case: Case, spend: Spend, item: Known) -> Iterator[Task]:
    """The remainder of a mined commit, or the rest of a mined close, where the payee has signed it."""
    if item.kind is Kind.CLOSE:
        if item.closing is not None and has_rest(case.contract, item.quantity):
            draft = compose_rest(case.contract, item.draft)
            yield from _collect(case, Name.REST, draft, item.closing.rest_signature or b"", spend.third)
    elif item.signed is not None and item.signed.remainder is not None:
        draft = compose_remainder(case.contract, item.draft)
        yield from _collect(case, Name.REMAINDER, draft, item.signed.remainder, spend.third)


def _punish(case: Case, spend: Spend, item: Known, signed: Signed) -> Iterator[Task]:
    """The revoke of a published commit: at once, and until it is mined; then what strangers left on its address."""
    facts, first, contract = case.facts, spend.first, case.contract
    if first is not None and first.height is not None:
        yield from _strays(case, signed)
        return
    depth = spend.seen.depth(facts.tip)
    left = max(contract.delay - depth, 0)
    urgency = Urgency(left, contract.delay, item.quantity, contract.quantity)
    step = Step(case.label, Name.REVOKE, Chore.PUNISH, left, secret=signed.secret)
    if not case.home and 2 * left > contract.delay:
        yield _ready(replace(step, waits=Wait.MEMO))
        return
    shape = revoke_shape(contract, item.draft.coin(0), signed.revoke_hash, contract.asset_id)
    parent = NOTHING if depth else spend.seen.feefrac or feefrac_of(item.draft)
    mine, rivals = _revoke_feefracs(case, spend, depth)
    last = case.last(Outpoint(spend.seen.txid, 0), first)
    around = Around(mine, parent=parent, rivals=rivals, last=last, freed=case.freed(first))
    yield Task(Chore.PUNISH, left, lambda means: alone(step, shape, means, urgency, around))


def _revoke_feefracs(case: Case, spend: Spend, depth: int) -> tuple[FeeFrac | None, tuple[FeeFrac, ...]]:
    """One's own revoke in the mempool, and what it has to take the place of: a payout, or the commit's other child.

    Before the delay is over nothing but a revoke can spend the commit.
    """
    first, sibling = spend.first, spend.seen.child
    if first is not None and (case.own(first) is not None or depth < case.contract.delay):
        return case.feefrac(first), ()
    if first is not None:
        return None, _chunks(first)
    if depth == 0 and sibling is not None and sibling.feefrac is not None:
        return None, (sibling.feefrac,)
    return None, ()


def _chunks(seen: Seen) -> tuple[FeeFrac, ...]:
    child = seen.child.feefrac if seen.child is not None else None
    return () if seen.feefrac is None else chunks(seen.feefrac, child)


def _strays(case: Case, signed: Signed) -> Iterator[Task]:
    """Assets on a punished commit's address, one after the other; bitcoins alone stay: dust drains nobody."""
    contract, assets = case.contract, case.facts.punished_assets or ()
    script = contract.commit_script(signed.revoke_hash)
    listed = case.facts.punished_coins or ()
    coins = sorted((coin for coin in listed if coin.height is not None), key=lambda coin: -coin.value)
    for asset, coin in zip(_ordered(contract, assets), coins, strict=False):
        shape = revoke_shape(contract, coin, signed.revoke_hash, asset)
        step = Step(case.label, Name.REVOKE, Chore.COLLECT, secret=signed.secret)
        yield _alone(case, step, shape)
    if assets and case.facts.punished_coins == ():
        yield _coin(case, script.output)


def _alone(case: Case, step: Step, shape: Draft) -> Task:
    """A transaction that nobody else can make, and that has time."""
    if not case.home:
        return _ready(replace(step, waits=Wait.MEMO))
    return Task(step.chore, None, lambda means: alone(step, shape, means, LEISURE, Around()))


def _coin(case: Case, script: bytes) -> Task:
    """A coin for an asset that lies on an address without one."""
    step = Step(case.label, Name.COIN, Chore.COLLECT)

    def make(means: Means) -> Step:
        change = Output(DUST, means.purse.script)
        return alone(step, Draft((), (change, Output(DUST, script))), means, LEISURE, Around())

    return _ready(replace(step, waits=Wait.MEMO)) if not case.home else Task(Chore.COLLECT, None, make)


# The expiry ---------------------------------------------------------------------------------------------------------


def _expire(case: Case, side: Paying) -> Iterator[Task]:
    """Take what lies on the deposit's address: a coin for each asset, the channel's first, the rest with the last."""
    facts, contract = case.facts, case.contract
    own, mine = _own_coin(case, side)
    listed = [coin for coin in facts.coins or () if coin.height is not None]
    others = sorted((c for c in listed if own is None or c.outpoint != own.outpoint), key=lambda c: -c.value)
    coins = [*((own,) if own is not None else ()), *others]
    step = Step(case.label, Name.EXPIRE, Chore.COLLECT)
    held = facts.assets if facts.assets is not None and mine is None else (contract.asset_id,)
    assets = _ordered(contract, held)
    if not assets:
        yield from _sweep(case, step, coins)
        return
    if not coins and facts.coins == () and not _leaving(facts.spend):
        yield _coin(case, contract.deposit.output)
    count = min(len(assets), len(coins))
    for number in range(count):
        last = number == count - 1
        yield _expiring(case, step, coins[number:] if last else coins[number : number + 1], assets[number], mine)
        mine = None


def _expiring(case: Case, step: Step, coins: Sequence[Coin], asset_id: int, mine: Seen | None) -> Task:
    """The expiry of coins at the rate of the day: beside the first, only those that bring more than they cost."""
    first, others = coins[0], coins[1:MAX_COINS]
    if not case.home:
        return _ready(replace(step, waits=Wait.MEMO))
    last = case.last(first.outpoint, mine) if mine is not None else 0
    spend = case.facts.spend
    rivals = _chunks(spend.seen) if spend is not None and spend.seen.height is None and mine is None else ()
    around = Around(case.feefrac(mine), rivals=rivals, last=last, freed=case.freed(mine))

    def make(means: Means) -> Step:
        rate = means.aimed(LEISURE).rate
        shape = expire_shape(case.contract, [first, *_worth(case.contract, others, rate)], asset_id)
        return alone(step, shape, means, LEISURE, around)

    return Task(step.chore, None, make)


def _sweep(case: Case, step: Step, coins: Sequence[Coin]) -> Iterator[Task]:
    """Bitcoins alone, where they bring more than they cost."""

    def make(means: Means) -> Step:
        shape = _swept(case.contract, coins, means.aimed(LEISURE).rate)
        if shape is None:
            return step
        return alone(step, shape, replace(means, purse=replace(means.purse, coins=())), LEISURE, Around())

    if coins and case.home:
        yield Task(step.chore, None, make)


def _swept(contract: Contract, coins: Sequence[Coin], rate: int) -> Draft | None:
    """The expiry of bitcoins alone, where they pay for it and for an output that is relayed."""
    worth = _worth(contract, coins, rate)[:MAX_COINS]
    shape = expire_shape(contract, worth, contract.asset_id) if worth else None
    return shape if shape is not None and shape.fee >= rate * shape.size else None


def _worth(contract: Contract, coins: Sequence[Coin], rate: int) -> list[Coin]:
    """The coins on the deposit's address that bring more than they cost at a rate."""
    return [coin for coin in coins if 4 * coin.value > rate * by_payer(coin, contract.deposit.expire).weight]


def _own_coin(case: Case, side: Paying) -> tuple[Coin | None, Seen | None]:
    """The channel's own coin on the deposit's address, and one's own expiry of it where that is in the mempool."""
    spend, anchor = case.facts.spend, side.anchor
    if spend is None:
        return (anchor, None) if case.facts.funded else (None, None)
    if spend.seen.height is None:
        return anchor, spend.seen if spend.kind is Kind.EXPIRE else None
    item, third = spend.known, spend.third
    if item is None or (item.kind is Kind.CLOSE and not has_rest(case.contract, item.quantity)):
        return None, None
    if third is not None and (case.own(third) is None or third.height or third.txid == _signed_by_both(case, item)):
        return None, None  # it is gone, or on its way
    return item.draft.coin(2), third


def _signed_by_both(case: Case, item: Known) -> bytes:
    """The txid of the remainder or the rest."""
    compose = compose_rest if item.kind is Kind.CLOSE else compose_remainder
    return compose(case.contract, item.draft).txid


def _leaving(spend: Spend | None) -> bool:
    """Whether what is in the mempool may be what takes an asset, or brings a coin."""
    if spend is None:
        return False
    return any(seen is not None and seen.height is None for seen in (spend.seen, spend.third))


def _ordered(contract: Contract, assets: Sequence[int]) -> list[int]:
    """Assets in the order in which they come home: the channel's first."""
    return sorted(assets, key=lambda asset: (asset != contract.asset_id, asset))


# Publishing ---------------------------------------------------------------------------------------------------------


def _ready(step: Step) -> Task:
    return Task(step.chore, step.left, lambda _means: step)


def _publish(case: Case, name: Name, draft: Draft, half: bytes, urgency: Urgency, *, raising: bool = True) -> Task:
    """A commit or a close, with the child that raises it; it takes the place of whatever else spends the anchor."""
    spend, index = case.facts.spend, _p2a(draft)
    rivals = () if spend is None else _chunks(spend.seen)
    step = Step(case.label, name, Chore.CLOSE, urgency.left, draft=draft, half=half)
    around = Around(rivals=rivals, last=case.last(Outpoint(draft.txid, index)))
    if not raising:
        return _ready(step)
    return Task(Chore.CLOSE, urgency.left, lambda means: raised(step, draft, index, means, urgency, around))


def _raise_parent(case: Case, spend: Spend, item: Known, urgency: Urgency) -> Task:
    """A child for the commit or the close that is in the mempool, whoever raised it before."""
    name = Name.CLOSE if item.kind is Kind.CLOSE else Name.COMMIT
    step = Step(case.label, name, Chore.CLOSE, urgency.left)
    return _raise(case, step, item.draft, _p2a(item.draft), spend.seen, urgency)


def _collect(case: Case, name: Name, draft: Draft, half: bytes, seen: Seen | None) -> Iterator[Task]:
    """A payout, a remainder or a rest: published, or raised by a child of one's own output."""
    step = Step(case.label, name, Chore.COLLECT)
    if seen is not None:
        if seen.height is None and seen.txid == draft.txid:
            yield _raise(case, step, draft, 0, seen, LEISURE)
    elif not case.home:
        yield _ready(replace(step, waits=Wait.MEMO))
    else:
        ready, around = replace(step, draft=draft, half=half), Around(last=case.last(Outpoint(draft.txid, 0)))
        yield Task(step.chore, None, lambda means: raised(ready, draft, 0, means, LEISURE, around))


def _raise(case: Case, step: Step, parent: Draft, index: int, seen: Seen, urgency: Urgency) -> Task:
    last = case.last(Outpoint(parent.txid, index), seen.child)
    around = Around(seen.feefrac, case.feefrac(seen.child), last=last, freed=case.freed(seen.child))
    return Task(step.chore, step.left, lambda means: raised(step, parent, index, means, urgency, around))


def _p2a(draft: Draft) -> int:
    return next(number for number, out in enumerate(draft.outputs) if out.script == P2A)


# The end ------------------------------------------------------------------------------------------------------------


def is_over(case: Case, safe_depth: int, rate: int) -> bool:
    """Whether a channel holds nothing more for this party, finally; at ``rate`` a coin is worth its fee or not."""
    if isinstance(case.side, Paid):
        return _is_paid(case, case.side, safe_depth)
    return _is_home(case, case.side, safe_depth, rate)


def _is_paid(case: Case, side: Paid, safe_depth: int) -> bool:
    """The payee: its payout is buried, or something else that spent the anchor is; what comes to C later is nothing."""
    facts, spend = case.facts, case.facts.spend
    if not side.active and not any(counter.quantity for counter in side.counters):
        return True
    if spend is None:
        return not facts.funded and facts.tip >= case.contract.deposit.height + safe_depth
    if spend.seen.depth(facts.tip) < safe_depth:
        return False
    paid_out = spend.first
    return spend.kind is not Kind.COMMIT or (paid_out is not None and paid_out.depth(facts.tip) >= safe_depth)


def _is_home(case: Case, side: Paying, safe_depth: int, rate: int) -> bool:
    """The payer: nothing that is worth its fee is left on the deposit's address, and a punished commit's is empty."""
    facts, spend = case.facts, case.facts.spend
    if side.anchor is None and side.deposit is None:
        return True
    if facts.assets != () or facts.coins is None or _swept(case.contract, facts.coins, rate) is not None:
        return False
    if spend is None:
        return not facts.funded and facts.tip >= case.contract.deposit.height + safe_depth
    ends = [spend.seen, *((spend.third,) if spend.third is not None else ())]
    if spend.kind is Kind.REVOKED:
        if spend.first is None or facts.punished_assets != ():
            return False
        ends.append(spend.first)
    return all(seen.depth(facts.tip) >= safe_depth for seen in ends)
