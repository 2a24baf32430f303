"""Two parties of one channel on a chain in memory, and an honest one that takes its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from channel_support import ASSET, PAYEE, PAYEE_WALLET, PAYER, PAYER_WALLET, SEGWIT, hashed, secret, segwit
from tiny_chain_support import Refused, TinyChain

from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.drafts import DUST, Draft, Input, Output
from picopayments_cli.channel.facts import Counter, Paid, Paying, Sent, Side
from picopayments_cli.channel.halves import Commit, sign_close, sign_commit, sign_remainder
from picopayments_cli.channel.rates import Bounds, Rate
from picopayments_cli.channel.recovery import Case, is_over, tasks
from picopayments_cli.channel.reserve import Reserve
from picopayments_cli.channel.scripts import P2A
from picopayments_cli.channel.state import Signed
from picopayments_cli.channel.steps import Means, Name, Step, plan
from picopayments_cli.channel.transactions import Contract, compose_commit, compose_deposit
from picopayments_cli.channel.values import Coin, Quantity

START = 899_000
EXPIRY = Expiry(900_000, 1_000)
CONTRACT = replace(SEGWIT, delay=14)
Q = CONTRACT.quantity
BOUNDS = Bounds(1, 50)
WORTH = 60_000
PAYER_SCRIPT, PAYEE_SCRIPT = segwit(PAYER_WALLET), segwit(PAYEE_WALLET)
CHEAT = segwit(PAYEE)  # where a cheat keeps its own bitcoins


@dataclass
class Party:
    """A party that looks at the chain and acts; ``rate``: what its node believes."""

    chain: TinyChain
    side: Side
    script: bytes
    closing: bool = False
    since: int | None = None
    home: bool = True
    rate: int = 1
    reserve: Reserve = field(default_factory=lambda: Reserve(0, 0))
    label: str = "channel"
    expiry: Expiry = EXPIRY
    safe_depth: int = 7
    by_outpoint: bool = True

    @property
    def case(self) -> Case:
        facts = self.chain.facts(self.side, closing=self.closing, by_outpoint=self.by_outpoint)
        return Case(self.label, self.side, facts, self.expiry, self.closing, self.since, self.home)

    @property
    def means(self) -> Means:
        purse = Purse(self.script, self.chain.coins(self.script), 1)
        return Means(purse, Rate(self.rate, guess=False), BOUNDS, self.reserve)

    def steps(self) -> tuple[Step, ...]:
        return plan(tasks(self.case), self.means)

    def act(self) -> tuple[Step, ...]:
        """Take every step there is; what the mempool refuses is tried again at the next look."""
        steps = self.steps()
        for step in steps:
            self.publish(step)
        return steps

    def publish(self, step: Step) -> bool:
        drafts = [draft for draft in (step.draft, step.child) if draft is not None]
        new = [draft for draft in drafts if draft.txid not in self.chain.items]
        try:
            self.chain.submit(*drafts)
        except Refused:
            return False
        self.side = replace(self.side, sent=(*self.side.sent, *(Sent.of(draft, draft.txid) for draft in new)))
        return True

    def over(self) -> bool:
        return is_over(self.case, self.safe_depth, self.rate)

    @property
    def balance(self) -> int:
        return self.chain.held(self.script, ASSET)


def funded_chain(contract: Contract = CONTRACT, coins: int = 6) -> tuple[TinyChain, Coin]:
    """A chain on which a channel's deposit is buried, and both wallets have coins."""
    chain = TinyChain(START)
    chain.grant(contract.payer_wallet, ASSET, contract.quantity)
    for script in (contract.payer_wallet, contract.payee_wallet):
        for _ in range(coins):
            chain.fund(script, WORTH)
    chain.submit(compose_deposit(contract, Purse(contract.payer_wallet, chain.coins(contract.payer_wallet), 2)))
    (txid,) = chain.items
    for _ in range(7):
        chain.mine()
    anchor = chain.items[txid].draft.coin(0)
    return chain, anchor


def commits_of(anchor: Coin, quantities: Sequence[int], contract: Contract = CONTRACT) -> tuple[Commit, ...]:
    return tuple(sign_commit(contract, anchor, Quantity(q), hashed(f"commit {q}"), PAYER) for q in quantities)


def paying(anchor: Coin, quantities: Sequence[int], revoked: Sequence[int] = (), *, remainders: bool = True) -> Paying:
    """The payer's side; the payee gave the revoked ones back."""
    signed = tuple(
        Signed(
            commit.quantity,
            commit.revoke_hash,
            sign_remainder(CONTRACT, anchor, commit, PAYEE).signature if remainders else None,
            secret(f"commit {commit.quantity}") if commit.quantity in revoked else None,
        )
        for commit in commits_of(anchor, quantities)
    )
    return Paying(CONTRACT, anchor, signed)


def paid(anchor: Coin, quantities: Sequence[int]) -> Paid:
    return Paid(CONTRACT, anchor, commits_of(anchor, quantities))


def honest_payer(quantities: Sequence[int], revoked: Sequence[int] = (), **options: bool) -> Party:
    chain, anchor = funded_chain()
    return Party(chain, paying(anchor, quantities, revoked, **options), PAYER_SCRIPT, closing=True, since=chain.tip)


def honest_payee(quantities: Sequence[int]) -> Party:
    chain, anchor = funded_chain()
    return Party(chain, paid(anchor, quantities), PAYEE_SCRIPT, closing=True, since=chain.tip)


def agreed(payer: Party, quantity: int) -> None:
    """Have the payee sign a close with the payer."""
    assert isinstance(payer.side, Paying)
    assert payer.side.anchor is not None
    payer.side = replace(payer.side, closings=(sign_close(CONTRACT, payer.side.anchor, quantity, PAYEE),))


def countered(payee: Party, quantity: int, *, whole: bool = True) -> None:
    """Have the payee sign a close, and hold the payer's signature where it is ``whole``."""
    assert isinstance(payee.side, Paid)
    payee.side = replace(payee.side, counters=(Counter(quantity, bytes(64) if whole else None),))


def commit_draft(anchor: Coin, quantity: int) -> Draft:
    return compose_commit(CONTRACT, anchor, quantity, hashed(f"commit {quantity}"))


def junk_child(chain: TinyChain, parent: Draft, fee: int) -> Draft:
    """A child on the P2A output, as anybody can make one."""
    index = next(n for n, out in enumerate(parent.outputs) if out.script == P2A)
    coin = chain.fund(CHEAT, fee + DUST)
    value = parent.coin(index).value + coin.value - fee
    return Draft((Input(parent.coin(index)), Input(coin)), (Output(value, CHEAT),), parent.version)


# What tests say ------------------------------------------------------------------------------------------------------


def anchor_of(party: Party) -> Coin:
    assert party.side.anchor is not None
    return party.side.anchor


def names(party: Party) -> list[Name]:
    return [step.name for step in party.steps()]


def run(party: Party, blocks: int, rate: int = 1) -> None:
    """The party acts before each block."""
    for _ in range(blocks):
        party.act()
        party.chain.mine(rate)


def run_to(party: Party, height: int) -> None:
    """Empty blocks, in which nothing can happen to the channel, and then the party acts once."""
    party.chain.tip = max(party.chain.tip, height)
    party.act()


def finish(party: Party, blocks: int = 80) -> None:
    """Until the channel is over."""
    for _ in range(blocks):
        run(party, 1)
        if party.over():
            return
    raise AssertionError(f"not over: {party.case.facts}")


def cheat(party: Party, quantity: int, child_fee: int = 0) -> Draft:
    """Have the payee publish a commit."""
    commit = commit_draft(anchor_of(party), quantity)
    party.chain.submit(commit, *([junk_child(party.chain, commit, child_fee)] if child_fee else []))
    return commit
